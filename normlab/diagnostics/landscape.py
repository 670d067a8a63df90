"""The loss and its gradient along the gradient's direction."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import TINY, length
from normlab.diagnostics.taps import cross_entropy, live_loss, run, statistics_of

STEPS = (0.5, 1.0, 2.0, 4.0)
"""In units of the learning rate, as in arXiv:1805.11604, figure 4."""
RELATIVE_STEP = 0.01
"""In units of the length of all parameters."""


def walk(loss: Callable[[jax.Array], jax.Array], w: jax.Array, steps: jax.Array) -> jax.Array:
    """Return [1 + steps, 4]: the loss, |change of g|, |change of w| and |g| at w - s g.

    s is in `steps`, g is the gradient of `loss` at w. The last point, one more than `steps`, lies
    1 % of |w| away. One loop holds one copy of the network in the program.
    """
    value_and_grad = jax.value_and_grad(loss)
    count = len(steps) + 2

    def look(g: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        i, step = now
        size = jnp.maximum(length(g), TINY)
        along = jnp.where(i == count - 1, RELATIVE_STEP * length(w) * (g / size), step * g)
        there = w - along
        value, turned = value_and_grad(there)
        g = jnp.where(i == 0, turned, g)
        return g, jnp.stack([value, length(turned - g), length(there - w), length(g)])

    edge = jnp.zeros(1)
    now = jnp.arange(count), jnp.concatenate([edge, steps, edge])
    return lax.scan(look, jnp.zeros_like(w), now)[1][1:]


def relative_change(rows: jax.Array) -> jax.Array:
    """Return |g(w) - g(w - s)| / |g(w)|, s along g(w) with |s| = 1 % of |w|, from a walk."""
    return rows[-1, 1] / jnp.maximum(rows[-1, 3], TINY)


def observe(inputs: DiagnosticInputs) -> Values:
    """Return how the loss of the diagnostic batch in training mode changes along its gradient g.

    The points are w - s g, s = 1/2, 1, 2 and 4 learning rates, g taken at w.
    landscape.loss_range: the largest loss minus the smallest. landscape.predictiveness: the largest
    |g - g(w - s g)|. landscape.smoothness: the largest |change of g| / |change of w|.
    landscape.relative: see `relative_change`. landscape.relative_frozen: the same of the loss in
    evaluation mode with the statistics of the diagnostic batch at w. It follows the gradient of
    that loss. Without running statistics it equals landscape.relative.
    """
    w, restore = ravel_pytree(inputs.params)
    live = walk(lambda w: live_loss(inputs, restore(w)), w, jnp.array(STEPS) * inputs.rate)
    losses, changes, distances, _ = live[:-1].T
    frozen = live
    if inputs.whole is not None:
        statistics = statistics_of(inputs, inputs.x)

        def held(w: jax.Array) -> jax.Array:
            taps = run(inputs, restore(w), train=False, batch_stats=statistics)
            return cross_entropy(inputs, taps.logits)

        frozen = walk(held, w, jnp.zeros(0))
    values = {
        "landscape.loss_range": losses.max() - losses.min(),
        "landscape.predictiveness": changes.max(),
        "landscape.smoothness": jnp.max(changes / jnp.maximum(distances, TINY)),
        "landscape.relative": relative_change(live),
        "landscape.relative_frozen": relative_change(frozen),
    }
    return values
