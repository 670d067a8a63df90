"""The same numbers on one device, on several and along an axis name."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from normlab.testing.layer import ORDINARY, SHAPE, LayerUnderTest, Step, compiled, draw
from normlab.testing.result import Result, measured, skipped, worst


def check_sharded(subject: LayerUnderTest) -> list[Result]:
    """Plain jit over a batch that lies on several devices gives what one device gives."""
    name, devices = "a batch on several devices", jax.devices()
    count = max(n for n in (1, 2, 4, 8) if n <= len(devices))
    if count == 1:
        return [skipped(name, "there is one device")]
    mesh = Mesh(np.array(devices[:count]), ("batch",))
    x, cotangent = draw(mean=3.0), draw(seed=1)
    split = NamedSharding(mesh, PartitionSpec("batch"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    given = jax.device_put((x, cotangent), split)
    found = subject.step(jax.device_put(subject.moved, everywhere), *given)
    figure = worst(found, subject.step(subject.moved, x, cotangent))
    return [measured(f"a batch on {count} devices", figure, ORDINARY)]


def check_axis_name(subject: LayerUnderTest) -> list[Result]:
    """With axis_name, a batch in parts under vmap gives what the whole batch gives."""
    name = "axis_name under vmap"
    if "axis_name" not in subject.row.arguments:
        return [skipped(name, "the row has no such argument")]
    x, cotangent = draw(mean=3.0), draw(seed=1)
    step = subject.make_step(axis_name="parts")
    mapped = compiled(jax.vmap(step, (None, 0, 0), axis_name="parts"))

    def split(v: np.ndarray) -> np.ndarray:
        return v.reshape(2, SHAPE[0] // 2, *SHAPE[1:])

    parts: Any = mapped(subject.moved, split(x), split(cotangent))
    found = Step(
        parts.y.reshape(SHAPE),
        jax.tree.map(lambda v: v[0], parts.state),
        jax.tree.map(lambda v: v.sum(0), parts.slopes),
        parts.dx.reshape(SHAPE),
    )
    return [measured(name, worst(found, subject.step(subject.moved, x, cotangent)), ORDINARY)]
