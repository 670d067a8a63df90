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
    n: jax.Array


class Average(NamedTuple):
    """Running mean (the unrounded sum mean + mean_lo) and running variance, each [C]."""

    mean: jax.Array
    mean_lo: jax.Array
    var: jax.Array


def widen(x: jax.Array) -> jax.Array:
    """Return x in float32, or in its own type where that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def count_values(shape: Sequence[int], axes: Sequence[int], groups: int = 0) -> int:
    """Return how many values one statistic is made of: over `axes`, and over C / groups channels
    where `groups` is given."""
    return math.prod(shape[a] for a in axes) * (shape[-1] // groups if groups else 1)


def refuse_degenerate(
    layer: str, shape: Sequence[int], axes: Sequence[int], groups: int = 0
) -> None:
    """Raise ValueError where a statistic would be made of one value: its output is constant."""
    values = count_values(shape, axes, groups)
    if values < 2:
        raise ValueError(
            f"{layer}: each statistic of an input of shape {tuple(shape)} would be made of "
            f"{values} value, at least 2 are needed; "
            "use a larger batch or a scheme that averages over more axes"
        )


def _sum(x: jax.Array, axes: tuple[int, ...], groups: int) -> jax.Array:
    """Return the sum over `axes`, kept with length 1, then over each group of channels.

    Space first, channels of the small result second: one reduction over H, W and C / G reads
    memory in short strides (a CNN's step with group norm: 1870 against 1330 us on one core). A
    group's sum is repeated for its channels, so that everything that follows is per channel.
    """
    total = jnp.sum(x, axis=axes, keepdims=True) if axes else x
    if not groups:
        return total
    if groups == 1:
        return jnp.sum(total, axis=-1, keepdims=True)
    split = total.reshape(*total.shape[:-1], groups, -1)
    return jnp.broadcast_to(jnp.sum(split, -1, keepdims=True), split.shape).reshape(total.shape)


def _mean(x: jax.Array, axes: tuple[int, ...], groups: int, mask: jax.Array | None, n):
    valid = x if mask is None else jnp.where(mask, x, 0)
    return _sum(valid, axes, groups) / jnp.maximum(n, 1)


def _round_off(shift: jax.Array) -> jax.Array:
    """Return `shift` without its last bit: the same number wherever XLA computes it again.

    A consumer may recompute the mean as a fused multiply-add, which is another number, and `delta`
    then belongs to a shift that is not there: jitted Hessian-vector products were off by 1.4e-3 at
    mean 1e4, with the rounding by 2e-7. `delta` takes up what the bit held.
    """
    kind = jnp.finfo(shift.dtype)
    return lax.reduce_precision(shift, kind.nexp, kind.nmant - 1)


def moments(
    x: jax.Array,
    axes: tuple[int, ...],
    *,
    groups: int = 0,
    mask: jax.Array | None = None,
    centered: bool = True,
) -> Moments:
    """Return mean and biased variance of x [N, ..., C] over `axes`, each value counted once.

    mean = sum(x) / n;  var = sum((x - mean)^2) / n, computed on d = x - shift with shift the
    rounded mean, so that nothing cancels. `groups` G > 0: also over the channels of each of G
    groups (1: over all of C); `axes` then leaves the channel axis out. `mask` (bool, the shape of
    x) leaves positions out, also when they hold NaN; a statistic without any valid value is 0.
    With `centered` False the mean is taken to be 0 and var is the mean square (RMS).

    >>> m = moments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), (0,))
    >>> (m.shift + m.delta).tolist(), m.var.tolist()
    ([[2.0, 4.0]], [[1.0, 4.0]])
    """
    x = widen(x)
    if mask is None:
        n = jnp.full((1,) * x.ndim, count_values(x.shape, axes, groups), x.dtype)
    else:
        n = _sum(mask.astype(x.dtype), axes, groups)
    if not centered:
        square = _mean(jnp.square(x), axes, groups, mask, n)
        zero = jnp.zeros_like(square)
        return Moments(zero, zero, square, jnp.broadcast_to(n, zero.shape))
    # Without the barriers XLA:CPU writes x - shift to memory for its two readers: 2148 against
    # 1464 us for a training step of a small CNN (one core, 2026-11-20).
    shift = lax.optimization_barrier(_round_off(_mean(x, axes, groups, mask, n)))
    delta = _mean(x - shift, axes, groups, mask, n)
    square = _mean(jnp.square(x - lax.optimization_barrier(shift)), axes, groups, mask, n)
    var = jnp.maximum(square - jnp.square(delta), 0)
    return Moments(shift, delta, var, jnp.broadcast_to(n, shift.shape))


def _standardize(x: jax.Array, m: Moments, epsilon: float) -> tuple[jax.Array, jax.Array]:
    inv = lax.rsqrt(m.var + epsilon)
    return ((widen(x) - m.shift) - m.delta) * inv, inv


def _forward(x, mask, axes, groups, epsilon, centered):
    m = moments(x, axes, groups=groups, mask=mask, centered=centered)
    y, _ = _standardize(x, m, epsilon)
    if mask is not None:
        y = jnp.where(mask, y, 0)
    return y, m


_normalize = jax.custom_jvp(_forward, nondiff_argnums=(2, 3, 4, 5))


@_normalize.defjvp
def _normalize_jvp(axes, groups, epsilon, centered, primals, tangents):
    """Derivative in closed form: linear in the tangent, so grad, jvp and Hessians work.

    dy = (c - y E[y t]) / sqrt(var + epsilon) with c = t - E[t] (c = t without centring). Autodiff
    of rsqrt(var) would form (var + epsilon)^(-3/2), which underflows long before y does.
    """
    x, mask = primals
    t = widen(tangents[0])
    y, m = _normalize(x, mask, axes, groups, epsilon, centered)
    inv = lax.rsqrt(m.var + epsilon)
    if mask is not None:
        t = jnp.where(mask, t, 0)
    mean_t = _mean(t, axes, groups, None, m.n) if centered else jnp.zeros_like(m.var)
    mean_ty = _mean(t * y, axes, groups, None, m.n)
    dy = (t - mean_t - y * mean_ty) * inv
    if mask is not None:
        dy = jnp.where(mask, dy, 0)
    zero = jnp.zeros_like(m.var)
    return (y, m), (dy, Moments(zero, mean_t, 2 * mean_ty / inv, zero))


def fit_mask(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask (True: valid) in the shape of x [N, ..., C]; raises ValueError where it has
    another number of axes, because a mask [N] would silently be taken for one of channels."""
    mask = jnp.asarray(mask, bool)
    if mask.ndim != len(shape):
        raise ValueError(
            f"a mask of shape {mask.shape} does not fit an input of shape {tuple(shape)}; "
            "give it the same number of axes, for example [N, 1] for examples of [N, C]"
        )
    return jnp.broadcast_to(mask, shape)


def normalize(
    x: jax.Array,
    axes: tuple[int, ...],
    *,
    epsilon: float,
    groups: int = 0,
    mask: jax.Array | None = None,
    centered: bool = True,
) -> tuple[jax.Array, Moments]:
    """Return y = (x - mean) / sqrt(var + epsilon), float32 or wider, and the moments.

    Statistics over `axes` and `groups` as in `moments`.

    `mask` (bool, broadcastable to x): masked positions influence nothing and come out as 0.

    >>> y, _ = normalize(jnp.array([[1.0], [3.0]]), (0,), epsilon=0.0)
    >>> y.tolist()
    [[-1.0], [1.0]]
    """
    if mask is not None:
        mask = fit_mask(mask, x.shape)
        x = jnp.where(mask, x, 0)
    return _normalize(x, mask, axes, groups, float(epsilon), centered)


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
    one float32 would lose the step as soon as it is below |mean| * 6e-8. Momentum 0 leaves exactly
    the batch's statistics; a batch without any valid value leaves everything as it was.
    """
    channels = old.mean.shape[0]
    groups = [v.reshape(-1, channels) for v in batch]
    n = jnp.sum(groups[3], axis=0)
    weights = groups[3] / jnp.maximum(n, 1)
    shift, delta, var = (jnp.sum(weights * v, axis=0) for v in groups[:3])
    if momentum == 0:  # old + (batch - old) rounds to the spacing of floats at |old|
        new = Average(shift, delta, var)
        return Average(*(jnp.where(n > 0, a, b) for a, b in zip(new, old, strict=True)))
    keep = jnp.where(n > 0, 1 - momentum, 0.0)
    step = keep * ((shift - old.mean) + (delta - old.mean_lo))
    low = old.mean_lo + step
    mean = old.mean + low
    carried = mean - old.mean
    mean_lo = (old.mean - (mean - carried)) + (low - carried)
    return Average(mean, mean_lo, old.var + keep * (var - old.var))
