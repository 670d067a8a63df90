"""What every scheme shares, scale and bias and the way masks act, and the two controls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.statistics.moments import fit_mask, zero_masked


def scale_of(module: nn.Module, channels: int) -> jax.Array:
    """Return the parameter `scale` [C] of a layer, ones at first."""
    return module.param("scale", nn.initializers.ones, (channels,))


def bias_of(module: nn.Module, channels: int) -> jax.Array:
    """Return the parameter `bias` [C] of a layer, zeros at first."""
    return module.param("bias", nn.initializers.zeros, (channels,))


def affine(module: nn.Module, channels: int) -> tuple[jax.Array, jax.Array]:
    """Return both."""
    return scale_of(module, channels), bias_of(module, channels)


def finish(module: nn.Module, y: jax.Array, dtype, mask: jax.Array | None) -> jax.Array:
    """Return scale * y + bias in `dtype`, masked positions 0, with the layer's own parameters."""
    scale, bias = affine(module, y.shape[-1])
    return zero_masked((y * scale + bias).astype(dtype), mask)


ROOM = 2.0**-8
"""What values near the largest float are multiplied with before they are added or divided by."""


@jax.custom_jvp
def safe_divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a / b for b > 0, right and with finite derivatives for b near the largest float.

    XLA multiplies with 1 / b, which is 0 for b above 8.5e37, and moves a constant factor of a and
    b there, but not one that it cannot know. Autodiff would square b.
    """
    room = jnp.where(b > 1e30, ROOM, 1.0).astype(b.dtype)
    return (a * room) / (b * room)


@safe_divide.defjvp
def _quotient_jvp(primals, tangents):
    y, b = safe_divide(*primals), primals[1]
    return y, tangents[0] / b - y * (tangents[1] / b)


class Identity(nn.Module):
    """y = x; masked positions are 0.

    Shapes: x [N, ..., C] -> the same. State: none. No parameters.
    """

    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train
        return zero_masked(x, fit_mask(mask, x.shape))


class Affine(nn.Module):
    """y = scale * x + bias per channel: the parameters of a norm, none of its statistics.

    Shapes: x [N, ..., C] -> the same, parameters [C]. State: none.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train
        mask = fit_mask(mask, x.shape)
        return finish(self, zero_masked(x, mask), x.dtype, mask)
