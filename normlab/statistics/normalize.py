"""Inputs normalized with their own statistics, with a derivative in closed form."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normlab.statistics.along import is_divided
from normlab.statistics.moments import (
    Moments,
    Reduction,
    centre,
    fit_mask,
    inverse_std,
    mean_over,
    moments_of,
    per_channel,
    to_float32,
    zero_masked,
)


def scale_and_shift(y: jax.Array, scale: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """Return scale * y + bias, each [C] or None."""
    y = y if scale is None else y * per_channel(scale, y.ndim)
    return y if bias is None else y + per_channel(bias, y.ndim)


def _normalize(x, mask, scale, bias, m: Moments, dims: Reduction, epsilon: float) -> jax.Array:
    # One factor, mostly of small arrays: 1.10 instead of 1.21 times Flax's time, [64, 8, 8, 32].
    factor = scale_and_shift(inverse_std(m, epsilon), scale, None)
    return zero_masked(scale_and_shift(centre(x, m) * factor, None, bias), mask)


def _turn(x: jax.Array, dims: Reduction) -> jax.Array:
    """Return x reversed along an axis of the statistics: the derivative then overwrites neither the
    cotangent nor x. In place LLVM does not vectorize it: 1.45 not 0.35 ms, [64, 28, 28, 16]. Where
    a mesh divides the examples, that would send all of them to other devices."""
    axis = dims.axes[0] if dims.axes else x.ndim - 1
    return x if axis == x.ndim - 1 or is_divided() else lax.rev(x, (axis,))


_normalize_of = jax.custom_jvp(_normalize, nondiff_argnums=(5, 6))
"""y for x and its own moments m, which have no derivative of their own here: it is that of x."""


# The backward pass computes h again from x, which costs no memory in between.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(7, 8))
@functools.partial(jax.jit, static_argnums=(7, 8))
def _tangent(x, mask, scale, m: Moments, t, scale_t, bias_t, dims: Reduction, epsilon: float):
    """Return the derivative of `_normalize` in closed form: linear in the tangents, so grad, jvp
    and Hessians work.

    With h the normalized input, t its tangent and a = scale / sqrt(var + epsilon):
    dy = a t + (dscale - a E[h t]) h + (dbias - a E[t]). Autodiff of rsqrt(var) would form
    (var + epsilon)^(-3/2), which underflows long before y does. The two brackets are small arrays:
    transposed, all sums of the backward pass follow from sum(g) and sum(g h).
    """
    t = zero_masked(to_float32(t), mask)
    h = _normalize_of(x, mask, None, None, m, dims, epsilon)
    inv = inverse_std(m, epsilon)
    mean_ht = mean_over(_turn(t, dims) * _turn(h, dims), dims, m.n)
    mean_t = mean_over(t, dims, m.n) if dims.centered else jnp.zeros_like(mean_ht)
    a = inv * m.shrink if scale is None else inv * m.shrink * scale
    slope, offset = -a * mean_ht, -a * mean_t
    slope = slope if scale is None else slope + scale_t
    offset = offset if bias_t is None else offset + bias_t
    turned = a if scale is None or a.shape[:-1] == inv.shape[:-1] else _turn(a, dims)
    return zero_masked(_turn(turned * _turn(t, dims), dims) + slope * h + offset, mask)


@_normalize_of.defjvp
def _normalize_jvp(dims: Reduction, epsilon: float, primals, tangents):
    x, mask, scale, _, m = primals
    t, _, scale_t, bias_t, _ = tangents
    y = _normalize_of(*primals, dims, epsilon)
    return y, _tangent(x, mask, scale, m, t, scale_t, bias_t, dims, epsilon)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _with_moments(x, mask, scale, bias, dims: Reduction, epsilon: float):
    m = moments_of(x, mask, dims)
    return _normalize_of(x, mask, scale, bias, m, dims, epsilon), m


def normalize(
    x: jax.Array,
    axes: tuple[int, ...],
    *,
    epsilon: float,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    groups: int = 0,
    mask: Any = None,
    centered: bool = True,
    axis_name: Any = None,
) -> tuple[jax.Array, Moments]:
    """Return y = scale * (x - mean) / sqrt(var + epsilon) + bias and the moments, float32 or wider.

    Statistics over `axes`, `groups` and `axis_name` as in `moments`; `scale` and `bias` [C] may be
    left out. `mask` (bool, broadcastable to x): masked positions influence nothing, also when they
    hold NaN, and are 0 in y.

    >>> y, _ = normalize(jnp.array([[1.0], [3.0]]), (0,), epsilon=0.0)
    >>> y.tolist()
    [[-1.0], [1.0]]
    """
    mask, dims = fit_mask(mask, x.shape), Reduction(axes, groups, centered, axis_name)
    scale, bias = (v if v is None else per_channel(v, x.ndim) for v in (scale, bias))
    if x.ndim > 2 and x.shape[0] == 1 and 0 not in axes:  # else XLA:CPU is up to 8 times slower
        dims = dims._replace(axes=tuple(a - 1 for a in axes))
        mask, scale, bias = (None if v is None else v[0] for v in (mask, scale, bias))
        found = _with_moments(zero_masked(x[0], mask), mask, scale, bias, dims, float(epsilon))
        return jax.tree.map(lambda leaf: leaf[None], found)
    return _with_moments(zero_masked(x, mask), mask, scale, bias, dims, float(epsilon))
