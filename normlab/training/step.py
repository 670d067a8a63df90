"""One gradient step: `train_step(state, batch) -> (state, loss)`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from normlab.training.optim import direction
from normlab.training.state import Hyper, TrainState

MUTABLE = ("batch_stats", "norm_state")


class Batch(NamedTuple):
    x: jax.Array
    y: jax.Array
    rate: jax.Array
    """This step's rate relative to its peak."""


def sum_all(tree: Any) -> jax.Array:
    """Return the sum of all values, not finite where one is not.

    The last axis is summed after the others, behind a barrier. One sum over all axes takes up to a
    sixth of the step of a small MLP.
    """

    def total(leaf: jax.Array) -> jax.Array:
        return jnp.sum(lax.optimization_barrier(jnp.sum(leaf, range(leaf.ndim - 1))))

    return sum(map(total, jax.tree.leaves(tree)), jnp.zeros(()))


def batch_loss(net: nn.Module, params: Any, state: TrainState, batch: Batch):
    """Return the mean cross-entropy of a batch, in nats, and the statistics that moved."""
    variables = state.variables | {"params": params}
    rngs = {"noise": jax.random.fold_in(state.key, state.step)}
    logits, moved = net.apply(variables, batch.x, train=True, mutable=MUTABLE, rngs=rngs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean(), moved


def make_train_step(
    net: nn.Module, optimizer: str, hyper: Hyper, on_nonfinite: str = "diverge"
) -> Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]:
    """Return the step of one member and the mean cross-entropy of the batch before it, in nats.

    A non-finite loss or gradient makes that NaN and leaves params, optimiser state and statistics
    untouched. `is_alive` then becomes False (on_nonfinite = "diverge"), or `step` moves on all the
    same ("skip").
    """
    transform = direction(optimizer, hyper.momentum, hyper.weight_decay)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        loss_of = functools.partial(batch_loss, net, state=state, batch=batch)
        (loss, moved), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        rate = hyper.lr * batch.rate
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        new = state._replace(
            step=state.step + 1,
            params=params,
            batch_stats=moved.get("batch_stats", state.batch_stats),
            norm_state=moved.get("norm_state", state.norm_state),
            opt_state=opt_state,
        )
        is_finite = jnp.isfinite(loss + sum_all(grads))
        kept = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, state)
        if on_nonfinite == "skip":
            kept = kept._replace(step=new.step)
        else:
            kept = kept._replace(is_alive=is_finite)
        return kept, jnp.where(is_finite, loss, jnp.nan)

    return train_step
