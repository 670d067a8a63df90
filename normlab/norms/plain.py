"""The two controls: nothing at all, and the parameters of a norm without its statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


def scale_and_bias(
    module: nn.Module, y: jax.Array, use_scale: bool = True, use_bias: bool = True
) -> jax.Array:
    """Return scale * y + bias with the parameters `scale` (ones) and `bias` (zeros), each [C]."""
    channels = (y.shape[-1],)
    if use_scale:
        y = y * module.param("scale", nn.initializers.ones, channels, jnp.float32)
    if use_bias:
        y = y + module.param("bias", nn.initializers.zeros, channels, jnp.float32)
    return y


class Identity(nn.Module):
    """y = x.

    Shapes: x [N, ..., C] -> the same. State: none. No parameters.
    """

    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train, mask
        return x


class Affine(nn.Module):
    """y = scale * x + bias per channel: the parameters of a norm, none of its statistics.

    Shapes: x [N, ..., C] -> the same, parameters [C]. State: none.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train, mask
        return scale_and_bias(self, x).astype(x.dtype)
