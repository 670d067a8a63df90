"""train.on_nonfinite: a step that is not finite ends a run, or leaves no trace in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import small, train

from normlab import data
from normlab.models.build import build_model
from normlab.training.batches import MemberBatches
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

POISONED = 7
"""The step, from 1, whose batch holds an image of NaN."""


@pytest.fixture(scope="module")
def poisoned() -> data.Dataset:
    """The synthetic images, one of which is NaN: seed 0 sees it at step POISONED and nowhere else,
    seed 1 not at all."""
    dataset = data.load("synthetic")
    rows = [MemberBatches(small(seed=seed), dataset) for seed in (0, 1)]
    seen = [batches.chunk(0, 20).train for batches in rows]
    others = set(seen[0].ravel()) - set(seen[0][POISONED - 1]) | set(seen[1].ravel())
    scored = set(np.concatenate([f.scoring.rows.ravel() for f in rows]))
    scored |= set(np.concatenate([f.stats for f in rows]))
    row = next(r for r in seen[0][POISONED - 1] if r not in others | scored)
    images = np.asarray(dataset.images, np.float32) / 255
    images[row] = np.nan
    return replace(dataset, images=images)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm.name": "batch", "optim.name": "adam"},
        {"norm.name": "batch", "norm.kernel": "spectral", "optim.name": "momentum"},
    ],
)
def test_a_skipped_step_moves_nothing_but_the_step(settings):
    config = small(settings)
    net, hyper = build_model(config, 10, "patches"), hyper_of(config)
    x = jax.random.uniform(jax.random.key(0), (32, 64))
    y = jnp.zeros(32, int)
    state = init_state(net, config["optim.name"], hyper, x)
    step = jax.jit(make_train_step(net, config["optim.name"], hyper, "skip"))
    for _ in range(2):
        state, _ = step(state, Batch(x, y, jnp.ones(())))
    after, loss = step(state, Batch(x.at[3, 5].set(jnp.nan), y, jnp.ones(())))
    assert np.isnan(loss) and bool(after.is_alive)
    assert after.step == state.step + 1
    for name in ("params", "opt_state", "batch_stats", "norm_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    assert jax.tree.leaves(state.batch_stats)
    assert bool(jax.tree.leaves(state.norm_state)) == ("norm.kernel" in settings)
    moved, loss = step(after, Batch(x, y, jnp.ones(())))
    assert np.isfinite(loss)
    for name in ("params", "opt_state", "batch_stats", "norm_state"):
        pair = getattr(moved, name), getattr(after, name)
        changed = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), *pair))
        assert any(changed) or not changed, name


class Cliff:
    """In the place of a network; at 0 its logits are finite and their gradients are not."""

    def init(self, key, x, train):
        return {"params": {"head": {"kernel": jnp.zeros((1, 10))}}}

    def apply(self, variables, x, train, mutable, rngs):
        return jnp.sqrt(variables["params"]["head"]["kernel"]) * jnp.ones((len(x), 1)), {}


def test_a_gradient_that_is_not_finite_ends_a_run_though_the_loss_is():
    net: Any = Cliff()
    batch = Batch(jnp.zeros((4, 1)), jnp.zeros(4, int), jnp.ones(()))
    state = init_state(net, "sgd", hyper_of(small()), batch.x)
    after, loss = make_train_step(net, "sgd", hyper_of(small()))(state, batch)
    assert np.isnan(loss) and not after.is_alive
    assert not after.params["head"]["kernel"].any()


def test_a_run_goes_on_behind_a_skipped_step(poisoned):
    config: dict[str, Any] = small(norm__name="batch", train__on_nonfinite="skip", host__width=2)
    (ill, well), states = train([config, config | {"seed": 1}], poisoned)
    assert (ill.skipped_steps, ill.status, ill.diverged_at) == (1, "trained", None)
    assert (well.skipped_steps, well.status) == (0, "trained")
    assert [row["step"] for row in ill.curve] == [5, 10, 15, 20]
    assert all(np.isfinite(list(row.values())).all() for row in ill.curve)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states.params))
    assert states.step.tolist() == [20, 20]
    every = train([config | {"train.eval_every": 1}], poisoned)[0][0].curve
    losses = [row["train_loss"] for row in every]
    assert np.flatnonzero(np.isnan(losses)).tolist() == [POISONED - 1]
    mean = np.nanmean(losses[5:10])  # of four steps
    assert ill.curve[1]["train_loss"] == pytest.approx(mean, rel=1e-6)


def test_without_skip_the_same_step_ends_the_run(poisoned):
    config = small(norm__name="batch", host__width=2)
    (ill, well), _ = train([config, config | {"seed": 1}], poisoned)
    assert (ill.diverged_at, ill.skipped_steps, ill.final) == (POISONED, 0, {})
    assert well.status == "trained" and well.final
