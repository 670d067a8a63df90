"""The one place where means and variances are computed, and inputs normalized with them.

A mean is a pair, never one float: mean = shift + delta, with `shift` a rounded estimate and `delta`
what it missed. Values are centred as (x - shift) - delta, which stays exact to about 1e-7 of the
standard deviation where x - round(mean) loses |mean| / std * 6e-8.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from normlab.statistics.along import anywhere, axis_size, psum
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


CANCELLING = 8
"""E[x^2] - E[x]^2 is the variance while E[x^2] is at most this many times as large: 1e-6 of it is
then lost in float32. Beyond, the squares are taken about the mean."""


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


def shrunk(dtype: Any) -> float:
    """Return the factor on values whose squares overflow: 2^-80 in float32."""
    return 2.0 ** (-5 * jnp.finfo(dtype).maxexp // 8)


class _Found(NamedTuple):
    """Mean, shift + delta, and variance of x * shrink."""

    shift: jax.Array
    delta: jax.Array
    var: jax.Array
    shrink: jax.Array

    def overflowed(self) -> jax.Array:
        return ~(self.var < jnp.inf)

    def is_exact(self) -> jax.Array:
        """Whether the difference of the sums keeps its digits, see CANCELLING."""
        return jnp.square(self.delta) <= (CANCELLING - 1) * self.var

    def fits(self) -> jax.Array:
        """Whether x was shrunk, and the sum of its squares is in range nevertheless."""
        limit = float(jnp.finfo(self.var.dtype).max) ** 0.5 * shrunk(self.var.dtype) ** 2
        return (self.shrink < 1) & self.is_exact() & (self.var < limit)

    def is_final(self) -> jax.Array:
        """Whether no digits are lost, or all are: NaN and infinity among the values of x."""
        return jnp.where(self.overflowed(), self.shrink < 1, self.is_exact() & ~self.fits())


def _collapse(x: jax.Array, mask: Mask, dims: Reduction) -> tuple[jax.Array, Mask, Reduction]:
    """Return x with adjacent axes of a statistic as one.

    XLA:CPU adds up values of several small axes one after the other: 288 of them in [8, 6, 6, 4]
    to 3e-6, in [288, 4] to 3e-7. The barrier keeps it from joining reshape and sum.
    """
    if len(dims.axes) < 2 or dims.axes[-1] - dims.axes[0] != len(dims.axes) - 1:
        return x, mask, dims
    first, rest = dims.axes[0], dims.axes[-1] + 1
    shape = (*x.shape[:first], math.prod(x.shape[first:rest]), *x.shape[rest:])
    x = lax.optimization_barrier(x.reshape(shape))
    return x, mask if mask is None else mask.reshape(shape), dims._replace(axes=(first,))


def _sums(x: jax.Array, n: jax.Array, dims: Reduction) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance by two plain sums; 0 and the mean square if uncentred."""
    square = mean_over(jnp.square(x), dims, n)
    mean = mean_over(x, dims, n) if dims.centered else jnp.zeros_like(square)
    return mean, lax.max(square - jnp.square(mean), jnp.zeros_like(square))


def _find(x: jax.Array, mask: Mask, n: jax.Array, dims: Reduction) -> _Found:
    """Return the moments of x by two plain sums. Where that loses digits or overflows, sum again:
    distances from the mean, of x * 2^-80 where the squares overflowed.

    Most statistics inside a network need no second time. On XLA:CPU a sum of distances from a mean
    takes more than twice as long as a plain one.
    """

    def goes_on(carry):
        left, found = carry
        # The largest of floats: XLA:CPU looks at one boolean after the other.
        is_open = jnp.where(found.is_final(), 0.0, 1.0)
        worst = lax.reduce_max(is_open, tuple(range(is_open.ndim)))  # also of an empty batch
        return (left > 0) & anywhere(worst > 0, dims.axis_name)

    def again(carry):
        left, old = carry
        shrink = jnp.where(old.fits(), 1, old.shrink)
        shrink = jnp.where(old.overflowed(), shrunk(x.dtype), shrink)
        mean = (old.shift + old.delta) * (shrink / old.shrink)
        shift = jnp.where(old.overflowed(), 0, mean)
        apart = zero_masked(x * shrink - shift, mask)
        new = _Found(shift, *_sums(apart, n, dims), shrink)
        return left - 1, jax.tree.map(functools.partial(jnp.where, old.is_final()), old, new)

    delta, var = _sums(x, n, dims)
    found = _Found(jnp.zeros_like(var), delta, var, jnp.ones_like(var))
    # One turn for an overflow, two about the mean and one back in the units of x. After two, the
    # mean of a constant is itself. A loop stays one under vmap, a branch computes both sides.
    return lax.while_loop(goes_on, again, (4, found))[1]


# jit: one program for all equal layers, and outside jit no compilation at each call.
@functools.partial(jax.jit, static_argnums=2)
def compute_moments(x: jax.Array, mask: Mask, dims: Reduction) -> Moments:
    """Return what `moments` does, without derivative; the mask has the shape of x, which is 0 where
    it is False."""
    x = to_float32(x)
    kept = tuple(1 if axis in dims.axes else size for axis, size in enumerate(x.shape))
    x, mask, dims = _collapse(x, mask, dims)
    n = _count(x, mask, dims)
    shift, delta, var, shrink = _find(x, mask, n, dims)
    m = Moments(shift, delta, var, jnp.broadcast_to(n, var.shape), shrink)
    return jax.tree.map(lambda leaf: leaf.reshape(*kept[:-1], leaf.shape[-1]), m)


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

    mean = sum(x) / n;  var = sum((x - mean)^2) / n, by sums about a shift from which few digits
    cancel. `groups` G > 0: also over the channels of each of G groups (1: over all of C); `axes`
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
