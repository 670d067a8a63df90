"""What every scheme shares: its signature, its input, scale and bias; and the two controls."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.core import Tracer

from normlab.statistics.axes import refuse_degenerate
from normlab.statistics.moments import Mask, as_floats, fit_mask, zero_masked
from normlab.statistics.normalize import scale_and_shift


def name_of(module: nn.Module) -> str:
    """Return the name of a layer for messages: its own, else that of its class."""
    return module.name or type(module).__name__


LIMITS = {"epsilon": (0, math.inf), "momentum": (0, 1)}
"""The legal values of fields that several schemes have; infinity is not one."""


class Scheme(nn.Module):
    """Base of every scheme: y = layer(x, train, mask), of which a scheme writes `respond`.

    x [N, ..., C] -> the same, or a single vector [C]. Integers and booleans are read as float32;
    every other y has the dtype of x. `mask`: True where a position of x is valid, see `fit_mask`.
    Masked positions of y are 0. `train` may be given by position, as `nn.remat` needs it.
    Raises ValueError for complex x, and at construction for a field outside of LIMITS. Raises
    TypeError for a traced `train`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, (low, high) in LIMITS.items():
            value = getattr(self, field, low)
            if isinstance(value, (int, float)) and not (low <= value <= high and value < math.inf):
                raise ValueError(
                    f"{name_of(self)}: {field} {value} is not a number from {low} to {high}"
                )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, mask: Mask = None) -> jax.Array:
        x, shape = as_floats(x, name_of(self)), jnp.shape(x)
        if isinstance(train, Tracer):
            raise TypeError(
                f"{name_of(self)}: `train` is traced; under nn.remat write static_argnums=(2,) "
                "and give it by position: layer(x, True)"
            )
        x = x if shape[1:] else x[None]
        mask = fit_mask(mask, x.shape)
        y = self.respond(x, train, mask)
        return zero_masked(y.astype(x.dtype), mask).reshape(shape)

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        """Return y for x [N, ..., C] with a mask in its shape; y at masked positions is free."""
        raise NotImplementedError


def refuse_one_value(
    module: Any, shape: tuple[int, ...], axes: tuple[int, ...], *groups: int, axis_name: Any = None
) -> None:
    """Raise as `refuse_degenerate` does, but for a layer with `allow_degenerate`, and not for the
    number of examples that a network is initialized with."""
    if not module.allow_degenerate and not (module.is_initializing() and 0 in axes):
        refuse_degenerate(name_of(module), shape, axes, *groups, axis_name=axis_name)


def scale_of(module: nn.Module, channels: int) -> jax.Array:
    """Return the parameter `scale` [C] of a layer, ones at first."""
    return module.param("scale", nn.initializers.ones, (channels,))


def bias_of(module: nn.Module, channels: int) -> jax.Array:
    """Return the parameter `bias` [C] of a layer, zeros at first."""
    return module.param("bias", nn.initializers.zeros, (channels,))


def affine(module: nn.Module, channels: int) -> tuple[jax.Array, jax.Array]:
    """Return both."""
    return scale_of(module, channels), bias_of(module, channels)


def finish(module: nn.Module, y: jax.Array) -> jax.Array:
    """Return scale * y + bias with the layer's own parameters."""
    return scale_and_shift(y, *affine(module, y.shape[-1]))


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


class Identity(Scheme):
    """y = x; masked positions are 0.

    Shapes: x [N, ..., C] -> the same. State: none. No parameters.
    """

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        return x


class Affine(Scheme):
    """y = scale * x + bias per channel: the parameters of a norm, none of its statistics.

    Shapes: x [N, ..., C] -> the same, parameters [C]. State: none.
    """

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        return finish(self, zero_masked(x, mask))
