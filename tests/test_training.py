"""Training against a plain Flax and optax loop, and everything a run promises about its records."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from small_runs import member, small, train

from normlab import data
from normlab.models.build import build_model
from normlab.settings import Config
from normlab.training.batches import MemberBatches, batch_rows, shuffle_epoch
from normlab.training.evaluate import plan_scoring
from normlab.training.optim import rate_shape
from normlab.training.population import Population
from normlab.training.program import Resident
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

STOP_AT, DECAY = 0.35, 0.1


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("synthetic")


def pixels(dataset: data.Dataset, rows) -> Any:
    return dataset.images[rows].astype(np.float32) / 255


class PlainMLP(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for i in (1, 2):
            x = nn.Dense(16, name=f"dense_{i}")(x)
            norm = nn.BatchNorm(not train, momentum=0.99, epsilon=1e-5, name=f"norm_{i}")
            x = nn.relu(norm(x))
        return nn.Dense(10, name="head")(x)


class PlainCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for i, width in enumerate((4, 8), 1):
            x = nn.Conv(width, (3, 3), name=f"conv_{i}")(x)
            x = nn.relu(nn.GroupNorm(num_groups=2, epsilon=1e-5, name=f"norm_{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2)) if i == 1 else x
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def plain_loop(net, params, stats, batches, rate, momentum):
    """What anybody would write: Flax, optax.sgd, one jitted step."""
    is_kernel = {m: {leaf: leaf == "kernel" for leaf in leaves} for m, leaves in params.items()}
    decay = optax.add_decayed_weights(DECAY, mask=is_kernel)
    optimizer = optax.chain(decay, optax.sgd(rate, momentum=momentum))

    @jax.jit
    def step(params, stats, opt_state, x, y):
        def loss_of(params):
            variables = {"params": params, "batch_stats": stats}
            logits, moved = net.apply(variables, x, True, mutable=["batch_stats"])
            one_hot = jax.nn.one_hot(y, 10)
            loss = -jnp.mean(jnp.sum(one_hot * jax.nn.log_softmax(logits), -1))
            return loss, moved.get("batch_stats", {})

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for x, y in batches:
        params, stats, opt_state, loss = step(params, stats, opt_state, x, y)
        losses.append(float(loss))
    return losses, params, stats


CNN_GROUP = {"model.name": "cnn", "model.widths": (4, 8), "norm.name": "group", "norm.groups": 2}


@pytest.mark.parametrize(
    ("plain", "config"),
    [(PlainMLP(), small(norm__name="batch")), (PlainCNN(), small(CNN_GROUP))],
    ids=["mlp_batch", "cnn_group"],
)
def test_five_steps_are_those_of_a_plain_loop(dataset, plain, config):
    steps, config = 5, config | {"optim.weight_decay": DECAY}
    rows = batch_rows(dataset.split(0), 0, 32, 0, steps)
    shape = (32, *dataset.shape) if config["model.name"] == "cnn" else (32, -1)
    batches = [(pixels(dataset, r).reshape(shape), dataset.labels[r]) for r in rows]
    net, hyper = build_model(config, 10, "patches"), hyper_of(config)
    state = jax.jit(lambda x: init_state(net, "momentum", hyper, x))(batches[0][0])
    stats = {
        module: {leaf: value for leaf, value in leaves.items() if leaf != "mean_lo"}
        for module, leaves in state.batch_stats.items()
    }
    schedule = optax.cosine_decay_schedule(config["optim.lr"], steps)
    expected = plain_loop(plain, state.params, stats, batches, schedule, config["optim.momentum"])
    step, losses = jax.jit(make_train_step(net, "momentum", hyper)), []
    for (x, y), rate in zip(batches, rate_shape("cosine", 0, steps), strict=True):
        state, loss = step(state, Batch(x, jnp.asarray(y), rate))
        losses.append(float(loss))
    np.testing.assert_allclose(losses, expected[0], atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, expected[1]
    )
    for module, leaves in expected[2].items():
        for leaf, value in leaves.items():
            np.testing.assert_allclose(state.batch_stats[module][leaf], value, atol=1e-5)
    assert int(state.step) == steps and bool(state.is_alive)


def forward(params, x, stats=None, epsilon=1e-5):
    """Logits of the small MLP in float64, and the statistics of its layers on x.

    Layers are normalized by `stats` where given, otherwise by the statistics of x itself.
    """
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    x, seen = x.astype(np.float64), {}
    for i in (1, 2):
        x = x @ p[f"dense_{i}"]["kernel"] + p[f"dense_{i}"]["bias"]
        norm = p.get(f"norm_{i}")
        if norm:
            seen[i] = (x.mean(0), x.var(0))
            mean, var = (stats or seen)[i]
            x = (x - mean) / np.sqrt(var + epsilon) * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0)
    return x @ p["head"]["kernel"] + p["head"]["bias"], seen


def count(dataset, params, rows, stats=None) -> tuple[float, float]:
    """Loss and accuracy over `rows`, all at once."""
    logits, _ = forward(params, pixels(dataset, rows), stats)
    labels = dataset.labels[rows]
    top = logits.max(-1)
    losses = np.log(np.exp(logits - top[:, None]).sum(-1)) + top - logits[range(len(rows)), labels]
    return losses.mean(), (logits.argmax(-1) == labels).mean()


def assert_scores(metrics, prefix, expected):
    assert metrics[f"{prefix}loss"] == pytest.approx(expected[0], abs=2e-6)
    assert metrics[f"{prefix}accuracy"] == pytest.approx(expected[1], abs=1e-9)


@pytest.mark.parametrize(("curve", "size"), [(130, 40), (1000, 300)])
def test_every_evaluation_example_counts_once(dataset, curve, size):
    """Padding repeats row 0, whose label is made the one that the network gives it."""
    config = small(eval__curve_examples=curve, eval__batch=size)
    (_,), states = train([config], dataset)
    labels = dataset.labels.copy()
    labels[0] = forward(member(states).params, pixels(dataset, [0]))[0].argmax()
    dataset = dataclasses.replace(dataset, labels=labels)
    (outcome,), states = train([config], dataset)
    split, params = dataset.split(0), member(states).params
    assert forward(params, pixels(dataset, [0]))[0].argmax() == labels[0]
    assert_scores(outcome.final, "validation_", count(dataset, params, split.validation))
    assert_scores(outcome.final, "test_", count(dataset, params, split.test))
    assert_scores(outcome.curve[-1], "", count(dataset, params, split.validation[:curve]))
    assert set(outcome.final) == {
        f"{s}_{m}" for s in ("validation", "test") for m in ("loss", "accuracy")
    }


def test_the_scoring_plan_holds_every_row_once():
    parts = [np.arange(0, 130), np.arange(200, 570), np.arange(600, 600 + 7)]
    plan = plan_scoring(dict(enumerate(parts)), np.zeros(700, np.int32), size=40)
    assert plan.rows.shape == plan.weights.shape == (4 + 10 + 1, 40)
    for part, rows in enumerate(parts):
        chosen = plan.parts == part
        np.testing.assert_array_equal(plan.rows[chosen][plan.weights[chosen] == 1], rows)
    assert set(np.unique(plan.weights)) == {0, 1}


GHOSTS = small(norm__name="batch", norm__stats_batch=8)


@pytest.fixture(scope="module")
def whole(dataset) -> tuple[Any, Any]:
    """Outcome and last state of a run with running statistics."""
    (outcome,), states = train([GHOSTS], dataset)
    return outcome, member(states)


def test_re_estimated_statistics_are_those_of_one_pass_without_groups(dataset, whole):
    (outcome, state), split = whole, dataset.split(0)
    _, stats = forward(state.params, pixels(dataset, split.train[:64]))
    assert_scores(outcome.final, "test_", count(dataset, state.params, split.test, stats))
    running = {
        i: (leaves["mean"].astype(np.float64) + leaves["mean_lo"], leaves["var"])
        for i in (1, 2)
        for leaves in [state.batch_stats[f"norm_{i}"]]
    }
    expected = count(dataset, state.params, split.test, running)
    assert_scores(outcome.final, "running_test_", expected)
    assert outcome.final["test_loss"] != outcome.final["running_test_loss"]


def test_a_curve_has_a_row_for_every_point(dataset):
    (outcome,), _ = train([small(train__steps=18)], dataset)
    assert [row["step"] for row in outcome.curve] == [5, 10, 15, 18]
    assert all(set(r) == {"step", "train_loss", "loss", "accuracy"} for r in outcome.curve)


def test_train_loss_is_the_mean_since_the_row_before(dataset):
    (every,), _ = train([small(train__eval_every=1)], dataset)
    (some,), _ = train([small()], dataset)
    means = np.array([r["train_loss"] for r in every.curve]).reshape(4, 5).mean(1)
    np.testing.assert_allclose([r["train_loss"] for r in some.curve], means, rtol=1e-6)
    assert every.final == some.final


def test_the_chunk_changes_no_bit_and_progress_is_told_after_each(dataset, whole):
    configs = [GHOSTS | {"seed": s, "host.width": 2, "host.chunk": 7} for s in (0, 1)]
    population, seen = Population(configs, dataset), []
    states = population.train(seen.append)
    cut = population.outcomes[0]
    assert (cut.curve, cut.final) == (whole[0].curve, whole[0].final)
    jax.tree.map(np.testing.assert_array_equal, member(states), whole[1])
    assert [(p.step, p.steps, p.alive) for p in seen] == [(7, 20, 2), (14, 20, 2), (20, 20, 2)]
    rows = [sum((p.rows[i] for p in seen), []) for i in (0, 1)]
    assert rows == [o.curve for o in population.outcomes]
    assert seen[-1].best_accuracy == max(r["accuracy"] for r in rows[0] + rows[1])


@pytest.fixture(scope="module")
def first_bad_step(dataset) -> Callable[[Config], int]:
    """The first step (from 1) whose loss or gradient is not finite, found by a plain loop."""
    net = build_model(small(), 10, "patches")
    begin = jax.jit(functools.partial(init_state, net, "momentum"))

    @jax.jit
    def step(hyper, state, x, y):
        def loss_of(params):
            logits: Any = net.apply({"params": params}, x, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        leaves = jax.tree.leaves(jax.value_and_grad(loss_of)(state.params))
        is_finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        return make_train_step(net, "momentum", hyper)(state, Batch(x, y, jnp.ones(())))[
            0
        ], is_finite

    def find(config: Config) -> int:
        seed, hyper = config["seed"], hyper_of(config)
        rows = batch_rows(dataset.split(seed), seed, 32, 0, 20)
        state = begin(hyper, pixels(dataset, rows[0]))
        for i, r in enumerate(rows, 1):
            state, is_finite = step(hyper, state, pixels(dataset, r), dataset.labels[r])
            if not is_finite:
                return i
        raise AssertionError("no step was bad")

    return find


@pytest.mark.parametrize("mode", ["map", "vmap"])
@pytest.mark.parametrize("bad", [{"optim.lr": 1e30}, {"optim.lr": 1e7}, {"init.gain": 1e14}])
def test_divergence_is_recorded_and_touches_no_neighbour(dataset, first_bad_step, bad, mode):
    common = {"host.mode": mode, "host.width": 3}
    good = [small(common, seed=s) for s in (1, 2, 3)]
    ill = {**good[1], **bad}
    alone, states = train(good, dataset)
    mixed, mixed_states = train([good[0], ill, good[2]], dataset)
    at = first_bad_step(ill)
    assert (mixed[1].diverged_at, mixed[1].status, mixed[1].final) == (at, "diverged", {})
    assert all(row["step"] < at for row in mixed[1].curve)
    for i in (0, 2):
        assert (mixed[i].curve, mixed[i].final) == (alone[i].curve, alone[i].final)
        jax.tree.map(np.testing.assert_array_equal, member(mixed_states, i), member(states, i))
    frozen = member(mixed_states, 1)
    assert (frozen.step, bool(frozen.is_alive)) == (at - 1, False)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(frozen))


@pytest.mark.parametrize("lr", [1e7, 1e15])
def test_the_step_of_divergence_does_not_depend_on_the_chunk(dataset, lr):
    config = small(optim__lr=lr, train__eval_every=1)
    records = []
    for chunk in (3, 20):
        (outcome,), _ = train([{**config, "host.chunk": chunk}], dataset)
        records.append((outcome.diverged_at, outcome.final, str(outcome.curve)))
    assert records[0][0] is not None
    assert records[1] == records[0]


def test_a_run_whose_last_score_is_not_finite_has_diverged(dataset):
    """Its only step was finite, but the weights it left are so large that every score is NaN."""
    (outcome,), states = train([small(optim__lr=1e15, train__steps=1)], dataset)
    assert bool(states.is_alive[0]) and np.isfinite(outcome.curve[0]["train_loss"])
    assert (outcome.diverged_at, outcome.status, outcome.final) == (1, "diverged", {})


def test_data_order_is_a_pure_function_of_seed_and_epoch(dataset):
    split, per_epoch = dataset.split(0), 2000 // 32
    rows = batch_rows(split, 7, 32, 0, 2 * per_epoch + 3)
    shuffle_epoch.cache_clear()
    for first, last in [(0, 5), (60, 64), (100, 127)]:
        np.testing.assert_array_equal(batch_rows(split, 7, 32, first, last), rows[first:last])
    epochs = [rows[:per_epoch].ravel(), rows[per_epoch : 2 * per_epoch].ravel()]
    for epoch in epochs:
        assert len(set(epoch)) == epoch.size and set(epoch) <= set(split.train)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(batch_rows(split, 8, 32, 0, 3), rows[:3])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_of_the_splits_never_mix(dataset, seed):
    member_batches = MemberBatches(small(seed=seed, train__steps=100), dataset)
    chunk = member_batches.chunk(0, 100)
    plan = chunk.scoring
    scored = [set(plan.rows[plan.parts == p][plan.weights[plan.parts == p] == 1]) for p in range(3)]
    trained = set(chunk.train.ravel()) | set(chunk.stats)
    assert trained <= set(member_batches.split.train)
    assert scored[0] | scored[1] == set(member_batches.split.validation)
    assert scored[2] == set(member_batches.split.test)
    assert not trained & (scored[0] | scored[1] | scored[2]) and not scored[0] & scored[1]


def test_members_see_their_own_data(dataset):
    population = Population([small(seed=s, host__width=3) for s in (0, 1, 1)], dataset)
    rows = population.batches(0, 20).train
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[1], rows[2])


def test_a_target_ends_a_run_at_the_first_row_that_reaches_it(dataset):
    common = GHOSTS | {"train.steps": 60, "host.width": 2, "host.chunk": 7}
    full, ended = (
        train([common | {"train.stop_at": stop, "seed": s} for s in (0, 1)], dataset)[0]
        for stop in (0.0, STOP_AT)
    )
    for whole, short in zip(full, ended, strict=True):
        reached = [i for i, row in enumerate(whole.curve) if row["accuracy"] >= STOP_AT]
        assert reached and 0 < reached[0] < len(whole.curve) - 1
        assert short.curve == whole.curve[: reached[0] + 1]
        last = short.curve[-1]
        assert (short.stopped_at, short.diverged_at) == (last["step"], None)
        assert short.final == {
            "validation_loss": last["loss"],
            "validation_accuracy": last["accuracy"],
        }


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_float_features_reach_the_network_as_they_are(dataset, model):
    """Pixels that are divided already train as the pixels do; other values are not touched."""
    config = small(model__name=model, model__widths=(4,), norm__name="batch")
    floats = dataclasses.replace(dataset, images=pixels(dataset, slice(None)))
    runs = [train([config], d)[1].params for d in (dataset, floats)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *runs)
    raw = np.array([[-3.5, 300.0], [0.0, np.pi]], np.float32)
    x = Resident(jnp.asarray(raw), (1, 2)).gather(jnp.array([1, 0]))
    assert x.dtype == np.float32 and np.array_equal(x, raw[::-1, None])
