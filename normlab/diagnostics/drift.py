"""The path that the distribution of what enters the last activation takes through training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, DiagnosticState, Values
from normlab.diagnostics.sizes import by_unit, means_and_stds
from normlab.diagnostics.taps import activation_inputs, run

MOST = 512
"""Values of a unit that are kept. Positions of images are thinned out by an odd stride, which does
not fall on the same columns of every row."""


def sample(inputs: DiagnosticInputs) -> jax.Array:
    """Return what enters the last activation in training mode, [values, C], each unit sorted."""
    x = by_unit(activation_inputs(inputs, run(inputs, inputs.params))[-1])
    stride = -(-len(x) // MOST)
    stride += stride > 1 and stride % 2 == 0
    return jnp.sort(x[::stride], axis=0)


def initial_state(inputs: DiagnosticInputs) -> DiagnosticState:
    """Return the state before the first measurement."""
    shape = jax.eval_shape(lambda params: sample(inputs._replace(params=params)), inputs.params)
    return {"sorted": jnp.zeros(shape.shape), "is_set": jnp.zeros((), bool)}


def observe(inputs: DiagnosticInputs, state: DiagnosticState) -> tuple[Values, DiagnosticState]:
    """Return how far the units' distributions on the diagnostic batch moved since the last time:

    drift.step: mean over units of the W1 distance over the unit's standard deviation at the last
    time. drift.moments: the same of |change of mean| + |change of standard deviation|. Both are
    NaN at the first time. Units that were constant are left out; NaN where all were.
    """
    now, before = sample(inputs), state["sorted"]
    (mean, std), (old_mean, old_std) = means_and_stds([now, before])
    counts = (old_std > 0) & state["is_set"]

    def average(distance: jax.Array) -> jax.Array:
        relative = jnp.where(counts, distance / jnp.where(counts, old_std, 1), 0)
        return relative.sum() / counts.sum()  # 0 / 0 at first

    values = {
        "drift.step": average(jnp.abs(now - before).mean(0)),
        "drift.moments": average(jnp.abs(mean - old_mean) + jnp.abs(std - old_std)),
    }
    return values, {"sorted": now, "is_set": jnp.ones((), bool)}
