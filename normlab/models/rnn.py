"""Recurrent networks over sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.norms.builder import Layers

OVER_TIME: dict[str, Any] = {
    "variable_axes": {"batch_stats": 0, "norm_state": 0},
    "variable_broadcast": "params",
    "split_rngs": {"params": False, "noise": True},
}
"""Each step has statistics of its own, while all share the parameters."""
ENOUGH = 2
"""Sequences that a step needs for statistics of its own: one value has no variance."""

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


CELLS: dict[str, tuple[int, int, Callable[[State, jax.Array, jax.Array], State]]] = {
    "rnn": (1, 1, simple_step),
    "gru": (3, 1, gru_step),
    "lstm": (4, 2, lstm_step),
}
"""Name -> vectors in its products, in its state, and one step from state, a and b to state."""


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


class NormStep(nn.Module):
    """The norm of one step of x [N, C]; mask [N, 1] or None."""

    layers: Layers
    train: bool

    @nn.compact
    def __call__(self, carry: tuple[()], now: Any) -> tuple[tuple[()], jax.Array]:
        x, mask = now
        return carry, self.layers.norm(name="norm")(x, train=self.train, mask=mask)


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
        parts, _, step = CELLS[self.cell]
        dense = self.layers.dense(
            parts * self.size, kernel_init=orthogonal_parts, use_bias=False, name="dense_hidden"
        )
        b = dense(state[0], train=self.train)
        if self.has_norm:
            b = self.layers.norm(name="norm_hidden")(b, train=self.train, mask=mask)
        new = step(state, a, b)
        kept = tuple(jnp.where(valid, n, old) for n, old in zip(new, state, strict=True))
        return kept, kept[0]


class Recurrence(nn.Module):
    """One recurrent layer: x [T, N, D], valid [T, N, 1] -> h [T, N, size].

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
    ) -> jax.Array:
        parts, vectors, _ = CELLS[self.cell]
        width = parts * self.size
        dense = self.layers.dense(
            width, kernel_init=self.kernel_init, use_bias=False, name="dense_input"
        )
        a = self.norm_input(dense(x, train=self.train), mask, places)
        a = a + self.param("bias", first_bias(self.cell, self.size), (width,))
        state = tuple(jnp.zeros((*x.shape[1:2], self.size), x.dtype) for _ in range(vectors))
        steps = self.over_time(CellStep, places)(
            self.layers,
            self.cell,
            self.size,
            self.normed == "both",
            self.train,
            name="steps",
        )
        return steps(state, (a, valid, mask))[1]

    def norm_input(self, a: jax.Array, mask: jax.Array | None, places: jax.Array) -> jax.Array:
        """Return the product with the input, normalized over each step or over all at once."""
        if self.time == "sequence":
            flat = None if mask is None else mask.reshape(-1, 1)
            norm = self.layers.norm(name="norm_input")
            return norm(a.reshape(-1, a.shape[-1]), train=self.train, mask=flat).reshape(a.shape)
        steps = self.over_time(NormStep, places)(self.layers, self.train, name="norm_input")
        return steps((), (a, mask))[1]

    def over_time(self, step: Any, places: jax.Array) -> Any:
        """Return the module of one step as one of all steps. In evaluation step t has the
        statistics of places[t]."""
        if self.train:
            return nn.scan(step, **OVER_TIME)
        collections = [*OVER_TIME["variable_axes"]]
        scanned = nn.scan(step, **OVER_TIME)
        return nn.map_variables(
            scanned, collections, lambda kept: jax.tree.map(lambda leaf: leaf[places], kept)
        )


class RNN(nn.Module):
    """Recurrent layers, and a dense head on the last state of the last one.

    Shapes: x [N, T, D + 1], mask [N] (True: a real example) -> logits [N, classes]. x is above 0
    in its last feature at the steps of a sequence, and 0 there behind its end. Its other features
    are not read there. State: that of the norms, once a step. `batch_stats` also has `live` [T],
    the most sequences that a step of training had.
    A step that never had 2 sequences evaluates with the statistics of the last one that had
    (arXiv:1603.09025 repeats those of the last step too).
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

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        valid = x[..., -1].T[..., None] > 0
        h = jnp.where(valid, x.swapaxes(0, 1)[..., :-1], 0)
        if mask is not None:
            mask = jnp.broadcast_to(mask[None, :, None], valid.shape)
        if self.is_masked:
            mask = valid if mask is None else valid & mask
        places = self.places(valid, train)
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
            h = layer(h, valid, mask, places)
        head = self.layers.head(self.classes, kernel_init=self.head_init, name="head")
        return head(h[-1])

    def places(self, valid: jax.Array, train: bool) -> jax.Array:
        """Return for each step the one whose statistics it evaluates with, and count sequences."""
        order = jnp.arange(len(valid))
        live: Any = self.variable("batch_stats", "live", jnp.zeros, (len(valid),))
        last = jnp.where(live.value >= ENOUGH, order, 0).max()
        moves = self.is_mutable_collection("batch_stats") and not self.is_initializing()
        if train and moves:
            live.value = jnp.maximum(live.value, valid.sum((1, 2)))
        return jnp.minimum(order, last)
