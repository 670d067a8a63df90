"""Channels that inhibit each other: global response, unit length, local response normalization."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from normlab.norms.plain import (
    ROOM,
    Scheme,
    bias_of,
    name_of,
    parameter,
    refuse_one_value,
    safe_divide,
    scale_of,
)
from normlab.statistics.axes import axes_of, count_values
from normlab.statistics.moments import Mask, moments, per_channel, std, to_float32, zero_masked
from normlab.statistics.normalize import normalize, scale_and_shift

_FLOOR = 1e-24
"""Added to a mean square before its root, whose derivatives are not finite at 0."""


class GlobalResponseNorm(Scheme):
    """y = response * (x * n) + bias + x, n = g / (mean_C(g) + epsilon), g = sqrt(sum_HW(x^2)).

    A channel is strengthened by how much larger its norm g is than the mean of all channels'.
    Shapes: x [N, ..., C] -> the same; parameters `response`, `bias` [C], both 0 at first: y = x.
    (The former is no `scale`, which is 1 at first wherever there is one.)
    State: none; training and evaluation agree. epsilon is added to a norm, not to a variance.
    Masked positions add nothing to g; channels without a valid value are left out of mean_C.
    Raises ValueError where there is one channel: it has none to compete with.
    Source: arXiv:2301.00808, section 3. Deviation: epsilon is 1e-5, as everywhere (there 1e-6).

    >>> x = jax.numpy.array([[3.0, 1.0]])
    >>> params = {"response": jax.numpy.ones(2), "bias": jax.numpy.zeros(2)}
    >>> GlobalResponseNorm(epsilon=0.0).apply({"params": params}, x).tolist()
    [[7.5, 1.5]]
    """

    epsilon: float = 1e-5
    allow_degenerate: bool = False

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        refuse_one_value(self, x.shape, (), 1)
        weight = per_channel(parameter(self, "response", 0, x.shape[-1]), x.ndim)
        bias = bias_of(self, x.shape[-1])
        x = zero_masked(to_float32(x), mask)
        space = axes_of(("H", "W"), x.ndim)
        # g over the root of the number of positions, which is no larger than the values
        g = std(moments(x, space, centered=False), _FLOOR)
        m = moments(g, (), groups=1, mask=None if mask is None else mask.any(space, keepdims=True))
        mean = (m.shift + m.delta) / m.shrink
        positions: Any = count_values(x.shape, space)
        if not isinstance(positions, int):  # of a symbolic shape
            positions = jnp.asarray(positions, g.dtype)
        relative = safe_divide(g, mean + self.epsilon / positions**0.5)
        return scale_and_shift(relative * (weight * x), None, bias) + x


class UnitNorm(Scheme):
    """y = scale * x / sqrt(sum_C(x^2) + epsilon): vectors of channels get length 1.

    Shapes: x [N, ..., C] -> the same; parameter `scale` [C]. State: none; training and evaluation
    agree. It is RMS norm divided by sqrt(C), with epsilon / C.
    Raises ValueError where there is one channel: the output would be its sign.
    Source: arXiv:1506.04579, section 3.3. Deviations: epsilon; scale starts at 1 (there 10 or 20).

    >>> x = jax.numpy.array([[3.0, 4.0]])
    >>> y, _ = UnitNorm(epsilon=0.0).init_with_output(jax.random.key(0), x)
    >>> y.round(6).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """

    epsilon: float = 1e-5
    allow_degenerate: bool = False

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        refuse_one_value(self, x.shape, (), 1)
        channels = x.shape[-1]
        scale = jnp.ones(channels) if not self.use_scale else scale_of(self, channels)
        y, _ = normalize(
            zero_masked(x, mask),  # zeros add nothing to the sum and stay 0
            (),
            groups=1,
            epsilon=self.epsilon / channels,
            scale=scale / channels**0.5,
            centered=False,
        )
        return y


class LocalResponseNorm(Scheme):
    """y = x / (k + alpha / n * sum(x^2))^beta, the sum over n neighbouring channels.

    The sum of channel c runs over c - n // 2 ... c + (n - 1) // 2; channels beyond the ends are 0.
    Shapes: x [N, ..., C] -> the same. State: none. No parameters. Masked values count as 0.
    Fields: `size` n > 0, `alpha`, `beta`, `k` > 0.
    Source: Krizhevsky, Sutskever and Hinton (NIPS 2012), section 3.3, as PyTorch defines it.
    Deviations: alpha is divided by n, and k is 1 where the paper's is 2. Size 5 is the paper's.

    >>> y = LocalResponseNorm(alpha=5.0, beta=0.5).apply({}, jax.numpy.array([[1.0, 0.0, 1.0]]))
    >>> y.round(3).tolist()
    [[0.5770000219345093, 0.0, 0.5770000219345093]]
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        if self.size < 1 or self.k <= 0:
            raise ValueError(f"{name_of(self)}: size {self.size} and k {self.k} must be above 0")
        x = zero_masked(to_float32(x), mask)
        n, channels = self.size, x.shape[-1]
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(n // 2, (n - 1) // 2)])
        near = [padded[..., i : i + channels] for i in range(n)]
        # In units of this size no square overflows; it is 1 for values up to 256. It is a constant
        # to derivatives: y is the same function of x whatever the size.
        largest = functools.reduce(jnp.maximum, map(jnp.abs, near))
        size = jax.lax.stop_gradient(jnp.maximum(largest * ROOM, 1.0))
        squares = sum(jnp.square(value / size) for value in near)
        base = self.k / size / size + self.alpha / n * squares
        return x / size * base**-self.beta * size ** (1 - 2 * self.beta)
