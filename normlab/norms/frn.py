"""Filter response normalization, and the thresholded activation that belongs to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.norms.plain import name_of
from normlab.norms.sample import SampleNorm
from normlab.statistics.moments import as_floats


class FilterResponseNorm(SampleNorm):
    """y = scale * x / sqrt(E[x^2] + epsilon) + bias, mean square over H, W per example and channel.

    Shapes: x [N, ..., C] -> the same; parameters [C]. State: none; training and evaluation agree.
    Raises ValueError where a statistic would be made of one value, as in dense inputs [N, C].
    Source: arXiv:1911.09737, section 3. Deviation: epsilon is not learned; the paper learns it
    for 1x1 activations, which are refused here.

    >>> x = jax.numpy.array([[[3.0], [3.0]]])
    >>> y, _ = FilterResponseNorm(epsilon=0.0).init_with_output(jax.random.key(0), x)
    >>> y.tolist()
    [[[1.0], [1.0]]]
    """

    over: tuple[str, ...] = ("H", "W")
    centered: bool = False


class TLU(nn.Module):
    """y = max(x, tau), a ReLU whose threshold is learned: relu(x - tau) + tau.

    Shapes: x [N, ..., C] -> the same; parameter `tau` [C], 0 at first. State: none. `axis` is that
    of the channels.
    Source: arXiv:1911.09737, section 3. Deviation: none.

    >>> y, _ = TLU().init_with_output(jax.random.key(0), jax.numpy.array([[-1.0, 2.0]]))
    >>> y.tolist()
    [[0.0, 2.0]]
    """

    axis: int = -1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_floats(x, name_of(self))
        shape = [1] * x.ndim
        shape[self.axis] = x.shape[self.axis]
        tau = self.param("tau", nn.initializers.zeros, (x.shape[self.axis],), jnp.float32)
        return jnp.maximum(x, tau.reshape(shape)).astype(x.dtype)
