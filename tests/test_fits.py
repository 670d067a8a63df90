"""Runs compared at a fit, on noisy labels, with a batch that changes, from other initial weights;
how statistics are used in evaluation; and diagnostics of a run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import member, small, train

from normlab import data
from normlab.models.build import build_model
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.training.batches import (
    MemberBatches,
    Schedule,
    batch_rows,
    noisy_labels,
    shuffle_epoch,
)
from normlab.training.evaluate import reestimate
from normlab.training.population import Population
from normlab.training.program import Resident, evaluation_networks
from normlab.training.snapshot import Snapshot
from normlab.training.state import hyper_of, init_state

FIT = 2.2
FITTED = {"eval.train_examples": 2000, "train.stop_at_loss": FIT, "train.eval_every": 4}


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


def test_replaced_labels_are_all_other_classes_and_all_examples_alike():
    """chi^2 over 10 x 9 pairs of classes has mean 80 and variance 160."""
    rows = np.arange(9000)
    labels = (rows % 10).astype(np.int32)
    noisy, _ = noisy_labels(labels, rows, 3, 1.0, 10)
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, noisy), 1)
    expected = 100 * (1 - np.eye(10))
    assert ((counts - expected) ** 2).sum() / 100 < 80 + 4 * np.sqrt(160)
    one, other = (noisy_labels(labels, rows, seed, 0.5, 10)[1] for seed in (3, 4))
    for chosen in (one[:4500], one & other):
        assert abs(chosen.sum() - 2250) < 4 * 24


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


def plain_scores(params: Any, images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    """Return of every example whether the network without norms is right, and the loss."""
    h = images.astype(np.float64) / 255
    for i in (1, 2):
        layer = params[f"dense_{i}"]
        h = np.maximum(h @ np.float64(layer["kernel"]) + np.float64(layer["bias"]), 0)
    logits = h @ np.float64(params["head"]["kernel"]) + np.float64(params["head"]["bias"])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits.argmax(-1) == labels, -log_p[np.arange(len(labels)), labels]


def test_scores_of_the_training_examples_are_a_plain_loop_s(dataset):
    config = small(data__label_noise=0.3, eval__train_examples=data.DATASETS["synthetic"].train)
    (outcome,), states = train([config], dataset)
    batches, params = MemberBatches(config, dataset), member(states).params
    rows = dataset.split(0).train
    for name, chosen in (
        ("train_set", rows[batches.labels[rows] == dataset.labels[rows]]),
        ("replaced", rows[batches.labels[rows] != dataset.labels[rows]]),
    ):
        right, losses = plain_scores(params, dataset.images[chosen], batches.labels[chosen])
        assert outcome.curve[-1][f"{name}_accuracy"] == pytest.approx(right.mean(), abs=1e-9)
        assert outcome.curve[-1][f"{name}_loss"] == pytest.approx(losses.mean(), abs=2e-5)
        assert outcome.final[f"{name}_loss"] == outcome.curve[-1][f"{name}_loss"]


def test_a_run_ends_scored_in_full_where_it_fits(dataset):
    config = small(FITTED, norm__name="batch", train__steps=60, optim__lr=0.05, host__width=2)
    config |= {"norm.momentum": 0.99, "data.label_noise": 0.1}  # running statistics lag behind
    free = {**config, "train.stop_at_loss": 0.0, "host.chunk": 60}

    def pair(settings, **more):
        return train([{**settings, **more, "seed": seed} for seed in (0, 1)], dataset)[0]

    full, ended = pair(free), pair({**config, "host.chunk": 7})
    for i, (whole, short) in enumerate(zip(full, ended, strict=True)):
        scoring = MemberBatches({**config, "seed": i}, dataset).scoring
        own, replaced = (scoring.weights[scoring.parts == part].sum() for part in (3, 4))
        losses = [
            (own * row["train_set_loss"] + replaced * row["replaced_loss"]) / (own + replaced)
            for row in whole.curve
        ]
        assert (own, replaced) == (1800, 200)
        at = [i for i, value in enumerate(losses) if value <= FIT]
        assert at and 0 < at[0] < len(whole.curve) - 1
        assert whole.curve[at[0]]["running_train_set_loss"] > FIT
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


def test_every_step_trains_on_its_own_batch_with_its_own_labels(dataset):
    """At rate 0 each loss is that of the first weights. The batch shrinks within the second epoch,
    and the third begins."""
    config = small(train__late_batch=8, train__late_from=3, data__label_noise=0.3, seed=2)
    config |= {"data.train_examples": 64}
    config |= {"optim.lr": 0.0, "train.steps": 6, "train.eval_every": 1, "host.chunk": 6}
    (outcome,), states = train([config], dataset)
    rows = dataset.split(2, 64).train
    labels, _ = noisy_labels(dataset.labels, rows, 2, 0.3, 10)
    epochs = [rows[shuffle_epoch(2, epoch, 64)] for epoch in range(3)]
    batches = [*epochs[0].reshape(2, 32), epochs[1][:32], *epochs[2][:24].reshape(3, 8)]
    for row, batch in zip(outcome.curve, batches, strict=True):
        _, losses = plain_scores(member(states).params, dataset.images[batch], labels[batch])
        assert row["train_loss"] == pytest.approx(losses.mean(), abs=1e-5)


def test_initial_weights_can_be_drawn_apart_from_the_data(dataset):
    configs = [small(host__width=3, seed=s, init__seed=i) for s, i in ((0, -1), (0, 5), (5, -1))]
    population = Population(configs, dataset)
    states = population.start()
    usual, other, fifth = (member(states, i).params["dense_1"]["kernel"] for i in range(3))
    assert (usual != other).any()
    np.testing.assert_array_equal(other, fifth)
    rows = population.batches(0, 20).train
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()
    keys = jax.random.key_data(states.key)  # of noise and augmentation
    np.testing.assert_array_equal(keys[0], keys[1])
    assert (keys[0] != keys[2]).any()


def test_a_run_starts_from_its_first_batch(dataset):
    """Weight norm makes the outputs of a layer on it have mean 0 and variance 1."""
    population = Population([small(norm__kernel="weight_norm", seed=4)], dataset)
    layer = member(population.start()).params["dense_1"]
    split = dataset.split(4)
    rows = split.train[shuffle_epoch(4, 0, len(split.train))[:32]]
    kernel = np.float64(layer["kernel"])
    kernel *= layer["reparam"]["gain"] / np.linalg.norm(kernel, axis=0)
    y = dataset.images[rows] / 255 @ kernel + layer["bias"]
    np.testing.assert_allclose([y.mean(0), y.var(0)], [np.zeros(16), np.ones(16)], atol=1e-4)


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
    "settings",
    [
        {"norm.average": "cumulative"},
        {"norm.average": "debiased"},
        {"norm.stats_batch": 8},
        {"norm.noise": 1.0},
        {"norm.name": "batch_renorm", "norm.renorm_steps": 0},
    ],
    ids=str,
)
def test_re_estimated_statistics_owe_nothing_to_running_ones_groups_or_noise(dataset, settings):
    config = small({"norm.name": "batch"} | settings)
    net, (whole, _) = build_model(config, 10, "patches"), evaluation_networks(config, 10, "patches")
    rows = dataset.split(0).train[:64]
    x = h = dataset.images[rows] / 255
    state = init_state(net, "sgd", hyper_of(config), jnp.asarray(x, jnp.float32))
    kept = (state.batch_stats, state.norm_state)
    stats, counts = jax.tree.map(lambda leaf: 3 * leaf + 2, kept)
    state = state._replace(batch_stats=stats, norm_state=counts)
    images = Resident(jnp.asarray(dataset.images), (64,))
    assert whole is not None
    found = jax.device_get(reestimate(whole, state, images, rows))
    for i in (1, 2):
        layer, norm = state.params[f"dense_{i}"], found[f"norm_{i}"]
        h = h @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        np.testing.assert_allclose(norm["mean"] + norm["mean_lo"], h.mean(0), atol=1e-5)
        np.testing.assert_allclose(norm["var"], h.var(0), rtol=1e-4)
        h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5), 0)


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
