"""How far the optimiser's next step turns kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import TINY, length, unit
from normlab.diagnostics.taps import inside, live_loss, name_of, outline


def angle(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the angle between a and b in radians, exact also where it is small.

    It is 2 atan2 of the lengths of difference and sum of the unit vectors. The arc cosine loses
    half the digits.
    """
    a, b = unit(a), unit(b)
    return 2 * jnp.arctan2(length(a - b), length(a + b))


def observe(inputs: DiagnosticInputs) -> Values:
    """Return rotation.angle.<layer>, the angle in radians between the layer's kernel before and
    after the optimiser's next step, by the gradient of the diagnostic batch, and
    rotation.effective_rate.<layer> = learning rate / |kernel|^2."""
    grads = jax.grad(lambda params: live_loss(inputs, params))(inputs.params)
    after, values = inputs.descend(grads), {}
    for layer in outline(inputs).layers:
        old, new = (inside(tree, layer.path)["kernel"] for tree in (inputs.params, after))
        square = jnp.maximum(jnp.square(length(old)), TINY)
        values[f"rotation.angle.{name_of(layer)}"] = angle(old, new)
        values[f"rotation.effective_rate.{name_of(layer)}"] = inputs.rate / square
    return values
