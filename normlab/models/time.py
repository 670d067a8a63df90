"""Norms in networks with time: statistics of each step, or of all steps of all sequences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.norms.builder import Layers

OVER_TIME: dict[str, Any] = {
    "variable_axes": {"batch_stats": 0, "norm_state": 0},
    "variable_broadcast": "params",
    "split_rngs": {"params": False, "noise": True},
}
"""Each step has statistics of its own, while all share the parameters."""
ENOUGH = 2
"""Sequences that a step needs for statistics of its own: one value has no variance."""


def over_time(step: Any, train: bool, places: jax.Array) -> Any:
    """Return the module of one step as one of all steps, along the first axis. In evaluation step t
    has the statistics of places[t]."""
    scanned = nn.scan(step, **OVER_TIME)
    if train:
        return scanned
    collections = [*OVER_TIME["variable_axes"]]
    return nn.map_variables(
        scanned, collections, lambda kept: jax.tree.map(lambda leaf: leaf[places], kept)
    )


class NormStep(nn.Module):
    """The norm of one step of x [N, C]; mask [N, 1] or None."""

    layers: Layers
    train: bool

    @nn.compact
    def __call__(self, carry: tuple[()], now: Any) -> tuple[tuple[()], jax.Array]:
        x, mask = now
        return carry, self.layers.norm(name="norm")(x, train=self.train, mask=mask)


class TimeNorm(nn.Module):
    """The norm of x [T, N, ..., C]; mask [T, N, 1] or None; places [T], see `over_time`.

    `time` step: statistics over the batch are those of each step. sequence: those of all steps of
    all sequences. A norm never takes time, or an axis between, for height or width. It sees [M, C]
    or [T M, C], M = N times the axes between.
    """

    layers: Layers
    time: str
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, places: jax.Array) -> jax.Array:
        rows = x.reshape(len(x), -1, x.shape[-1])
        if mask is not None:
            mask = jnp.repeat(mask, rows.shape[1] // x.shape[1], 1)
        if self.time == "step":
            steps = over_time(NormStep, self.train, places)(self.layers, self.train, name="steps")
            return steps((), (rows, mask))[1].reshape(x.shape)
        flat = None if mask is None else mask.reshape(-1, 1)
        norm = self.layers.norm(name="norm")
        return norm(x.reshape(-1, x.shape[-1]), train=self.train, mask=flat).reshape(x.shape)


def count_sequences(module: nn.Module, valid: jax.Array, train: bool) -> jax.Array:
    """Return for each step the one whose statistics it evaluates with, and count sequences.

    `live` [T] in `batch_stats` is the most sequences that a step of training had. A step that never
    had 2 takes the statistics of the last one that had, as do steps behind T in evaluation. valid:
    [T, N, 1].
    """
    live: Any = module.variable("batch_stats", "live", jnp.zeros, (len(valid),))
    last = jnp.where(live.value >= ENOUGH, jnp.arange(len(live.value)), 0).max()
    moves = module.is_mutable_collection("batch_stats") and not module.is_initializing()
    if train and moves:
        live.value = jnp.maximum(live.value, valid.sum((1, 2)))
    return jnp.minimum(jnp.arange(len(valid)), last)


def are_tokens(x: jax.Array) -> bool:
    """Whether an input is text: whole numbers [N, T], each to be followed by a prediction."""
    return jnp.issubdtype(x.dtype, jnp.integer)


def ends(
    x: jax.Array, mask: jax.Array | None, is_masked: bool, least: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return the features [T, N, D] of x [N, T, D + 1], blank behind the ends; which steps are
    valid, [T, N, 1]; and what counts in statistics.

    The last feature of x is above 0 at the steps of a sequence. What the others hold behind its end
    is not read. Of tokens [N, T], all valid, [T, N] is returned. mask [N]: True for real examples.
    least: see `with_ended`.
    """
    is_text = are_tokens(x)
    valid = jnp.ones((*x.T.shape, 1), bool) if is_text else x[..., -1].T[..., None] > 0
    if mask is not None:
        mask = jnp.broadcast_to(mask[None, :, None], valid.shape)
    if is_masked:
        mask = valid if mask is None else valid & mask
    if is_text:
        return x.T, valid, mask
    x = jnp.where(valid, x.swapaxes(0, 1)[..., :-1], 0)
    return (x, valid, mask) if mask is None or not least else with_ended(x, valid, mask, least)


def with_ended(
    x: jax.Array, valid: jax.Array, counted: jax.Array, least: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the same where statistics of a step are of `least` sequences or more.

    A step with fewer valid sequences takes those of the last step with `least`, or of the first
    where no step has them. Of these, the ended ones count with their last values. For that x
    [T, N, D] repeats their last features. A recurrent network keeps their last state. So statistics
    hold no padding.
    """
    steps = jnp.arange(len(valid))
    last = jnp.where(counted.sum((1, 2)) >= least, steps, 0).max()
    own = jnp.minimum(steps[:, None, None], valid.sum(0) - 1)
    return jnp.take_along_axis(x, own, 0), valid, counted[jnp.minimum(steps, last)]
