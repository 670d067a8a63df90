"""How different the examples still are, layer by layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import TINY, by_example
from normlab.diagnostics.taps import name_of, run


def stable_rank(h: jax.Array) -> jax.Array:
    """Return |H|_F^2 / |H|_2^2 of h [B, C], 0 where it is 0."""
    h = h / jnp.maximum(jnp.abs(h).max(), TINY)
    gram = h @ h.T if h.shape[0] < h.shape[1] else h.T @ h
    return jnp.trace(gram) / jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], TINY)


def mean_cosine(h: jax.Array) -> jax.Array:
    """Return the mean cosine of two different rows of h [B, C], 0 for a row of zeros."""
    h = h / jnp.maximum(jnp.abs(h).max(1, keepdims=True), TINY)
    rows = h / jnp.maximum(jnp.linalg.norm(h, axis=1, keepdims=True), TINY)
    all_pairs, same = jnp.square(rows.sum(0)).sum(), jnp.square(rows).sum()
    return (all_pairs - same) / (len(h) * (len(h) - 1))


def observe(inputs: DiagnosticInputs) -> Values:
    """Return for H [B, C], what each layer receives (images: its mean over space), in training
    mode on the diagnostic batch:

    rank.stable.<layer> = |H|_F^2 / |H|_2^2; rank.cosine.<layer>: mean cosine of two different
    examples.
    """
    values = {}
    for layer in run(inputs, inputs.params).layers:
        h = by_example(layer.x)
        values[f"rank.stable.{name_of(layer)}"] = stable_rank(h)
        values[f"rank.cosine.{name_of(layer)}"] = mean_cosine(h)
    return values
