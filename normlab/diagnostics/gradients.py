"""The size of gradients, layer by layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import TINY, length
from normlab.diagnostics.taps import cross_entropy, inside, name_of, outline, run


def slope(sizes: list[jax.Array]) -> jax.Array:
    """Return the least-squares slope of log10(size) per layer, in decades; NaN below two sizes."""
    if len(sizes) < 2:
        return jnp.full((), jnp.nan)
    logs = jnp.log10(jnp.maximum(jnp.stack(sizes), TINY))
    place = jnp.arange(len(sizes)) - (len(sizes) - 1) / 2
    return jnp.sum(place * logs) / jnp.sum(jnp.square(place))


def middle(sizes: list[jax.Array]) -> list[jax.Array]:
    """Return what the slope is fitted to: all but the image, the first hidden output and the last
    one. Where fewer than two remain, only the image is left out."""
    inner = sizes[2:-1]
    return inner if len(inner) > 1 else sizes[1:]


def observe(inputs: DiagnosticInputs) -> Values:
    """Return the L2 norms of the gradients of the diagnostic batch's loss in training mode.

    gradients.input.<layer>: with respect to what the layer receives; gradients.kernel.<layer>: to
    its kernel; gradients.slope: decades of the first per layer (see `middle`), a gradient of 0
    counting as the smallest normal float32.
    """
    layers = outline(inputs).layers

    def loss(params, added):
        return cross_entropy(inputs, run(inputs, params, added=added).logits)

    zeros = [jnp.zeros(layer.x.shape, layer.x.dtype) for layer in layers]
    by_params, by_inputs = jax.grad(loss, (0, 1))(inputs.params, zeros)
    sizes = [length(leaf) for leaf in by_inputs]
    values = {"gradients.slope": slope(middle(sizes))}
    for layer, size in zip(layers, sizes, strict=True):
        values[f"gradients.input.{name_of(layer)}"] = size
        kernel = inside(by_params, layer.path)["kernel"]
        values[f"gradients.kernel.{name_of(layer)}"] = length(kernel)
    return values
