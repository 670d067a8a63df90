"""Element-wise functions in the place of a norm: dynamic tanh and dynamic erf, no statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.norms.plain import Scheme, finish, parameter
from normlab.statistics.moments import Mask, to_float32, zero_masked


class DynamicTanh(Scheme):
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

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        alpha = parameter(self, "alpha", self.alpha)
        return finish(self, self.squash(alpha * to_float32(zero_masked(x, mask))))


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
        return jax.lax.erf(z + parameter(self, "shift", 0))
