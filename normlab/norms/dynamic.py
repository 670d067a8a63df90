"""Element-wise functions in the place of a norm: dynamic tanh and dynamic erf, no statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.norms.plain import finish
from normlab.statistics.moments import Mask, fit_mask, to_float32, zero_masked


class DynamicTanh(nn.Module):
    """y = scale * tanh(a x) + bias, with one learned number a (parameter `alpha`) per layer.

    Shapes: x [N, ..., C] -> the same; `scale`, `bias` [C], `alpha` []. State: none.
    The field `alpha` is where the parameter starts.
    Source: arXiv:2503.10622, section 4. Deviation: none.

    >>> y, _ = DynamicTanh().init_with_output(jax.random.key(0), jax.numpy.array([[0.0, 1e30]]))
    >>> y.tolist()
    [[0.0, 1.0]]
    """

    alpha: float = 0.5

    def squash(self, z: jax.Array) -> jax.Array:
        """Return tanh(z); another function has its parameters here."""
        return jnp.tanh(z)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask: Mask = None) -> jax.Array:
        del train
        mask = fit_mask(mask, x.shape)
        alpha = self.param("alpha", nn.initializers.constant(self.alpha), ())
        y = self.squash(alpha * to_float32(zero_masked(x, mask)))
        return finish(self, y, x.dtype, mask)


class DynamicErf(DynamicTanh):
    """y = scale * erf(a x + s) + bias, with two learned numbers a and s per layer.

    Shapes: x [N, ..., C] -> the same; `scale`, `bias` [C], `alpha` (a), `shift` (s, 0 at first) [].
    State: none. The field `alpha` is where that parameter starts.
    Source: arXiv:2512.10938, the definition of Derf. Deviation: none.

    >>> y, _ = DynamicErf().init_with_output(jax.random.key(0), jax.numpy.array([[0.0, 1e30]]))
    >>> y.tolist()
    [[0.0, 1.0]]
    """

    def squash(self, z: jax.Array) -> jax.Array:
        return jax.lax.erf(z + self.param("shift", nn.initializers.zeros, ()))
