"""Recurrent networks over sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.models.table import PRODUCTS
from normlab.models.time import TimeNorm, are_tokens, count_sequences, ends, over_time
from normlab.norms.builder import Layers

State = tuple[jax.Array, ...]


def simple_step(state: State, a: jax.Array, b: jax.Array) -> State:
    """h = tanh(a + b)."""
    return (jnp.tanh(a + b),)


def gru_step(state: State, a: jax.Array, b: jax.Array) -> State:
    """r, z = sigmoid(a + b); n = tanh(a + r b); h = n + z (h - n). arXiv:1406.1078, as in cuDNN."""
    (h,) = state
    (ar, az, an), (br, bz, bn) = jnp.split(a, 3, -1), jnp.split(b, 3, -1)
    r, z = jax.nn.sigmoid(ar + br), jax.nn.sigmoid(az + bz)
    n = jnp.tanh(an + r * bn)
    return (n + z * (h - n),)


def lstm_step(state: State, a: jax.Array, b: jax.Array) -> State:
    """i, f, o = sigmoid(a + b); c = f c + i tanh(a + b); h = o tanh(c)."""
    _, c = state
    i, f, o, g = jnp.split(a + b, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


CELLS: dict[str, tuple[int, Callable[[State, jax.Array, jax.Array], State]]] = {
    "rnn": (1, simple_step),
    "gru": (1, gru_step),
    "lstm": (2, lstm_step),
}
"""Name -> vectors in its state, and one step from state, a and b to state."""


def orthogonal_parts(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """Return a kernel [H, k H] of k orthogonal matrices."""
    size, width = shape
    draw = nn.initializers.orthogonal()
    keys = jax.random.split(key, width // size)
    return jnp.concatenate([draw(k, (size, size), dtype) for k in keys], 1)


def first_bias(cell: str, size: int) -> Initializer:
    """Return the initializer of a cell's bias: 1 for the forget gate of an LSTM, else 0."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bias = jnp.zeros(shape, dtype)
        return bias.at[size : 2 * size].set(1) if cell == "lstm" else bias

    return init


def is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Return whether the backward pass finds the value of an operation of a cell, or computes it
    again. The gates cost most to compute; all else costs less than its memory does."""
    return primitive.name in ("logistic", "tanh")


class CellStep(nn.Module):
    """One step of a cell: state, (a, valid, mask of the norm) -> state, h.

    Where a sequence is over, its state stays.
    """

    layers: Layers
    cell: str
    size: int
    has_norm: bool
    train: bool

    @nn.compact
    def __call__(self, state: State, now: Any) -> tuple[State, jax.Array]:
        a, valid, mask = now
        _, step = CELLS[self.cell]
        width = PRODUCTS[self.cell] * self.size
        dense = self.layers.dense(
            width, kernel_init=orthogonal_parts, use_bias=False, name="dense_hidden"
        )
        b = dense(state[0], train=self.train)
        if self.has_norm:
            b = self.layers.norm(name="norm_hidden")(b, train=self.train, mask=mask)
        new = jax.checkpoint(step, prevent_cse=False, policy=is_kept)(state, a, b)
        kept = tuple(jnp.where(valid, n, old) for n, old in zip(new, state, strict=True))
        return kept, kept[0]


class Recurrence(nn.Module):
    """One recurrent layer: x [T, N, D], valid [T, N, 1] -> h [T, N, size] and the last one.

    a = norm(x W) + bias and b = norm(h U) with `normed` "both", b = h U with "input". `mask`: what
    counts in statistics, [T, N, 1] or None. `places` [T]: whose statistics a step evaluates with.
    """

    layers: Layers
    cell: str
    size: int
    kernel_init: Initializer
    normed: str
    time: str
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, valid: jax.Array, mask: jax.Array | None, places: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        vectors, _ = CELLS[self.cell]
        width = PRODUCTS[self.cell] * self.size
        dense = self.layers.dense(
            width, kernel_init=self.kernel_init, use_bias=False, name="dense_input"
        )
        norm = TimeNorm(self.layers, self.time, self.train, name="norm_input")
        a = norm(dense(x, train=self.train), mask, places)
        a = a + self.param("bias", first_bias(self.cell, self.size), (width,))
        state = tuple(jnp.zeros((*x.shape[1:2], self.size), x.dtype) for _ in range(vectors))
        steps = over_time(CellStep, self.train, places)(
            self.layers,
            self.cell,
            self.size,
            self.normed == "both",
            self.train,
            name="steps",
        )
        (last, *_), h = steps(state, (a, valid, mask))
        return h, last


class RNN(nn.Module):
    """Recurrent layers, and a dense head on the last state of the last one.

    Shapes: x [N, T, D + 1], mask [N] (see `ends`) -> logits [N, classes]. Tokens [N, T] are
    embedded, and every state has its logits [N, T, classes], of the token after it.
    State: that of the norms, once a step, and `live` (see `count_sequences`). arXiv:1603.09025
    repeats the statistics of the last step too.
    Sources: norms of both products arXiv:1603.09025, of those with the input arXiv:1510.01378.
    Deviations: no norm of an LSTM's cell; the initial state is 0 without noise.
    """

    layers: Layers
    widths: tuple[int, ...]
    classes: int
    kernel_init: Initializer
    head_init: Initializer = glorot
    cell: str = "gru"
    normed: str = "both"
    time: str = "step"
    is_masked: bool = True
    least: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        h, valid, mask = ends(x, mask, self.is_masked, self.least)
        last = h[-1]
        places = count_sequences(self, valid, train)
        if are_tokens(x):
            h = nn.Embed(self.classes, self.widths[0], name="embedding")(h)
        for i, size in enumerate(self.widths, 1):
            layer = Recurrence(
                self.layers,
                self.cell,
                size,
                self.kernel_init,
                self.normed,
                self.time,
                train,
                name=f"layer_{i}",
            )
            h, last = layer(h, valid, mask, places)
        head = self.layers.head(self.classes, kernel_init=self.head_init, name="head")
        return head(h).swapaxes(0, 1) if are_tokens(x) else head(last)
