"""L1 batch normalization: scaled by the mean absolute deviation instead of the std."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax

from normlab.norms.running import RunningNorm
from normlab.statistics.along import psum
from normlab.statistics.moments import centre, moments, zero_masked
from normlab.statistics.normalize import scale_and_shift

TO_STD = math.sqrt(math.pi / 2)
"""std / mean absolute deviation of a normal distribution."""


class L1BatchNorm(RunningNorm):
    """y = scale * (x - mean) / sqrt(s^2 + epsilon) + bias, s = sqrt(pi / 2) * mean|x - mean|, over
    N, H, W per channel.

    s is the std of normally distributed values, without squares of them.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C].
    State: RunningNorm's, options too; the leaf `var` follows s^2, at most the largest float32, so
    that evaluation is BatchNorm's. running_var="unbiased" (s^2 times n / (n - 1)) is right for it
    too, for normally distributed values. Training uses the batch's statistics, evaluation the
    running ones.
    Raises ValueError where BatchNorm does.
    Source: arXiv:1802.09769, arXiv:1803.01814 section 4 and the L1 control of arXiv:1805.11604.
    Deviations: epsilon is added to s^2 under the root, as in batch norm; the papers add it to s, or
    have none. s^2 is averaged, as a variance is, not s.

    >>> import jax
    >>> x = jax.numpy.array([[1.0], [3.0]])
    >>> y, _ = L1BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    >>> (y * jax.numpy.sqrt(jax.numpy.pi / 2)).round(3).tolist()
    [[-1.0], [1.0]]
    """

    def from_batch(self, x, axes, running, parameters, **options):
        scale, bias = parameters
        m = moments(x, axes, **options)
        centred = centre(x, m)
        own = jnp.sum(zero_masked(jnp.abs(centred), options["mask"]), axes, keepdims=True)
        total = psum(own, options["axis_name"])
        s = TO_STD * total / jnp.maximum(m.n, 1)
        # Relative to h, a copy of the root without gradient, all is about 1: nothing overflows.
        root = math.sqrt(self.epsilon) * m.shrink
        h = lax.stop_gradient(jnp.hypot(s, root))
        y = (centred / h) * lax.rsqrt(jnp.square(s / h) + jnp.square(root / h))
        return scale_and_shift(y, scale, bias), m._replace(var=jnp.square(s))
