"""Running statistics: a running mean that two floats hold, and how it moves."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from normlab.statistics.moments import Moments, per_channel, to_float32


class Average(NamedTuple):
    """Running mean (the unrounded sum mean + mean_lo) and running variance, each [C]."""

    mean: jax.Array
    mean_lo: jax.Array
    var: jax.Array


def start_average(channels: int) -> Average:
    """Return the running statistics before any batch: mean 0, variance 1.

    Each is an array of its own, so that a compiled step may take their memory (donation).
    """
    return Average(*(jnp.full((channels,), value, jnp.float32) for value in (0, 0, 1)))


def centre_by(x: jax.Array, average: Average) -> jax.Array:
    """Return x - mean - mean_lo with the running mean [C]."""
    mean, mean_lo = (per_channel(leaf, x.ndim) for leaf in (average.mean, average.mean_lo))
    return (to_float32(x) - mean) - mean_lo


def normalize_by(x: jax.Array, average: Average, epsilon: float) -> jax.Array:
    """Return (x - mean - mean_lo) / sqrt(var + epsilon) with the running statistics [C]."""
    return centre_by(x, average) * lax.rsqrt(per_channel(average.var, x.ndim) + epsilon)


def has_variance(batch: Moments) -> jax.Array:
    """Return per channel, [C], whether more than one value of a batch was valid."""
    return jnp.sum(batch.n.reshape(-1, batch.n.shape[-1]), axis=0) > 1


def average_groups(batch: Moments, unbiased: bool = False) -> Average:
    """Return the mean and variance of a batch per channel, [C].

    Groups of examples are averaged, weighted by their valid values. Means are taken relative to the
    largest one, since a sum of large means loses what `delta` holds. `unbiased` multiplies each
    variance by n / (n - 1).
    """
    channels = batch.shift.shape[-1]
    shift, delta, var, n, shrink = (v.reshape(-1, channels) for v in batch)
    weights = n / jnp.maximum(jnp.sum(n, axis=0, keepdims=True), 1)
    grow = 1 / lax.stop_gradient(shrink)  # a power of two: products are exact, compile faster
    var = jnp.minimum(var * grow * grow, jnp.finfo(var.dtype).max)
    if unbiased:
        var = var * (n / jnp.maximum(n - 1, 1))
    shift, delta = shift * grow, delta * grow
    # a group with values as the point of reference: one without has shift 0
    shifts = jnp.where(n > 0, shift, -jnp.finfo(shift.dtype).max)
    first = jnp.max(shifts, axis=0, keepdims=True)
    low = jnp.sum(weights * ((shift - first) + delta), axis=0)
    first = first[0]
    var = jnp.sum(weights * var, axis=0)
    mean = first + low
    return Average(mean, (first - mean) + low, var)


@functools.partial(jax.jit, static_argnames="unbiased")
def update_average(
    old: Average, batch: Moments, rate: float | jax.Array, unbiased: bool = False
) -> Average:
    """Return old + rate * (batch - old), `batch` averaged over all axes but C.

    The mean moves by a compensated sum (Knuth's TwoSum): one float32 would lose the step as soon as
    it is below |mean| * 6e-8. Rate 1 leaves exactly the batch's statistics. A channel with
    at most one valid value, or with a value that is not finite, is unchanged.
    """
    new = average_groups(batch, unbiased)
    step = rate * ((new.mean - old.mean) + (new.mean_lo - old.mean_lo))
    low = old.mean_lo + step
    mean = old.mean + low
    carried = mean - old.mean
    mean_lo = (old.mean - (mean - carried)) + (low - carried)
    moved = Average(mean, mean_lo, old.var + rate * (new.var - old.var))
    # old + (batch - old) rounds to the spacing of floats at |old|
    moved = Average(*(jnp.where(rate >= 1, n, m) for n, m in zip(new, moved, strict=True)))
    is_sound = has_variance(batch) & jnp.isfinite(moved.mean) & jnp.isfinite(moved.var)
    return Average(*(jnp.where(is_sound, m, o) for m, o in zip(moved, old, strict=True)))
