"""The one place where means, variances and running averages are computed.

A mean is a pair, never one float: mean = shift + delta, with `shift` the rounded mean and `delta`
what the rounding lost. Values are centred as (x - shift) - delta, which stays exact to about 1e-7
of the standard deviation where x - round(mean) loses |mean| / std * 6e-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Moments(NamedTuple):
    """Mean (as the pair shift + delta), biased variance and number of values of each statistic.

    Every leaf keeps the reduced axes with length 1; statistics are float32 or wider.
    """

    shift: jax.Array
    delta: jax.Array
    var: jax.Array
    count: jax.Array


class Average(NamedTuple):
    """Running mean (the unrounded sum mean + mean_lo) and running variance, each [C]."""

    mean: jax.Array
    mean_lo: jax.Array
    var: jax.Array


def widen(x: jax.Array) -> jax.Array:
    """Return x in float32, or in its own type where that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def count_values(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Return how many values one statistic over `axes` is made of."""
    return math.prod(shape[a] for a in axes)


def refuse_degenerate(layer: str, shape: Sequence[int], axes: Sequence[int]) -> None:
    """Raise ValueError where a statistic would be made of one value: its output is constant."""
    if count_values(shape, axes) < 2:
        raise ValueError(
            f"{layer}: each statistic of an input of shape {tuple(shape)} would be made of "
            f"{count_values(shape, axes)} value, at least 2 are needed; "
            "use a larger batch or a scheme that averages over more axes"
        )


def _mean(x: jax.Array, axes: tuple[int, ...], mask: jax.Array | None, n) -> jax.Array:
    valid = x if mask is None else jnp.where(mask, x, 0)
    return jnp.sum(valid, axis=axes, keepdims=True) / jnp.maximum(n, 1)


def moments(
    x: jax.Array, axes: tuple[int, ...], *, mask: jax.Array | None = None, centered: bool = True
) -> Moments:
    """Return mean and biased variance of x over `axes`, each value counted once.

    mean = sum(x) / n;  var = sum((x - mean)^2) / n, computed on d = x - shift with shift the
    rounded mean, so that nothing cancels. `mask` (bool, the shape of x) leaves positions out, also
    when they hold NaN; a statistic without any valid value is 0. With `centered` False the mean is
    taken to be 0 and var is the mean square (RMS).

    >>> m = moments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), (0,))
    >>> (m.shift + m.delta).tolist(), m.var.tolist()
    ([[2.0, 4.0]], [[1.0, 4.0]])
    """
    x = widen(x)
    if mask is None:
        n = jnp.full((1,) * x.ndim, count_values(x.shape, axes), x.dtype)
    else:
        n = jnp.sum(mask, axis=axes, keepdims=True, dtype=x.dtype)
    if not centered:
        square = _mean(jnp.square(x), axes, mask, n)
        zero = jnp.zeros_like(square)
        return Moments(zero, zero, square, jnp.broadcast_to(n, zero.shape))
    # Without the barriers XLA:CPU writes x - shift to memory for its two readers: 2148 against
    # 1464 us for a training step of a small CNN (one core, 2026-11-20).
    shift = lax.optimization_barrier(_mean(x, axes, mask, n))
    delta = _mean(x - shift, axes, mask, n)
    square = _mean(jnp.square(x - lax.optimization_barrier(shift)), axes, mask, n)
    var = jnp.maximum(square - jnp.square(delta), 0)
    return Moments(shift, delta, var, jnp.broadcast_to(n, shift.shape))


def _standardize(x: jax.Array, m: Moments, epsilon: float) -> tuple[jax.Array, jax.Array]:
    inv = lax.rsqrt(m.var + epsilon)
    return ((widen(x) - m.shift) - m.delta) * inv, inv


def _forward(x, mask, axes, epsilon, centered):
    m = moments(x, axes, mask=mask, centered=centered)
    y, _ = _standardize(x, m, epsilon)
    if mask is not None:
        y = jnp.where(mask, y, 0)
    return y, m


_normalize = jax.custom_jvp(_forward, nondiff_argnums=(2, 3, 4))


@_normalize.defjvp
def _normalize_jvp(axes, epsilon, centered, primals, tangents):
    """Derivative in closed form: linear in the tangent, so grad, jvp and Hessians work.

    dy = (c - y E[y t]) / sqrt(var + epsilon) with c = t - E[t] (c = t without centring). Autodiff
    of rsqrt(var) would form (var + epsilon)^(-3/2), which underflows long before y does.
    """
    x, mask = primals
    t = widen(tangents[0])
    y, m = _normalize(x, mask, axes, epsilon, centered)
    inv = lax.rsqrt(m.var + epsilon)
    if mask is not None:
        t = jnp.where(mask, t, 0)
    mean_t = _mean(t, axes, None, m.count) if centered else jnp.zeros_like(m.var)
    mean_ty = _mean(t * y, axes, None, m.count)
    dy = (t - mean_t - y * mean_ty) * inv
    if mask is not None:
        dy = jnp.where(mask, dy, 0)
    zero = jnp.zeros_like(m.var)
    return (y, m), (dy, Moments(zero, mean_t, 2 * mean_ty / inv, zero))


def normalize(
    x: jax.Array,
    axes: tuple[int, ...],
    *,
    epsilon: float,
    mask: jax.Array | None = None,
    centered: bool = True,
) -> tuple[jax.Array, Moments]:
    """Return y = (x - mean) / sqrt(var + epsilon) over `axes`, float32 or wider, and the moments.

    `mask` (bool, broadcastable to x): masked positions influence nothing and come out as 0.

    >>> y, _ = normalize(jnp.array([[1.0], [3.0]]), (0,), epsilon=0.0)
    >>> y.tolist()
    [[-1.0], [1.0]]
    """
    if mask is not None:
        mask = jnp.broadcast_to(jnp.asarray(mask, bool), x.shape)
        x = jnp.where(mask, x, 0)
    return _normalize(x, mask, axes, float(epsilon), centered)


def normalize_by(x: jax.Array, average: Average, epsilon: float) -> jax.Array:
    """Return (x - mean - mean_lo) / sqrt(var + epsilon) with the running statistics [C]."""
    centred = (widen(x) - average.mean) - average.mean_lo
    return centred * lax.rsqrt(average.var + epsilon)


def start_average(channels: int) -> Average:
    """Return the running statistics before any batch: mean 0, variance 1."""
    zero = jnp.zeros((channels,), jnp.float32)
    return Average(zero, zero, jnp.ones((channels,), jnp.float32))


def update_average(old: Average, batch: Moments, momentum: float) -> Average:
    """Return momentum * old + (1 - momentum) * batch, `batch` averaged over all axes but C.

    The mean moves by (1 - momentum) * (batch - old) added with a compensated sum (Knuth's TwoSum):
    one float32 would lose the step as soon as it is below |mean| * 6e-8. A batch without any valid
    value leaves everything as it was.
    """
    channels = old.mean.shape[0]
    shift, delta, var, n = (jnp.mean(v.reshape(-1, channels), axis=0) for v in batch)
    keep = jnp.where(n > 0, 1 - momentum, 0.0)
    step = keep * ((shift - old.mean) + (delta - old.mean_lo))
    low = old.mean_lo + step
    mean = old.mean + low
    carried = mean - old.mean
    mean_lo = (old.mean - (mean - carried)) + (low - carried)
    return Average(mean, mean_lo, old.var + keep * (var - old.var))
