"""Runs compared at a fit, on noisy labels, with a batch that changes, from other initial weights;
how statistics are used in evaluation; and diagnostics of a run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from small_runs import member, small, train

from normlab import data
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.training.batches import MemberBatches, Schedule, batch_rows, noisy_labels
from normlab.training.population import Population
from normlab.training.snapshot import Snapshot

FIT = 2.2
FITTED = {"eval.train_examples": 100, "train.stop_at_loss": FIT, "train.eval_every": 4}


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("synthetic")


def test_a_share_of_the_labels_is_replaced_by_other_classes(dataset):
    rows = np.arange(100, 300)
    noisy, is_replaced = noisy_labels(dataset.labels, rows, 3, 0.25, 10)
    assert is_replaced.sum() == 50 and set(np.flatnonzero(is_replaced)) <= set(rows)
    np.testing.assert_array_equal(noisy != dataset.labels, is_replaced)
    assert noisy.min() >= 0 and noisy.max() <= 9 and len(set(noisy[is_replaced])) == 10
    again, _ = noisy_labels(dataset.labels, rows, 3, 0.25, 10)
    other, _ = noisy_labels(dataset.labels, rows, 4, 0.25, 10)
    np.testing.assert_array_equal(noisy, again)
    assert (noisy != other).any()


def test_noise_is_trained_on_and_scored_apart(dataset):
    config = small(data__label_noise=0.3, eval__train_examples=data.DATASETS["synthetic"].train)
    batches, split = MemberBatches(config, dataset), dataset.split(0)
    chunk = batches.chunk(0, 20)
    np.testing.assert_array_equal(chunk.labels, batches.labels[chunk.train])
    assert 0.2 < (chunk.labels != dataset.labels[chunk.train]).mean() < 0.4
    scoring, found = batches.scoring, {}
    for part in (2, 3, 4):  # test, labels kept, labels replaced
        chosen = (scoring.parts == part)[:, None] & (scoring.weights > 0)
        found[part] = set(scoring.rows[chosen])
        is_true = scoring.labels[chosen] == dataset.labels[scoring.rows[chosen]]
        assert np.all(is_true == (part != 4))
    assert found[3] | found[4] == set(split.train) and not found[3] & found[4]
    assert len(found[4]) == round(0.3 * len(split.train))


def test_scores_of_the_training_examples_are_a_plain_loop_s(dataset):
    config = small(data__label_noise=0.3, eval__train_examples=data.DATASETS["synthetic"].train)
    (outcome,), states = train([config], dataset)
    batches, params = MemberBatches(config, dataset), member(states).params
    rows = dataset.split(0).train
    for name, chosen in (
        ("train_set", rows[batches.labels[rows] == dataset.labels[rows]]),
        ("replaced", rows[batches.labels[rows] != dataset.labels[rows]]),
    ):
        h = dataset.images[chosen].astype(np.float64) / 255
        for i in (1, 2):
            layer = params[f"dense_{i}"]
            h = np.maximum(h @ np.float64(layer["kernel"]) + np.float64(layer["bias"]), 0)
        logits = h @ np.float64(params["head"]["kernel"]) + np.float64(params["head"]["bias"])
        right = (logits.argmax(-1) == batches.labels[chosen]).mean()
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        loss = -log_p[np.arange(len(chosen)), batches.labels[chosen]].mean()
        assert outcome.curve[-1][f"{name}_accuracy"] == pytest.approx(right, abs=1e-9)
        assert outcome.curve[-1][f"{name}_loss"] == pytest.approx(loss, abs=2e-5)
        assert outcome.final[f"{name}_loss"] == outcome.curve[-1][f"{name}_loss"]


def test_a_run_ends_scored_in_full_where_it_fits(dataset):
    config = small(FITTED, norm__name="batch", train__steps=60, optim__lr=0.05, host__width=2)
    free = {**config, "train.stop_at_loss": 0.0, "host.chunk": 60}

    def pair(settings, **more):
        return train([{**settings, **more, "seed": seed} for seed in (0, 1)], dataset)[0]

    full, ended = pair(free), pair({**config, "host.chunk": 7})
    for i, (whole, short) in enumerate(zip(full, ended, strict=True)):
        at = [i for i, row in enumerate(whole.curve) if row["train_set_loss"] <= FIT]
        assert at and 0 < at[0] < len(whole.curve) - 1
        assert short.curve == whole.curve[: at[0] + 1]
        assert short.stopped_at == short.curve[-1]["step"] and short.diverged_at is None
        alone = pair({**free, "train.steps": short.stopped_at})[i]
        assert short.final == alone.final and "test_accuracy" in short.final


def test_the_batch_shrinks_and_visits_fresh_epochs(dataset):
    split = dataset.split(0)
    n, late = len(split.train), (4, 10)
    rows = batch_rows(split, 0, 32, 0, 14, late)
    np.testing.assert_array_equal(rows[:10], batch_rows(split, 0, 32, 0, 10))
    assert (rows[10:, 4:] == 0).all()
    behind = batch_rows(split, 0, 32, 8, 14, late)
    np.testing.assert_array_equal(behind, rows[8:])
    many = batch_rows(split, 0, 32, 10, 10 + n // 4, late)[:, :4]
    assert len(set(many.ravel())) == n // 4 * 4  # one epoch, no example twice
    first = batch_rows(split, 0, 4, 0, 4)
    assert not np.array_equal(rows[10:, :4], first)
    rate = Schedule(small(train__steps=12, train__late_batch=8, train__late_from=6), 1, 2).rate
    np.testing.assert_allclose(rate, [1] * 6 + [8 / 32] * 6)


def test_initial_weights_can_be_drawn_apart_from_the_data(dataset):
    configs = [small(host__width=3, seed=s, init__seed=i) for s, i in ((0, -1), (0, 5), (5, -1))]
    population = Population(configs, dataset)
    usual, other, fifth = (
        member(population.start(), i).params["dense_1"]["kernel"] for i in range(3)
    )
    assert (usual != other).any()
    np.testing.assert_array_equal(other, fifth)
    rows = population.batches(0, 20).train
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_fewer_examples_are_the_first_of_the_split(dataset):
    whole, few = dataset.split(2), dataset.split(2, 50, 20)
    np.testing.assert_array_equal(few.train, whole.train[:50])
    everything = np.concatenate([few.train, few.validation, few.test])
    assert len(few.validation) == 20 and len(set(everything)) == len(everything)


def watched_population(dataset) -> Population:
    config = small(norm__name="batch", eval__probes="drift+rotation", train__steps=12)
    config |= {"train.eval_every": 3, "host.width": 2, "host.chunk": 6}
    return Population([config, {**config, "seed": 1}], dataset)


@pytest.fixture(scope="module")
def watched(dataset):
    population = watched_population(dataset)
    config = population.config
    plain = {**config, "eval.probes": ""}
    snapshots: list[Snapshot] = []
    states = population.train(lambda p: snapshots.append(p.snapshot()))
    outcomes, bare = train([plain, {**plain, "seed": 1}], dataset)
    return population, states, snapshots, outcomes, bare


def test_diagnostics_are_rows_of_the_curve_and_change_no_bit(watched):
    population, states, _, plain, bare = watched
    for a, b in zip(jax.tree.leaves(states.params), jax.tree.leaves(bare.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for seen, unseen in zip(population.outcomes, plain, strict=True):
        assert [r["step"] for r in seen.curve] == [3, 6, 9, 12]
        assert all(r["rotation.angle.dense_1"] > 0 for r in seen.curve)
        assert np.isnan(seen.curve[0]["drift.step"])
        assert all(r["drift.step"] > 0 for r in seen.curve[1:])
        bare_rows = [{k: v for k, v in r.items() if "." not in k} for r in seen.curve]
        assert bare_rows == unseen.curve


def test_the_state_of_a_diagnostic_survives_a_stop(watched, dataset):
    population, states, snapshots, *_ = watched
    assert "memory/drift/sorted" in snapshots[0].arrays  # its name in checkpoints of any age
    again = watched_population(dataset)
    ended = again.train(lambda p: None, resumed=snapshots[0])
    for whole, resumed in zip(population.outcomes, again.outcomes, strict=True):
        assert whole.curve[2:] == resumed.curve[2:] and whole.final == resumed.final
    np.testing.assert_array_equal(
        states.diagnostic_state["drift"]["sorted"], ended.diagnostic_state["drift"]["sorted"]
    )


def run(dataset, **settings) -> tuple[dict[str, float], Any]:
    outcomes, states = train([small({"norm.name": "batch"}, **settings)], dataset)
    return outcomes[0].final, states


def test_evaluation_with_the_statistics_of_the_scored_batch(dataset):
    """It depends on the size of the batch, the other modes do not, and padding has no part in it:
    one batch of a whole split is mostly padding."""
    few, many, whole = (
        run(dataset, eval__batch_statistics=True, eval__batch=size)[0] for size in (2, 50, 3000)
    )
    assert {"batch_test_accuracy", "running_test_accuracy", "test_accuracy"} <= set(few)
    for name in ("test_loss", "running_test_loss"):
        assert few[name] == pytest.approx(many[name], rel=1e-4)
        assert many[name] == pytest.approx(whole[name], rel=1e-4)
    assert few["batch_test_loss"] > 1.05 * many["batch_test_loss"]
    assert whole["batch_test_loss"] == pytest.approx(many["batch_test_loss"], rel=0.1)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"eval.probes": "drift+nope"}, "unknown probe 'nope'"),
        ({"eval.probes": "drift", "eval.stats_examples": 8}, "use at least that many"),
        ({"data.train_examples": 10_000}, "larger than the 897 train examples"),
        ({"train.stop_at_loss": 0.1}, "set eval.train_examples"),
        ({"data.label_noise": 0.1, "eval.train_examples": 10}, "use 0 or all of them"),
        ({"norm.stats_batch": 8, "eval.batch_statistics": True}, "is not a multiple of norm.stats"),
        ({"train.late_batch": 65}, "larger than data.batch = 64"),
        ({"train.late_batch": 4, "norm.stats_batch": 8}, "only one of them"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(settings, told):
    with pytest.raises(ConfigError, match=told):
        resolve({"data.name": "digits", "norm.name": "batch"} | settings)
