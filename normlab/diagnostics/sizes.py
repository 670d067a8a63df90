"""Numbers that several diagnostics take of an array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp

from normlab.statistics.moments import moments, std

TINY = float(jnp.finfo(jnp.float32).tiny)
"""The smallest normal float32, 1.2e-38: the floor of divisors and of arguments of logarithms."""


def length(x: jax.Array) -> jax.Array:
    """Return the L2 norm of all values of x, right also where their squares would underflow."""
    largest = jnp.maximum(jnp.max(jnp.abs(x)), TINY)
    return largest * jnp.sqrt(jnp.sum(jnp.square(x / largest)))


def unit(x: jax.Array) -> jax.Array:
    """Return x / |x|, zeros where x is 0."""
    return x / jnp.maximum(length(x), TINY)


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the cosine between a and b, 0 where one of them is 0."""
    return jnp.sum(unit(a) * unit(b))


def by_unit(x: jax.Array) -> jax.Array:
    """Return x [B, ..., C] as [values, C]: examples, and positions of images, one below another."""
    return jnp.asarray(x, jnp.float32).reshape(-1, x.shape[-1])


def by_example(x: jax.Array) -> jax.Array:
    """Return x [B, ..., C] as [B, C], its mean over space."""
    return jnp.asarray(x, jnp.float32).mean(range(1, x.ndim - 1))


def means_and_stds(arrays: Sequence[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """Return for each of `arrays` [B, ..., C] the mean and the standard deviation [C] over batch
    and space. Those of as many values are side by side in one computation: it compiles sooner."""
    columns = [by_unit(x) for x in arrays]
    found: dict[int, tuple[jax.Array, jax.Array]] = {}
    for rows in {len(x) for x in columns}:
        same = [i for i, x in enumerate(columns) if len(x) == rows]
        m = moments(jnp.concatenate([columns[i] for i in same], axis=1), (0,))
        mean, spread = ((m.shift + m.delta) / m.shrink)[0], std(m, 0.0)[0]
        ends = list(accumulate(columns[i].shape[1] for i in same))
        for i, end in zip(same, ends, strict=True):
            part = slice(end - columns[i].shape[1], end)
            found[i] = mean[part], spread[part]
    return [found[i] for i in range(len(columns))]
