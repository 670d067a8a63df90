"""What a step keeps for its backward pass: by hand, and as jax prints it."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import print_saved_residuals

from normlab.models.build import build_model
from normlab.settings import defaults
from normlab.training.state import Hyper, init_state
from normlab.training.step import Batch, batch_loss
from normlab.training.step_memory import saved_bytes, step_bytes

BATCH, WIDTH, CLASSES = 8, 12, 10
DATA: Any = SimpleNamespace(shape=(4, 4, 1), classes=CLASSES)
MLP = defaults() | {"data.batch": BATCH, "model.widths": (WIDTH,), "model.act": "relu"}
HIDDEN = 4 * BATCH * WIDTH
LOSS = 4 * BATCH * CLASSES + (4 + 4 + 1) * BATCH
"""exp(logits), and for each example its label, the sum of exp and whether that is positive."""
ACTIVATED = HIDDEN + HIDDEN // 4
"""What relu returns, which the next kernel's gradient reads, and where it was positive."""
BY_HAND = {
    "none": ACTIVATED + LOSS,
    # The input, and a mean as shift + delta, a variance, a count and a factor for each channel ...
    "batch": ACTIVATED + LOSS + HIDDEN + 5 * 4 * WIDTH,
    # ... or for each example.
    "layer": ACTIVATED + LOSS + HIDDEN + 5 * 4 * BATCH,
    "affine": ACTIVATED + LOSS + HIDDEN,
}


def test_one_layer_by_hand():
    configs = {name: MLP | {"norm.name": name} for name in BY_HAND}
    assert step_bytes(configs, DATA) == BY_HAND


@pytest.mark.parametrize("name", ["none", "batch", "layer", "affine"])
def test_one_layer_as_jax_prints_it(name, capsys):
    """But for arguments, the zeros of relu, the place of the one column and views of parameters."""
    net = build_model(MLP | {"norm.name": name}, CLASSES, "lax")
    x, y = jnp.ones((BATCH, 16)), jnp.zeros(BATCH, jnp.int32)
    state = init_state(net, "sgd", Hyper(0, 0.1, 0.9, 0.0, 1.0), x)

    def loss(params, state, x, y):
        return batch_loss(net, params, state, Batch(x, y, jnp.ones(())))[0]

    print_saved_residuals(loss, state.params, state, x, y)
    printed, shown = capsys.readouterr().out, 0
    line = re.compile(r"^~?([a-z]+)(\d*)\[([\d,]*)\] (.*)$", re.MULTILINE)
    for kind, bits, shape, origin in line.findall(printed):
        if not re.match("from the argument|output of (broadcast_in_dim|reshape|.*'_take')", origin):
            size = 1 if kind == "bool" else int(bits) // 8
            shown += size * math.prod(map(int, shape.split(",")))
    assert len(line.findall(printed)) == printed.count("\n") > 0
    assert step_bytes({name: MLP | {"norm.name": name}}, DATA) == {name: shown}


def test_views_inputs_and_constants_take_nothing_through_calls_too():
    @jax.jit
    def inner(x):
        y = jnp.sin(x)
        return y, y.T, jnp.zeros(7), x.reshape(-1), jnp.broadcast_to(y, (5, 2, 3))

    def outer(x):
        found = inner(x)
        return *found, *inner(found[0]), jnp.cos(found[1]).astype(jnp.float16)

    assert saved_bytes(jax.make_jaxpr(outer)(jnp.ones((2, 3))).jaxpr) == (4 + 4 + 2) * 6


@pytest.mark.parametrize(
    "settings, each",
    [
        ({"model.name": "cnn", "model.widths": (4,), "model.stride": 1}, 4 * BATCH * 16 * 4),
        ({"model.name": "mlp", "model.widths": (WIDTH, WIDTH)}, 2 * HIDDEN),
    ],
    ids=["cnn", "deep"],
)
def test_affine_keeps_the_input_of_every_norm(settings, each):
    arms = {name: MLP | settings | {"norm.name": name} for name in ("none", "affine")}
    found = step_bytes(arms, DATA)
    assert found["affine"] - found["none"] == each
