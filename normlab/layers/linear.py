"""Our one Conv and one Dense: every arm of a comparison uses them, bias included."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.convolutions import FORMS
from normlab.layers.factory import factory
from normlab.layers.reparam import act_gain, starting_at
from normlab.layers.table import find_kernel
from normlab.statistics.moments import as_floats, per_channel

Initializer = Callable[..., Any]


def kernel_scheme(
    name: str, act: Callable[[jax.Array], jax.Array], start: str = "data"
) -> Callable[..., Any] | None:
    """Return the factory of the kernel scheme `name` for a network with the activation `act`.

    `start` "norm": see WeightNorm. Raises ValueError where the scheme has no such choice.
    """
    row = find_kernel(name)
    scheme = pkgutil.resolve_name(row.module) if row.module else None
    fields = getattr(scheme, "__dataclass_fields__", {})
    if start != "data" and "start" not in fields:
        raise ValueError(f"kernel scheme {name!r} takes no start {start!r}; leave it out")
    options: dict[str, Any] = {} if start == "data" else {"start": start}
    if "act_gain" in fields:
        options["act_gain"] = act_gain(act)
    return factory(scheme, **options) if options and scheme else scheme


def respond_with_bias(
    layer: Conv | Dense,
    kernel: jax.Array,
    respond: Callable[[jax.Array], jax.Array],
    train: bool | None,
) -> jax.Array:
    """Return respond(kernel) + bias, with what the layer's scheme puts in the kernel's place."""
    first_bias = None
    if layer.reparam is not None:
        kernel, first_bias = layer.reparam(name="reparam")(kernel, respond, train)
    if not layer.use_bias:
        return respond(kernel)
    bias = layer.param("bias", starting_at(first_bias), kernel.shape[-1:], jnp.float32)
    y = respond(kernel)
    return y + per_channel(bias.astype(y.dtype), y.ndim)


class Conv(nn.Module):
    """y = x * kernel + bias, a k x k convolution with padding (k - 1) / 2 on each side.

    Shapes: x [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features]; parameters
    `kernel` [k, k, C, features], `bias` [features] if `use_bias`. State: none.
    Integers and booleans are read as float32; complex numbers raise ValueError.
    `form`, see normlab.layers.convolutions, changes the speed and the order of the sums.
    `reparam` makes the module that puts another kernel in place of the parameter, with parameters
    and state under the name `reparam` (see normlab.layers.reparam). `train` says whether that state
    moves; None: where `norm_state` is mutable. `dtype` is that of the product and of y; None: x's.
    """

    features: int
    kernel_init: Initializer
    size: int = 3
    stride: int = 1
    form: str = "patches"
    use_bias: bool = True
    reparam: Callable[..., Any] | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool | None = None) -> jax.Array:
        x = as_floats(x, self.name or "Conv")
        x = x if self.dtype is None else x.astype(self.dtype)
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return respond_with_bias(
            self, kernel, lambda k: FORMS[self.form](x, k.astype(x.dtype), self.stride), train
        )


class Dense(nn.Module):
    """y = x @ kernel + bias.

    Shapes: x [..., C] -> [..., features]; parameters `kernel` [C, features], `bias` [features] if
    `use_bias`. State: none. `reparam`, `train`, `dtype`: as in Conv.
    """

    features: int
    kernel_init: Initializer
    use_bias: bool = True
    reparam: Callable[..., Any] | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool | None = None) -> jax.Array:
        x = as_floats(x, self.name or "Dense")
        x = x if self.dtype is None else x.astype(self.dtype)
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return respond_with_bias(self, kernel, lambda k: x @ k.astype(x.dtype), train)
