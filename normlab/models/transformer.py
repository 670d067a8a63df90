"""A transformer encoder over sequences of different lengths."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.models.time import TimeNorm, count_sequences, ends
from normlab.norms.builder import Layers

WIDER = 4
"""Units of a block's dense layer for each feature of a token (arXiv:1706.03762)."""
POSITION_SIZE = 0.02
"""Standard deviation of the initial vectors of positions (as in BERT)."""


def attend(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """Return softmax(q k^T / sqrt(d)) v over the valid steps, its softmax in float32.

    Shapes: q, k, v [T, N, heads, d], valid [T, N, 1] -> [T, N, heads, d].
    """
    products = jnp.einsum("qnhd,knhd->nhqk", q, k).astype(jnp.float32) / math.sqrt(q.shape[-1])
    products = jnp.where(valid[:, :, 0].T[:, None, None, :], products, -jnp.inf)
    weights = jax.nn.softmax(products, -1).astype(v.dtype)
    return jnp.einsum("nhqk,knhd->qnhd", weights, v)


class Block(nn.Module):
    """Attention, then two dense layers, each a branch f next to a shortcut; x [T, N, C].

    placement pre: x + f(norm(x)); post: norm(x + f(x)); peri: x + norm(f(norm(x))).
    Sources: arXiv:1706.03762 (post), arXiv:2002.04745 (pre), arXiv:2502.02732 (peri).
    """

    layers: Layers
    heads: int
    kernel_init: Initializer
    placement: str
    time: str
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, mask: jax.Array | None, places: jax.Array
    ) -> jax.Array:
        def norm(name: str, y: jax.Array) -> jax.Array:
            return TimeNorm(self.layers, self.time, self.train, name=f"norm_{name}")(
                y, mask, places
            )

        for name, branch in (("attention", self.attention), ("dense", self.feed)):
            y = x if self.placement == "post" else norm(name, x)
            y = branch(y, valid)
            y = norm(f"{name}_after", y) if self.placement == "peri" else y
            x = norm(name, x + y) if self.placement == "post" else x + y
        return x

    def dense(self, name: str, width: int, y: jax.Array) -> jax.Array:
        return self.layers.dense(width, kernel_init=self.kernel_init, name=name)(
            y, train=self.train
        )

    def attention(self, y: jax.Array, valid: jax.Array) -> jax.Array:
        width = y.shape[-1]
        parts = self.dense("dense_qkv", 3 * width, y)
        q, k, v = (
            p.reshape(*y.shape[:-1], self.heads, width // self.heads)
            for p in jnp.split(parts, 3, -1)
        )
        return self.dense("dense_out", width, attend(q, k, v, valid).reshape(y.shape))

    def feed(self, y: jax.Array, valid: jax.Array) -> jax.Array:
        act = self.layers.act(name="act")
        return self.dense(
            "dense_2", y.shape[-1], act(self.dense("dense_1", WIDER * y.shape[-1], y))
        )


class Encoder(nn.Module):
    """A dense layer, learned positions, blocks, the mean over the steps of a sequence, a head.

    Shapes: x [N, T, D + 1], mask [N] (see `ends`) -> logits [N, classes]. State: that of the norms,
    and `live` (see `count_sequences`). Placements pre and peri end with a norm of their own.
    """

    layers: Layers
    width: int
    blocks: int
    heads: int
    classes: int
    kernel_init: Initializer
    head_init: Initializer = glorot
    placement: str = "pre"
    time: str = "step"
    is_masked: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        h, valid, mask = ends(x, mask, self.is_masked)
        places = count_sequences(self, valid, train)
        h = self.layers.dense(self.width, kernel_init=glorot, name="dense_in")(h, train=train)
        first = nn.initializers.normal(POSITION_SIZE)
        h = h + self.param("positions", first, (len(h), 1, self.width))
        for i in range(1, self.blocks + 1):
            block = Block(
                self.layers,
                self.heads,
                self.kernel_init,
                self.placement,
                self.time,
                train,
                name=f"block_{i}",
            )
            h = block(h, valid, mask, places)
        if self.placement != "post":
            h = TimeNorm(self.layers, self.time, train, name="norm_last")(h, mask, places)
        mean = jnp.where(valid, h, 0).sum(0) / jnp.maximum(valid.sum(0), 1)
        return self.layers.head(self.classes, kernel_init=self.head_init, name="head")(mean)
