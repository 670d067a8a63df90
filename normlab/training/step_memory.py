"""What a training step keeps for its backward pass, counted in its trace; nothing runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from normlab.data import Dataset
from normlab.models.build import build_model
from normlab.settings import Config, program_key
from normlab.training.program import has_text, input_shape
from normlab.training.state import Hyper, TrainState, init_state
from normlab.training.step import Batch, batch_loss

VIEWS = ("broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose")
"""What moves or repeats values. A compiler does that where it reads them."""


def step_bytes(configs: dict[str, Config], dataset: Dataset) -> dict[str, int]:
    """Return for each arm the bytes that the backward pass of one run's step needs.

    These are the values that reverse-mode differentiation (jax.vjp) saves in the forward pass of
    the loss of a batch, each counted once. Parameters, state and the batch are not counted, nor
    constants, nor a value that only repeats or moves another one. A compiler can compute some
    values again, or keep others. So this is what training has to keep as it is written, without
    optimizer and temporary values, and not the measured peak of a process.
    """
    shape, classes = dataset.shape, dataset.classes
    return {
        arm: _step_bytes(program_key(config), shape, classes) for arm, config in configs.items()
    }


@functools.cache
def _step_bytes(key: tuple, shape: tuple[int, ...], classes: int) -> int:
    config = dict(key)
    net = build_model(config, classes, "lax")
    batch = config["data.batch"]
    size = (batch, *input_shape(config, shape))
    x = jax.ShapeDtypeStruct(size, jnp.int32 if has_text(config) else jnp.float32)
    y = jax.ShapeDtypeStruct((batch,), jnp.int32)
    hyper = Hyper(0, 0.1, 0.9, 0.0, 1.0)
    state = jax.eval_shape(lambda x: init_state(net, config["optim.name"], hyper, x), x)

    def residuals(state: TrainState, x: jax.Array, y: jax.Array) -> list[Any]:
        def loss(params):
            return batch_loss(net, params, state, Batch(x, y, jnp.ones(())))

        return jax.tree.leaves(jax.vjp(loss, state.params, has_aux=True)[1])

    return saved_bytes(jax.make_jaxpr(residuals)(state, x, y).jaxpr)


def saved_bytes(jaxpr: Jaxpr) -> int:
    """Return the bytes of the distinct results of `jaxpr`, but for inputs and constants."""
    inputs = [Value(v.aval) for v in jaxpr.invars]
    kept = {value for value in _results(jaxpr, inputs) if value} - {*inputs}
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in kept)


@dataclass(frozen=True, eq=False)
class Value:
    """A value that is computed; as a constant or a view of another it is no value of its own."""

    aval: Any


def _results(jaxpr: Jaxpr, inputs: Sequence[Value | None]) -> list[Value | None]:
    """Return the values of the results of `jaxpr`, None for constants."""
    known: dict[Any, Value | None] = dict(zip(jaxpr.invars, inputs, strict=True))

    def look_up(variables: Sequence[Any]) -> list[Value | None]:
        return [None if isinstance(v, Literal) else known.get(v) for v in variables]

    for equation in jaxpr.eqns:
        read, name = look_up(equation.invars), equation.primitive.name
        if name == "jit":
            found = _results(equation.params["jaxpr"].jaxpr, read)
        elif not any(read):
            found = [None] * len(equation.outvars)
        else:
            found = read[:1] if name in VIEWS else [Value(v.aval) for v in equation.outvars]
        known |= zip(equation.outvars, found, strict=True)
    return look_up(jaxpr.outvars)
