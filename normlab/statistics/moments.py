"""The one place where means and variances are computed, and inputs normalized with them.

A mean is a pair, never one float: mean = shift + delta, with `shift` a rounded estimate and `delta`
what it missed. Values are centred as (x - shift) - delta, which stays exact to about 1e-7 of the
standard deviation where x - round(mean) loses |mean| / std * 6e-8.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from normlab.statistics.along import anywhere, axis_size, pmax, psum
from normlab.statistics.axes import count_values

Mask = jax.Array | None
"""True where a value is valid; None: everywhere."""


class Moments(NamedTuple):
    """Mean and biased variance of each statistic, and how many values it is made of.

    mean = (shift + delta) / shrink; variance = var / shrink^2, where `shrink` is 1, or 2^-80 if the
    squares overflow. Leaves keep the reduced axes with length 1 and are float32 or wider.
    """

    shift: jax.Array
    delta: jax.Array
    var: jax.Array
    n: jax.Array
    shrink: jax.Array


class Reduction(NamedTuple):
    """What one statistic is made of: `axes`, and the channels of a group where `groups` > 0.
    `axis_name` adds the devices or vmapped calls along it, a name or `Groups` of one."""

    axes: tuple[int, ...]
    groups: int = 0
    centered: bool = True
    axis_name: Any = None


PILOT = 16
"""The pilot mean reads every 16th value. Whatever the data, the mean p of K among N values obeys
(p - mean)^2 <= (N - K) / K * var. So var = E[(x - p)^2] - E[x - p]^2 cancels by a factor of
N / K = 16 at most, 1e-6 in float32."""


def to_float32(x: jax.Array) -> jax.Array:
    """Return x in float32, or in its own type where that is wider."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def as_floats(x: Any, layer: str) -> jax.Array:
    """Return x, integers and booleans in float32; raises ValueError for complex numbers."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            f"{layer}: an input of {x.dtype} has no order and no single variance; give its real "
            "and imaginary parts as channels"
        )
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def refuse_traced(train: Any, layer: str) -> None:
    """Raise TypeError for a traced `train`: a layer has another program for each value."""
    if isinstance(train, Tracer):
        raise TypeError(
            f"{layer}: `train` is traced; under nn.remat write static_argnums=(2,) and give it by "
            "position: layer(x, True)"
        )


def fit_mask(mask: Any, shape: tuple[int, ...]) -> Mask:
    """Return the mask in the shape of x [N, ..., C], broadcast by NumPy's rules from the last axis
    on. A mask of examples of [N, C] is [N, 1]. Raises ValueError where it does not fit or is
    not boolean. The same holds if it has fewer axes and fits the first ones of x as well."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(
            f"a mask of {mask.dtype} can be a factor, a count or a term that is added; write a "
            "comparison that is True where a value is valid, such as mask > 0"
        )
    if 0 < mask.ndim < len(shape) and mask.shape == shape[: mask.ndim] != (1,) * mask.ndim:
        if mask.shape == shape[-mask.ndim :]:
            more = (1,) * (len(shape) - mask.ndim)
            raise ValueError(
                f"a mask of shape {mask.shape} fits the first and the last axes of an input of "
                f"shape {tuple(shape)}; write it as {mask.shape + more} or {more + mask.shape}"
            )
    try:
        return jnp.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"a mask of shape {mask.shape} does not broadcast to an input of shape {tuple(shape)}; "
            "axes are matched from the last one, so a mask of examples of [N, C] is [N, 1]"
        ) from None


def per_channel(values: jax.Array, ndim: int) -> jax.Array:
    """Return values [C] as [1, ..., 1, C], so that no rank is promoted."""
    return values.reshape((1,) * (ndim - values.ndim) + values.shape)


def zero_masked(x: jax.Array, mask: Mask) -> jax.Array:
    """Return x with 0 where the mask, in the shape of x, is False: NaN there reaches nothing."""
    return x if mask is None else jnp.where(mask, x, 0)


def in_groups(x: jax.Array, groups: int) -> jax.Array:
    """Return x [..., C] as [..., groups, C / groups]."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _sum(x: jax.Array, dims: Reduction) -> jax.Array:
    """Return the sum over `dims`, its axes kept with length 1.

    Space is first, channels of the small result are second: one reduction over H, W and C / G
    reads memory in short strides. A CNN's step with group norm took 1870 instead of 1330 us on one
    core. A group's sum is repeated for its channels, so that all that follows is per channel.
    """
    total = jnp.sum(x, axis=dims.axes, keepdims=True)
    if dims.groups == 1:
        total = jnp.sum(total, axis=-1, keepdims=True)
    elif dims.groups:
        split = in_groups(total, dims.groups)
        sums = jnp.broadcast_to(jnp.sum(split, -1, keepdims=True), split.shape)
        total = sums.reshape(total.shape)
    return psum(total, dims.axis_name)


def mean_over(x: jax.Array, dims: Reduction, n: jax.Array) -> jax.Array:
    """Return the mean over `dims` of n values, 0 where n is 0."""
    return _sum(x, dims) / jnp.maximum(n, 1)


def _count(x: jax.Array, mask: Mask, dims: Reduction) -> jax.Array:
    if mask is not None:
        return _sum(mask.astype(x.dtype), dims)
    n = count_values(x.shape, dims.axes, dims.groups) * axis_size(dims.axis_name)
    return jnp.full((1,) * x.ndim, n, x.dtype)


def _first(x: jax.Array, dims: Reduction) -> jax.Array:
    """Return one value of each statistic, the axes of `dims` kept with length 1."""
    for axis in dims.axes:
        x = lax.slice_in_dim(x, 0, 1, 1, axis)
    if dims.groups > 1:
        split = in_groups(x, dims.groups)
        return jnp.broadcast_to(split[..., :1], split.shape).reshape(x.shape)
    return x[..., :1] if dims.groups else x


def _pilot(x: jax.Array, dims: Reduction) -> jax.Array:
    """Return the mean of about one value in PILOT: rows of the longest axis at equal distances. Of
    a channel axis it is one block, since strided reads there would touch all of memory.

    It is taken relative to one value, so that a constant's mean is that constant to the bit.
    """
    last = x.ndim - 1
    axes = dims.axes + ((last,) if dims.groups == 1 else ())
    # Of a symbolic shape, the length of an axis is unknown: the pilot then reads every value.
    known = [a for a in axes if isinstance(x.shape[a], int)]
    axis = max(known, key=lambda a: x.shape[a], default=last)
    size = x.shape[axis]
    is_split = jax.typeof(x).sharding.spec[axis] is not None  # over devices of an explicit mesh
    step = 1 if is_split or not known else min(PILOT, size // 4)
    if step > 1 and axis == last:
        start = (size - size // step) // 2
        x = lax.slice_in_dim(x, start, start + size // step, 1, axis)
    elif step > 1:
        x = lax.slice_in_dim(x, 0, size, step, axis)
    first = pmax(_first(x, dims), dims.axis_name)
    return first + _sum(x - first, dims) / _count(x, None, dims)


def _round_off(shift: jax.Array) -> jax.Array:
    """Return `shift` without its last bit: the same number wherever XLA computes it again.

    A consumer may recompute the mean as a fused multiply-add, another number than `delta` is for.
    Hessian-vector products were off by 1.4e-3 at mean 1e4, with the rounding by 2e-7.
    """
    kind = jnp.finfo(shift.dtype)
    return lax.reduce_precision(shift, kind.nexp, kind.nmant - 1)


def _statistics(x: jax.Array, mask, dims: Reduction, n: jax.Array):
    """Return shift, delta and variance; the mean square for uncentred statistics."""
    if not dims.centered:
        square = mean_over(jnp.square(x), dims, n)
        return jnp.zeros_like(square), jnp.zeros_like(square), square
    shift = _pilot(x, dims) if mask is None else mean_over(x, dims, n)
    shift = lax.optimization_barrier(_round_off(shift))
    # Without the barrier XLA:CPU writes x - shift to memory for its two readers. A training step
    # of a small CNN then takes 2148 instead of 1464 us (one core, 2026-11-20).
    square = mean_over(jnp.square(zero_masked(x - lax.optimization_barrier(shift), mask)), dims, n)
    delta = mean_over(zero_masked(x - shift, mask), dims, n)
    var = square - jnp.square(delta)
    return shift, delta, lax.max(var, jnp.zeros_like(var))


def _rescue(x, mask, n, shift, delta, var, *, dims: Reduction):
    """Return shift, delta, var and shrink; computed again, on x * shrink, where var overflowed.

    In float32 `shrink` is 2^-80: squares of all its values times it are far inside its range.
    """
    small = 2.0 ** (-5 * jnp.finfo(var.dtype).maxexp // 8)

    def again(carry):
        flag, found = carry
        # Without a pilot, which would be half of the program: two passes are as exact.
        mean = mean_over(x * small, dims, n) if dims.centered else jnp.zeros_like(var)
        apart = zero_masked(x * small - mean, mask)
        missed = mean_over(apart, dims, n) if dims.centered else mean
        square = jnp.maximum(mean_over(jnp.square(apart), dims, n) - jnp.square(missed), 0)
        # Only the sums overflowed, not the variance: back to the units of x.
        fits = square < float(jnp.finfo(var.dtype).max) * small * small
        back = jnp.where(fits, 1 / small, 1.0).astype(var.dtype)
        scaled = (mean * back, missed * back, square * back * back, back * small)
        bad = ~jnp.isfinite(found[2])
        kept = tuple(jnp.where(bad, new, old) for new, old in zip(scaled, found, strict=True))
        return jnp.zeros_like(flag), kept

    # A loop of at most one turn stays one under vmap, where a branch computes both sides. A largest
    # value that is NaN or infinite is a smaller program than `any`.
    largest = lax.reduce_max(var, tuple(range(var.ndim)))  # jnp.max refuses an empty batch
    flag = anywhere(~(largest < jnp.inf), dims.axis_name)
    found = (shift, delta, var, jnp.ones_like(var))
    return lax.while_loop(lambda carry: carry[0], again, (flag, found))[1]


# jit: one program for all equal layers, and outside jit no compilation at each call.
@functools.partial(jax.jit, static_argnums=2)
def compute_moments(x: jax.Array, mask: Mask, dims: Reduction) -> Moments:
    """Return what `moments` does, without derivative; the mask has the shape of x."""
    x = to_float32(x)
    n = _count(x, mask, dims)
    shift, delta, var, shrink = _rescue(x, mask, n, *_statistics(x, mask, dims, n), dims=dims)
    return Moments(shift, delta, var, jnp.broadcast_to(n, var.shape), shrink)


moments_of = jax.custom_jvp(compute_moments, nondiff_argnums=(2,))


@moments_of.defjvp
def _moments_jvp(dims: Reduction, primals, tangents):
    x, mask = primals
    m = moments_of(x, mask, dims)
    t = zero_masked(to_float32(tangents[0]), mask)
    # zeros that vary over the devices where the leaves do, as shard_map wants tangents
    zeros = jax.tree.map(jnp.zeros_like, m)
    mean_t = mean_over(t, dims, m.n) if dims.centered else zeros.delta
    mean_ct = mean_over(zero_masked(centre(x, m), mask) * t, dims, m.n)
    return m, zeros._replace(delta=mean_t * m.shrink, var=2 * mean_ct * m.shrink)


def moments(
    x: jax.Array,
    axes: tuple[int, ...],
    *,
    groups: int = 0,
    mask: Any = None,
    centered: bool = True,
    axis_name: Any = None,
) -> Moments:
    """Return mean and biased variance of x [N, ..., C] over `axes`, each value counted once.

    mean = sum(x) / n;  var = sum((x - mean)^2) / n, computed on d = x - shift, so that nothing
    cancels. `groups` G > 0: also over the channels of each of G groups (1: over all of C); `axes`
    then leaves the channel axis out. `mask` (bool, broadcastable to x) leaves positions out, also
    when they hold NaN; a statistic without any valid value is 0. `axis_name`: also over the devices
    or vmapped calls along it, each value counted once. With `centered` False the mean is taken to
    be 0 and var is the mean square (RMS). Derivatives are in closed form.

    >>> m = moments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), (0,))
    >>> (m.shift + m.delta).tolist(), m.var.tolist()
    ([[2.0, 4.0]], [[1.0, 4.0]])
    """
    mask = fit_mask(mask, x.shape)
    x, dims = zero_masked(to_float32(x), mask), Reduction(axes, groups, centered, axis_name)
    return moments_of(x, mask, dims)


def centre(x: jax.Array, m: Moments) -> jax.Array:
    """Return (x - mean) * shrink, exact at any mean."""
    return (to_float32(x) * m.shrink - m.shift) - m.delta


def inverse_std(m: Moments, epsilon: float) -> jax.Array:
    """Return 1 / sqrt(variance + epsilon) in the units of `centre`: their product is normalized."""
    return lax.rsqrt(m.var + epsilon * jnp.square(m.shrink))


def std(m: Moments, epsilon: float) -> jax.Array:
    """Return sqrt(variance + epsilon), finite also where the variance is not representable."""
    return jnp.sqrt(m.var + epsilon * jnp.square(m.shrink)) / m.shrink
