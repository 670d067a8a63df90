"""What every scheme shares: its signature, its input, scale and bias; and the two controls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.statistics.axes import refuse_degenerate
from normlab.statistics.moments import (
    Mask,
    as_floats,
    fit_mask,
    refuse_traced,
    to_float32,
    zero_masked,
)
from normlab.statistics.normalize import scale_and_shift


def name_of(module: nn.Module) -> str:
    """Return the name of a layer for messages: its own, else that of its class."""
    return module.name or type(module).__name__


Initializer = Callable[..., Any]
LIMITS = {"epsilon": (0, math.inf), "momentum": (0, 1)}
"""The legal values of fields that several schemes have; infinity is not one."""


class Scheme(nn.Module, kw_only=True):
    """Base of every scheme: y = layer(x, train, mask), of which a scheme writes `respond`.

    x [N, ..., C] -> the same, or a single vector [C]. Integers and booleans are read as float32;
    every other y has the dtype of x. `mask`: True where a position of x is valid, see `fit_mask`.
    Masked positions of y are 0. `train` may be given by position, as `nn.remat` needs it.
    `scale`, `bias` of the call: y * scale + bias after the layer's own, see `fit_outer`.

    axis: the axis of the channels in x and the mask; 1 for [N, C, H, W].
    dtype: of y; None is that of x. Statistics and y are computed in float32 or wider.
    param_dtype: in which the parameters are kept. use_scale, use_bias: whether the layer has these
    parameters; scale_init, bias_init: where they start (zeros for the last norm of a residual
    branch). A scheme without the parameter has no use for them.
    Raises ValueError for complex x, and at construction for a field outside of LIMITS. Raises
    TypeError for a traced `train`.
    """

    axis: int = -1
    dtype: Any = None
    param_dtype: Any = jnp.float32
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, (low, high) in LIMITS.items():
            value = getattr(self, field, low)
            if isinstance(value, (int, float)) and not (low <= value <= high and value < math.inf):
                raise ValueError(
                    f"{name_of(self)}: {field} {value} is not a number from {low} to {high}"
                )

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        mask: Mask = None,
        *,
        scale: Any = None,
        bias: Any = None,
    ) -> jax.Array:
        x = as_floats(x, name_of(self))
        shape = x.shape
        refuse_traced(train, name_of(self))
        x = x if shape[1:] else x[None]
        axis = channel_axis(self, x.shape) if shape[1:] else -1
        mask = fit_mask(mask, x.shape)
        dtype, outer = self.dtype or x.dtype, (fit_outer(self, v, x.shape) for v in (scale, bias))
        x, mask, scale, bias = (move(v, axis, -1) for v in (x, mask, *outer))
        y = scale_and_shift(self.respond(x, train, mask), scale, bias)
        return move(zero_masked(y.astype(dtype), mask), -1, axis).reshape(shape)

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        """Return y for x [N, ..., C] with a mask in its shape; y at masked positions is free."""
        raise NotImplementedError


def channel_axis(layer: Scheme, shape: tuple[int, ...]) -> int:
    """Return the axis of the channels; raises ValueError where x has no such axis or it is N."""
    ndim = len(shape)
    axis = layer.axis - ndim if layer.axis > 0 else layer.axis
    if not -ndim < axis < 0:
        legal = f"from 1 to {ndim - 1}" if ndim > 2 else "1"
        raise ValueError(
            f"{name_of(layer)}: axis {layer.axis} is no axis of channels of an input of shape "
            f"{shape}; axis 0 is N, the channels are axis {legal} or counted from the end"
        )
    return axis


def move(x: Any, source: int, target: int) -> Any:
    """Return x with one axis moved, unless it is there or x is None."""
    return x if x is None or source == target else jnp.moveaxis(x, source, target)


def fit_outer(layer: Scheme, value: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Return a factor or term of the call with the number of axes of x, float32 or wider.

    [C] is one for all examples, [N, C] one for each (FiLM, adaptive layer norm, conditional batch
    norm). With as many axes as x, each has its length or 1. Raises ValueError for another shape.
    """
    if value is None:
        return None
    value, axis = to_float32(as_floats(value, name_of(layer))), channel_axis(layer, shape)
    given, channels = value.shape, shape[axis]
    if given in ((channels,), (shape[0], channels), (1, channels)) and value.ndim <= 2:
        wide = [1] * len(shape)
        wide[0], wide[axis] = (given[0] if value.ndim == 2 else 1), channels
        return value.reshape(wide)
    if value.ndim != len(shape) or any(a not in (1, b) for a, b in zip(given, shape, strict=True)):
        raise ValueError(
            f"{name_of(layer)}: a scale or bias of shape {given} does not fit an input of shape "
            f"{shape}; give [C], [N, C] or as many axes as the input has"
        )
    return value


def refuse_one_value(
    module: Any, shape: tuple[int, ...], axes: tuple[int, ...], *groups: int, axis_name: Any = None
) -> None:
    """Raise as `refuse_degenerate` does, but for a layer with `allow_degenerate`, and not for the
    number of examples that a network is initialized with."""
    if not module.allow_degenerate and not (module.is_initializing() and 0 in axes):
        refuse_degenerate(name_of(module), shape, axes, *groups, axis_name=axis_name)


def scale_of(layer: Scheme, *shape: int) -> jax.Array | None:
    """Return the parameter `scale` of a layer, [C] or of another shape, float32 or wider."""
    if not layer.use_scale:
        return None
    return to_float32(layer.param("scale", layer.scale_init, shape, layer.param_dtype))


def bias_of(layer: Scheme, *shape: int) -> jax.Array | None:
    """Return the parameter `bias` likewise."""
    if not layer.use_bias:
        return None
    return to_float32(layer.param("bias", layer.bias_init, shape, layer.param_dtype))


def affine(layer: Scheme, *shape: int) -> tuple[jax.Array | None, jax.Array | None]:
    """Return both."""
    return scale_of(layer, *shape), bias_of(layer, *shape)


def parameter(layer: Scheme, name: str, start: float, *shape: int) -> jax.Array:
    """Return another parameter of a layer, which starts at this value everywhere."""
    init = nn.initializers.constant(start)
    return to_float32(layer.param(name, init, shape, layer.param_dtype))


def finish(layer: Scheme, y: jax.Array) -> jax.Array:
    """Return scale * y + bias with the layer's own parameters."""
    return scale_and_shift(y, *affine(layer, y.shape[-1]))


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
