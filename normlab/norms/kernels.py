"""Our one Conv and one Dense: every arm of a comparison uses them, bias included.

On a CPU a convolution is written as shifted slices and one matrix product ("patches"):
`lax.conv_general_dilated` inside `lax.scan` runs 4.5 to 7.7 steps/s where patches reach 98 to 104
(28x28 CNN, batch 64, 2 cores, 2026-11-20).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normlab.norms.reparam import act_gain, starting_at
from normlab.norms.table import find_kernel

Initializer = Callable[..., Any]
FORMS = ("patches", "lax")


def conv_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the SAME convolution of x [N, H, W, C] with kernel [k, k, C, F], k odd, as a matmul.

    Padding is (k - 1) / 2 on every side, so the output is [N, ceil(H / stride), ...]; for stride 1
    that is XLA's SAME, for larger strides PyTorch's padding = (k - 1) / 2.
    """
    k, _, channels, features = kernel.shape
    n, height, width, _ = x.shape
    side = (k - 1) // 2
    padded = jnp.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + width : stride, :]
        for i in range(k)
        for j in range(k)
    ]
    columns = jnp.concatenate(shifted, axis=-1)
    out = columns.reshape(-1, k * k * channels) @ kernel.reshape(-1, features)
    return out.reshape(*columns.shape[:3], features)


def conv_lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the same convolution by XLA's own operation: the form for accelerators."""
    side = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(side, side), (side, side)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def kernel_scheme(name: str, act: Callable[[jax.Array], jax.Array]) -> Callable[..., Any] | None:
    """Return the factory of the kernel scheme `name` for a network with the activation `act`."""
    row = find_kernel(name)
    if not row.module:
        return None
    scheme = pkgutil.resolve_name(row.module)
    takes_gain = "act_gain" in scheme.__dataclass_fields__
    return partial(scheme, act_gain=act_gain(act)) if takes_gain else scheme


def respond_with_bias(
    layer: Conv | Dense, kernel: jax.Array, respond: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Return respond(kernel) + bias, with what the layer's scheme puts in the kernel's place."""
    first_bias = None
    if layer.reparam is not None:
        kernel, first_bias = layer.reparam(name="reparam")(kernel, respond)
    bias = layer.param("bias", starting_at(first_bias), kernel.shape[-1:], jnp.float32)
    y = respond(kernel)
    return y + bias.astype(y.dtype)


class Conv(nn.Module):
    """y = x * kernel + bias, a k x k convolution with padding (k - 1) / 2 on each side.

    Shapes: x [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features]; parameters
    `kernel` [k, k, C, features], `bias` [features]. State: none.
    `form` is "patches" or "lax": the same arithmetic in another order (see the module).
    `reparam` makes the module that puts another kernel in place of the parameter, with parameters
    and state under the name `reparam` (see normlab.norms.reparam).
    """

    features: int
    kernel_init: Initializer
    size: int = 3
    stride: int = 1
    form: str = "patches"
    reparam: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        convolve = {"patches": conv_patches, "lax": conv_lax}[self.form]
        return respond_with_bias(
            self, kernel, lambda k: convolve(x, k.astype(x.dtype), self.stride)
        )


class Dense(nn.Module):
    """y = x @ kernel + bias.

    Shapes: x [N, C] -> [N, features]; parameters `kernel` [C, features], `bias` [features].
    State: none. `reparam`: as in Conv.
    """

    features: int
    kernel_init: Initializer
    reparam: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return respond_with_bias(self, kernel, lambda k: x @ k.astype(x.dtype))
