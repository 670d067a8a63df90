"""Scores: loss and accuracy of a run on parts of its data, every example counted once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from normlab.training.state import TrainState
from normlab.training.step import MUTABLE

PARTS = ("curve", "rest", "test", "train", "replaced", "long")
"""The curve's subset of the validation split, the rest of that split, the test split. Then two
parts of the training examples: those with their own labels, and those with replaced ones. Then the
test split as longer sequences (eval.long), scored last.

Every point of the curve scores both kinds of training examples.
"""
CURVE_PARTS = (0, 3, 4)
"""Scored at every point of a curve, before the others."""


class Scoring(NamedTuple):
    """Which rows to score, in batches of equal size; padding has weight 0."""

    rows: Any
    """[batches, b] row numbers."""
    labels: Any
    """[batches, b] their classes."""
    weights: Any
    """[batches, b] 1 or 0."""
    parts: Any
    """[batches] index into PARTS of each batch."""


class Scores(NamedTuple):
    """Sums over examples, or over the tokens of text; leaves [parts]."""

    loss: Any
    correct: Any
    count: Any


def plan_scoring(parts_rows: dict[int, np.ndarray], labels: np.ndarray, size: int) -> Scoring:
    """Return the batches that score lists of rows (index into PARTS -> rows), those of the curve
    first, each list padded to whole batches."""
    rows, weights, parts = [], [], []
    for part in sorted(parts_rows, key=lambda p: p not in CURVE_PARTS):
        members = parts_rows[part]
        batches = -(-len(members) // size)
        padded = np.zeros(batches * size, np.int32)
        padded[: len(members)] = members
        rows.append(padded.reshape(batches, size))
        weights.append((np.arange(batches * size) < len(members)).reshape(batches, size))
        parts.append(np.full(batches, part, np.int32))
    chosen = np.concatenate(rows)
    return Scoring(
        chosen, labels[chosen], np.concatenate(weights).astype(np.float32), np.concatenate(parts)
    )


def score(
    net: nn.Module,
    state: TrainState,
    stats: list[Any],
    data,
    scoring: Scoring,
    batches: jax.Array,
    shares_statistics: bool = False,
) -> Scores:
    """Return the scores [modes, parts] of the first `batches` batches of `scoring`.

    Evaluation mode, once with each of the running statistics in `stats`. One loop over modes and
    batches keeps one copy of the network in the program, which halves its compilation.
    `shares_statistics`: the network takes each batch's own statistics, so padding is masked.
    Longer sequences have a loop of their own, because they have another shape.
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stats)

    def add(i, total: Scores, data, first, count) -> Scores:
        mode, batch = i // count, first + i % count
        x, y = data.gather(scoring.rows[batch]), scoring.labels[batch]
        weights = scoring.weights[batch]
        chosen = {"batch_stats": jax.tree.map(lambda leaf: leaf[mode], stacked)}
        mask = weights > 0 if shares_statistics else None
        logits: Any = net.apply(state.variables | chosen, x, train=False, mask=mask)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        weights = jnp.broadcast_to(weights.reshape(-1, *[1] * (y.ndim - 1)), y.shape)
        sums = Scores(
            loss=jnp.sum(jnp.where(weights > 0, losses, 0)),
            correct=jnp.sum(weights * (logits.argmax(-1) == y)),
            count=jnp.sum(weights),
        )
        return jax.tree.map(lambda t, s: t.at[mode, scoring.parts[batch]].add(s), total, sums)

    def loop(total: Scores, data, first, last) -> Scores:
        body = functools.partial(add, data=data, first=first, count=last - first)
        return jax.lax.fori_loop(0, len(stats) * (last - first), body, total)

    zero = jnp.zeros((len(stats), len(PARTS)), jnp.float32)
    total, longer = Scores(zero, zero, zero), data.longer
    if longer is None:
        return loop(total, data, 0, batches)
    middle = jnp.minimum(batches, jnp.sum(scoring.parts != PARTS.index("long")))
    return loop(loop(total, data, 0, middle), longer, middle, batches)


def reestimate(whole: nn.Module, state: TrainState, data, rows: jax.Array) -> Any:
    """Return the running statistics of one train-mode pass over the images at `rows`.

    `whole` is the run's network with momentum 0 and statistics over the whole batch.
    So the pass leaves in `batch_stats` exactly the statistics of those images.
    """
    _, moved = whole.apply(state.variables, data.gather(rows), train=True, mutable=MUTABLE)
    return moved["batch_stats"]


def train_loss(scores: Scores) -> jax.Array:
    """Return the mean loss on the training examples of a curve, in the first mode."""
    parts = jnp.array(CURVE_PARTS[1:])
    return scores.loss[0, parts].sum() / scores.count[0, parts].sum()


def make_evaluate(
    net: nn.Module, whole: nn.Module | None, own: nn.Module | None
) -> Callable[..., Scores]:
    """Return evaluate(state, data, rows of images for statistics, scoring, batches) -> scores.

    Modes: statistics re-estimated through `whole`, those of the state, and each scored batch's own
    through `own`. A mode is left out where its network is None.
    """

    def evaluate(state: TrainState, data, rows, scoring: Scoring, batches) -> Scores:
        stats = [state.batch_stats]
        if whole is not None:
            stats.insert(0, reestimate(whole, state, data, rows))
        scores = score(net, state, stats, data, scoring, batches)
        if own is None:
            return scores
        last = score(own, state, [state.batch_stats], data, scoring, batches, True)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), scores, last)

    return evaluate
