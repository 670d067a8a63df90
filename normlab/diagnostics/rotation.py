"""How far the optimiser's next step turns kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Memory, Values
from normlab.diagnostics.sizes import TINY, length, unit
from normlab.diagnostics.taps import inside, live_loss, name_of, outline


def angle(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the angle between a and b in radians, exact also where it is small: 2 atan2 of the
    lengths of difference and sum of the unit vectors (the arc cosine loses half the digits)."""
    a, b = unit(a), unit(b)
    return 2 * jnp.arctan2(length(a - b), length(a + b))


def observe(scene: DiagnosticInputs, memory: Memory) -> tuple[Values, Memory]:
    """Return rotation.angle.<layer>, the angle in radians between the layer's kernel before and
    after the optimiser's next step, by the gradient of the probe batch, and
    rotation.effective_rate.<layer> = learning rate / |kernel|^2."""
    grads = jax.grad(lambda params: live_loss(scene, params))(scene.params)
    after, values = scene.descend(grads), {}
    for layer in outline(scene).layers:
        old, new = (inside(tree, layer.path)["kernel"] for tree in (scene.params, after))
        square = jnp.maximum(jnp.square(length(old)), TINY)
        values[f"rotation.angle.{name_of(layer)}"] = angle(old, new)
        values[f"rotation.effective_rate.{name_of(layer)}"] = scene.rate / square
    return values, memory
