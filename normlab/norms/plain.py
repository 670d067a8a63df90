"""What every scheme shares, scale and bias and the way masks act, and the two controls."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.statistics.axes import refuse_degenerate
from normlab.statistics.moments import Mask, fit_mask, zero_masked


def name_of(module: nn.Module) -> str:
    """Return the name of a layer for messages: its own, else that of its class."""
    return module.name or type(module).__name__


def refuse_one_value(
    module: Any, shape: tuple[int, ...], *over: Any, axis_name: Any = None
) -> None:
    """Raise as `refuse_degenerate` does, but for a layer with `allow_degenerate`."""
    if not module.allow_degenerate:
        refuse_degenerate(name_of(module), shape, *over, axis_name=axis_name)


def scale_of(module: nn.Module, channels: int) -> jax.Array:
    """Return the parameter `scale` [C] of a layer, ones at first."""
    return module.param("scale", nn.initializers.ones, (channels,))


def bias_of(module: nn.Module, channels: int) -> jax.Array:
    """Return the parameter `bias` [C] of a layer, zeros at first."""
    return module.param("bias", nn.initializers.zeros, (channels,))


def affine(module: nn.Module, channels: int) -> tuple[jax.Array, jax.Array]:
    """Return both."""
    return scale_of(module, channels), bias_of(module, channels)


def finish(module: nn.Module, y: jax.Array, dtype, mask: Mask) -> jax.Array:
    """Return scale * y + bias in `dtype`, masked positions 0, with the layer's own parameters."""
    scale, bias = affine(module, y.shape[-1])
    return zero_masked((y * scale + bias).astype(dtype), mask)


ROOM = 2.0**-8
"""The factor on values near the largest float before they are added or divided by."""


@jax.custom_jvp
def safe_divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a / b for b > 0, right and with finite derivatives for b near the largest float.

    XLA multiplies with 1 / b, which is 0 for b above 8.5e37. It would move a constant factor of a
    and b there too, but not one that depends on b. Autodiff would square b.
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

    def __call__(self, x: jax.Array, *, train: bool = False, mask: Mask = None) -> jax.Array:
        del train
        return zero_masked(x, fit_mask(mask, x.shape))


class Affine(nn.Module):
    """y = scale * x + bias per channel: the parameters of a norm, none of its statistics.

    Shapes: x [N, ..., C] -> the same, parameters [C]. State: none.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask: Mask = None) -> jax.Array:
        del train
        mask = fit_mask(mask, x.shape)
        return finish(self, zero_masked(x, mask), x.dtype, mask)
