"""Switchable normalization: learned mixtures of instance, layer and batch statistics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normlab.norms.plain import affine, parameter, refuse_one_value
from normlab.norms.running import RunningNorm
from normlab.statistics.along import pmax, pmin, psum
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import Mask, Moments, centre, moments, per_channel
from normlab.statistics.normalize import scale_and_shift

FAR, SMALL = 2.0**120, 2.0**-80
"""Mean squares from FAR on are taken of the values times SMALL."""


def statistics(x: jax.Array, axes: tuple[int, ...], **options: Any) -> Moments:
    """Return `moments`, whose n and shrink are constants: (2^-80)^-2 in a derivative overflows."""
    m = moments(x, axes, **options)
    return m._replace(n=lax.stop_gradient(m.n), shrink=lax.stop_gradient(m.shrink))


def in_units(m: Moments, shrink: jax.Array) -> Moments:
    """Return the same moments with another `shrink`, at most theirs."""
    factor = shrink / m.shrink
    var = m.var * factor * factor  # in this order: the square of the factor underflows
    return Moments(m.shift * factor, m.delta * factor, var, m.n, shrink)


def pool(parts: Moments, axis: int, axis_name: Any = None) -> Moments:
    """Return the moments over `axis` (and `axis_name`) of values whose parts have those of `parts`.

    With e the distance of a part's mean from a shift common to all, and weights n / sum(n):
    mean = shift + E[e], var = E[var + (e - E[e])^2]. A part without values weighs nothing.
    """

    def over(reduce, across, x: jax.Array) -> jax.Array:
        return across(reduce(x, axis=axis, keepdims=True), axis_name)

    def distance(parts: Moments, shift: jax.Array) -> jax.Array:
        return jnp.where(parts.n > 0, (parts.shift - shift) + parts.delta, 0)

    n = over(jnp.sum, psum, parts.n)
    weight = parts.n / jnp.maximum(n, 1)
    parts = in_units(parts, over(jnp.min, pmin, parts.shrink))
    # One of the means, not their mean: no consumer can compute it to another last bit.
    shifts = jnp.where(parts.n > 0, lax.stop_gradient(parts.shift), -jnp.inf)
    shift = jnp.where(n > 0, over(jnp.max, pmax, shifts), 0)
    square = lax.stop_gradient(parts.var + jnp.square(distance(parts, shift)))
    factor = jnp.where(over(jnp.max, pmax, square) < FAR, 1, SMALL).astype(shift.dtype)
    parts, shift = in_units(parts, parts.shrink * factor), shift * factor
    e = distance(parts, shift)
    delta = over(jnp.sum, psum, weight * e)
    var = over(jnp.sum, psum, weight * (parts.var + jnp.square(e - delta)))
    return Moments(shift, delta, var, n, parts.shrink)


def mix(
    x: jax.Array,
    stats: list[Moments],
    mean_weight: jax.Array,
    var_weight: jax.Array,
    epsilon: float,
) -> jax.Array:
    """Return (x - sum_k m_k mean_k) / sqrt(sum_k v_k var_k + epsilon), m and v weights of sum 1.

    x - mean is x - mean_0 + sum_k m_k (mean_0 - mean_k): no large mean is multiplied. Everything is
    relative to `inv`, a copy of 1 / std without gradient: (var + epsilon)^(-3/2) underflows.
    """
    shrink = stats[0].shrink
    for m in stats[1:]:
        shrink = jnp.minimum(shrink, m.shrink)
    centred = centre(x, stats[0]) * (shrink / stats[0].shrink)
    first, *others = (in_units(m, shrink) for m in stats)
    var = var_weight[0] * first.var
    for k, m in enumerate(others, 1):
        apart = (first.shift - m.shift) + (first.delta - m.delta)
        centred = centred + mean_weight[k] * apart
        var = var + var_weight[k] * m.var
    inv = lax.stop_gradient(lax.rsqrt(var + epsilon * jnp.square(shrink)))
    return centred * inv * lax.rsqrt(var * inv * inv + epsilon * jnp.square(shrink * inv))


def within_examples(x: jax.Array, mask: Mask) -> list[Moments]:
    """Return the instance and layer statistics of x [groups, b, ..., C]; of dense x the latter."""
    space = tuple(range(2, x.ndim - 1))
    if not space:
        return [statistics(x, (), groups=1, mask=mask)]
    instance = statistics(x, space, mask=mask)
    return [instance, pool(instance, -1)]


class SwitchNorm(RunningNorm):
    """y = scale * (x - sum_k m_k mean_k) / sqrt(sum_k v_k var_k + epsilon) + bias, k = instance
    (over H, W), layer (H, W, C), batch (N, H, W).

    m = softmax(mean_weight), v = softmax(var_weight). A dense input [N, C] has no instance
    statistics: k = layer, batch.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C], `mean_weight`, `var_weight`
    [3], dense [2], ones: equal weights.
    State: RunningNorm's, options too, of the batch statistics. Evaluation mixes the running ones
    with the instance and layer statistics of its own input.
    Raises ValueError where BatchNorm does, and where an instance, or dense a layer, has one value.
    Source: arXiv:1806.10779, section 2, weights and their order as in its published code
    (switchablenorms/Switchable-Normalization). Deviations: all variances are biased (equation 3;
    that code's are unbiased within an instance); running ones start at 1, not 0. Reads x once for
    all statistics: those over more are made of those over less. Gradients are off by 2e-3 at a std
    of 1e18, by more up to 1.8e19, by 1e-6 below and above.

    >>> layer = SwitchNorm()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 2, 2, 3)), train=True)
    >>> variables["params"]["mean_weight"].tolist()
    [1.0, 1.0, 1.0]
    """

    def parameters(self, x):
        space = axes_of(("H", "W"), x.ndim)
        self.refuse_one_image(x.ndim)
        refuse_one_value(self, x.shape, space, 0 if space else 1)
        kinds = 3 if space else 2
        weights = (
            jax.nn.softmax(parameter(self, name, 1, kinds))
            for name in ("mean_weight", "var_weight")
        )
        return *affine(self, x.shape[-1]), *weights

    def mixed(self, x, stats, parameters):
        scale, bias, mean_weight, var_weight = parameters
        y = mix(x, stats, mean_weight, var_weight, self.epsilon)
        return scale_and_shift(y, scale, bias)

    def from_batch(self, x, axes, running, parameters, **options):
        own = within_examples(x, options["mask"])
        is_dense = len(own) == 1
        batch = (
            statistics(x, axes, **options) if is_dense else pool(own[0], 1, options["axis_name"])
        )
        return self.mixed(x, [*own, batch], parameters), batch

    def from_running(self, x, mask, running, parameters):
        one = jnp.ones_like(running.var)
        leaves = (*running, one, one)
        batch = Moments(*(per_channel(leaf, x.ndim + 1) for leaf in leaves))
        own = within_examples(x[None], None if mask is None else mask[None])
        return self.mixed(x[None], [*own, batch], parameters)[0]
