"""Internal covariate shift as Santurkar et al. define it (arXiv:1805.11604, definition 2.1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import TINY, cosine, length
from normlab.diagnostics.taps import Taps, inside, live_loss, name_of, outline


def numbers(params: Any, taps: Taps) -> Any:
    """Return for every parameter the number of the layer with which it moves."""

    def number(path: tuple[Any, ...], leaf: jax.Array) -> int:
        del leaf
        keys = tuple(key.key for key in path)
        ends = range(len(keys), -1, -1)
        return next(taps.owners[keys[:end]] for end in ends if keys[:end] in taps.owners)

    return jax.tree_util.tree_map_with_path(number, params)


def observe(inputs: DiagnosticInputs) -> Values:
    """Return how the gradient of a layer's kernel differs before (G) and after (G') a step.

    For G' all earlier layers took the optimiser's step. Both use the same batch in training mode.
    shift.distance.<layer> = |G - G'|, shift.relative.<layer> = |G - G'| / |G|,
    shift.cosine.<layer>; shift.relative, shift.cosine: means over all layers but the first, where
    G' = G. The parameters of a norm, and scalars of a block, move with the layer before them.
    """
    taps = outline(inputs)
    layers = taps.layers

    def gradients(params: Any) -> list[jax.Array]:
        grads = jax.grad(lambda p: live_loss(inputs, p))(params)
        return [inside(grads, layer.path)["kernel"] for layer in layers]

    grads = jax.grad(lambda p: live_loss(inputs, p))(inputs.params)
    before = [inside(grads, layer.path)["kernel"] for layer in layers]
    after, number = inputs.descend(grads), numbers(inputs.params, taps)

    def compare(i: jax.Array) -> jax.Array:
        """Return [layers, 3], of which only row i is of use: one program serves all layers."""
        step = jax.tree.map(
            lambda old, new, n: jnp.where(n < i, new, old), inputs.params, after, number
        )
        rows = []
        for g, new in zip(before, gradients(step), strict=True):
            distance = length(new - g)
            relative = distance / jnp.maximum(length(g), TINY)
            rows.append(jnp.stack([distance, relative, cosine(g, new)]))
        return jnp.stack(rows)

    order = jnp.arange(len(layers))
    found = lax.map(compare, order)[order, order]
    values = {"shift.relative": found[1:, 1].mean(), "shift.cosine": found[1:, 2].mean()}
    for i, layer in enumerate(layers):
        for j, quantity in enumerate(("distance", "relative", "cosine")):
            values[f"shift.{quantity}.{name_of(layer)}"] = found[i, j]
    return values
