"""A plain convolutional network."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.norms.builder import Layers


def corners(x: jax.Array) -> list[jax.Array]:
    """Return the four pixels of every 2x2 window of x, each [N, H / 2, W / 2, C]."""
    windows = pairs(x)
    return [windows[:, :, i, :, j] for i in range(2) for j in range(2)]


def pairs(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c)


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    return functools.reduce(jnp.maximum, corners(x))


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _max_pool(x), x


def _backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    largest = _max_pool(x)
    share = 1 / sum((corner == largest).astype(dy.dtype) for corner in corners(x))

    def spread(y: jax.Array) -> jax.Array:
        return y[:, :, None, :, None, :]

    return (jnp.where(pairs(x) == spread(largest), spread(dy * share), 0).reshape(x.shape),)


_max_pool.defvjp(_forward, _backward)


def max_pool(x: jax.Array) -> jax.Array:
    """Return the 2x2 max pool of x [N, H, W, C], odd last rows and columns dropped.

    Equal maxima share the gradient, as in the derivative of jnp.max. Microseconds of forward and
    backward, [64, 28, 28, 16] on one core, 2026-11-20: 86 + 350; as reshape and max 219 + 3,472.
    (nn.max_pool's select-and-scatter costs as much as the rest of the step.)
    """
    h, w = x.shape[1:3]
    return _max_pool(x[:, : h // 2 * 2, : w // 2 * 2])


class CNN(nn.Module):
    """3x3 conv - norm - act (pre) or conv - act - norm (post), pools, global mean, dense head.

    Shapes: x [N, H, W, C], mask [N] (True: a real example) -> logits [N, classes]. `pools[i]` says
    whether a 2x2 max pool follows layer i; `stride` is that of the first convolution. Every layer
    has its bias in every arm.
    """

    layers: Layers
    widths: tuple[int, ...]
    pools: tuple[bool, ...]
    classes: int
    kernel_init: Initializer
    head_init: Initializer = glorot
    placement: str = "pre"
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        conv, norm, act = self.layers.conv, self.layers.norm, self.layers.act
        mask = None if mask is None else mask[:, None, None, None]
        for i, (width, pool) in enumerate(zip(self.widths, self.pools, strict=True), 1):
            stride = self.stride if i == 1 else 1
            x = conv(width, kernel_init=self.kernel_init, stride=stride, name=f"conv_{i}")(
                x, train=train
            )
            if self.placement == "pre":
                x = act(name=f"act_{i}")(norm(name=f"norm_{i}")(x, train=train, mask=mask))
            else:
                x = norm(name=f"norm_{i}")(act(name=f"act_{i}")(x), train=train, mask=mask)
            x = max_pool(x) if pool else x
        head = self.layers.head(self.classes, kernel_init=self.head_init, name="head")
        return head(x.mean((1, 2)))
