"""Transformers: an encoder of sequences of different lengths, a decoder of text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, is_causal: bool = False
) -> jax.Array:
    """Return softmax(q k^T / sqrt(d)) v over the valid steps, its softmax in float32. `is_causal`:
    a step sees itself and those before it.

    Shapes: q, k, v [T, N, heads, d], valid [T, N, 1] -> [T, N, heads, d].
    """
    products = jnp.einsum("qnhd,knhd->nhqk", q, k).astype(jnp.float32) / math.sqrt(q.shape[-1])
    products = jnp.where(valid[:, :, 0].T[:, None, None, :], products, -jnp.inf)
    if is_causal:
        products = jnp.where(jnp.tri(len(q), dtype=bool), products, -jnp.inf)
    weights = jax.nn.softmax(products, -1).astype(v.dtype)
    return jnp.einsum("nhqk,knhd->qnhd", weights, v)


PlacedNorm = Callable[[str, jax.Array], jax.Array]
"""norm(name, y [T, N, ..., C]) -> y."""


class Block(nn.Module):
    """Attention, then two dense layers, each a branch f next to a shortcut; x [T, N, C].

    placement pre: x + f(norm(x)); post: norm(x + f(x)); peri: x + norm(f(norm(x))). With `residual`
    skipinit, a f in the place of the f that is added, a = 0 at first. With `qk_norm` the queries
    and keys of all heads have a norm each, whose channels are those of one head.
    Sources: arXiv:1706.03762 (post), arXiv:2002.04745 (pre), arXiv:2502.02732 (peri),
    arXiv:2010.04245 (queries and keys, there divided by their length), arXiv:2003.04887 (a).
    """

    layers: Layers
    heads: int
    kernel_init: Initializer
    placement: str
    time: str
    train: bool
    residual: str = "identity"
    qk_norm: bool = False
    is_causal: bool = False

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
            y = branch(y, valid, norm)
            y = norm(f"{name}_after", y) if self.placement == "peri" else y
            if self.residual == "skipinit":
                y = y * self.param(f"gain_{name}", nn.initializers.zeros, ())
            x = norm(name, x + y) if self.placement == "post" else x + y
        return x

    def dense(self, name: str, width: int, y: jax.Array) -> jax.Array:
        return self.layers.dense(width, kernel_init=self.kernel_init, name=name)(
            y, train=self.train
        )

    def attention(self, y: jax.Array, valid: jax.Array, norm: PlacedNorm) -> jax.Array:
        width = y.shape[-1]
        parts = self.dense("dense_qkv", 3 * width, y)
        q, k, v = (
            p.reshape(*y.shape[:-1], self.heads, width // self.heads)
            for p in jnp.split(parts, 3, -1)
        )
        if self.qk_norm:
            q, k = norm("queries", q), norm("keys", k)
        mixed = attend(q, k, v, valid, self.is_causal)
        return self.dense("dense_out", width, mixed.reshape(y.shape))

    def feed(self, y: jax.Array, *_: Any) -> jax.Array:
        act = self.layers.act(name="act")
        return self.dense(
            "dense_2", y.shape[-1], act(self.dense("dense_1", WIDER * y.shape[-1], y))
        )


class Transformer(nn.Module):
    """What the encoder and the decoder share: blocks, and with placements pre and peri a norm of
    their sum. State: that of the norms, and `live` (see `count_sequences`)."""

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
    residual: str = "identity"
    qk_norm: bool = False

    def through_blocks(
        self,
        h: jax.Array,
        valid: jax.Array,
        mask: jax.Array | None,
        train: bool,
        is_causal: bool = False,
    ) -> jax.Array:
        """Add positions to h [T, N, C] and return what leaves the last block."""
        places = count_sequences(self, valid, train)
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
                self.residual,
                self.qk_norm,
                is_causal,
                name=f"block_{i}",
            )
            h = block(h, valid, mask, places)
        if self.placement != "post":
            h = TimeNorm(self.layers, self.time, train, name="norm_last")(h, mask, places)
        return h


class Encoder(Transformer):
    """A dense layer, learned positions, blocks, the mean over the steps of a sequence, a head.

    Shapes: x [N, T, D + 1], mask [N] (see `ends`) -> logits [N, classes].
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        h, valid, mask = ends(x, mask, self.is_masked)
        h = self.layers.dense(self.width, kernel_init=glorot, name="dense_in")(h, train=train)
        h = self.through_blocks(h, valid, mask, train)
        mean = jnp.where(valid, h, 0).sum(0) / jnp.maximum(valid.sum(0), 1)
        return self.layers.head(self.classes, kernel_init=self.head_init, name="head")(mean)


class Decoder(Transformer):
    """Embedded tokens, learned positions, causal blocks, a head at every step.

    Shapes: tokens [N, T], mask [N] -> logits [N, T, classes] of the token after each. With `tied`
    the head is the embedding, transposed. Sources: GPT-2 (Radford et al. 2019), arXiv:1608.05859
    (tied). Deviations: no dropout, one optimiser setting for all parameters.
    """

    tied: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        tokens, valid, mask = ends(x, mask, self.is_masked)
        first = nn.initializers.normal(POSITION_SIZE)
        embedding = nn.Embed(self.classes, self.width, embedding_init=first, name="embedding")
        h = self.through_blocks(embedding(tokens), valid, mask, train, is_causal=True)
        if self.tied:
            logits = embedding.attend(h)
        else:
            logits = self.layers.head(self.classes, kernel_init=self.head_init, name="head")(h)
        return logits.swapaxes(0, 1)
