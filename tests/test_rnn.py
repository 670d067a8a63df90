"""Recurrent networks: values against float64 loops, ends of sequences, late steps."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from time_networks import check_against, check_ends, drawn, noise_until

from normlab import data
from normlab.data.sequences import lengths_of, order_of
from normlab.models.build import build_model
from normlab.models.rnn import CELLS
from normlab.models.table import MODELS, PRODUCTS
from normlab.models.time import TimeNorm
from normlab.norms.builder import build
from normlab.runs.config import identity, resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.settings import Config
from normlab.training.batches import data_key, load_data
from normlab.training.evaluate import score
from normlab.training.population import Population
from normlab.training.program import Resident
from normlab.training.state import Hyper, init_state
from normlab.training.step import MUTABLE

N, T, D, H, CLASSES = 6, 7, 3, 4, 5
LENGTHS = np.array([7, 5, 4, 5, 2, 3])
EPSILON = 1e-5
VOWELS = {"data.name": "japanese_vowels"}


def config_of(**settings: Any) -> Config:
    base = {"model.name": "rnn", "model.widths": (H,), "data.batch": N, "data.length": T}
    return resolve({**base, **settings}).config


def net_of(norm: str = "batch", **settings: Any) -> Any:
    return build_model(config_of(**{"norm.name": norm, **settings}), CLASSES, "cpu")


def sequences(seed: int = 0, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    return noise_until(lengths, T, D, seed)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def reference(
    params, x, cell, norm, time="step", normed="both", lengths=LENGTHS, least=0, kept=None
):
    """Return the logits of a loop over steps in float64, in training. `kept`: in evaluation with
    these statistics, of which the last ones are repeated."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    layer, x = p["layer_1"], np.asarray(x, np.float64)
    N, T = x.shape[:2]

    def normalize(v, affine, live, t=0, name=""):
        """v [M, C]: over the live rows (batch), over C (layer), or not at all."""
        if kept:
            last = {k: np.asarray(v, np.float64)[: t + 1][-1] for k, v in kept[name].items()}
            mean, var = last["mean"] + last["mean_lo"], last["var"]
        elif norm == "batch":
            mean, var = v[live].mean(0), v[live].var(0)
        elif norm == "layer":
            mean, var = v.mean(1, keepdims=True), v.var(1, keepdims=True)
        else:
            return v
        return (v - mean) / np.sqrt(var + EPSILON) * affine["scale"] + affine["bias"]

    a = x[..., :-1] @ layer["dense_input"]["kernel"]
    valid = np.arange(T) < lengths[:, None]
    if norm != "none" and time == "sequence":
        flat = normalize(a.reshape(N * T, -1), layer["norm_input"]["norm"], valid.ravel())
        a = flat.reshape(a.shape)
    h, c = np.zeros((N, H)), np.zeros((N, H))
    enough = max(t for t in range(T) if valid[:, t].sum() >= least)
    for t in range(T):
        live, now = valid[:, t], a[:, t]
        counted = valid[:, min(t, enough)]
        if least:
            now = a[np.arange(N), np.minimum(t, lengths - 1)]
        if norm != "none" and time == "step":
            now = normalize(now, layer["norm_input"]["steps"]["norm"], counted, t, "input")
        now = now + layer["bias"]
        b = h @ layer["steps"]["dense_hidden"]["kernel"]
        if norm != "none" and normed == "both":
            b = normalize(b, layer["steps"]["norm_hidden"], counted, t, "hidden")
        if cell == "rnn":
            new, new_c = np.tanh(now + b), c
        elif cell == "gru":
            r, z = sigmoid(now[:, :H] + b[:, :H]), sigmoid(now[:, H : 2 * H] + b[:, H : 2 * H])
            candidate = np.tanh(now[:, 2 * H :] + r * b[:, 2 * H :])
            new, new_c = (1 - z) * candidate + z * h, c
        else:
            i, f, o, g = np.split(now + b, 4, 1)
            new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            new = sigmoid(o) * np.tanh(new_c)
        h, c = np.where(live[:, None], new, h), np.where(live[:, None], new_c, c)
    return h @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize(
    "cell, norm, time, normed, least",
    [
        ("rnn", "none", "step", "both", 0),
        ("gru", "none", "step", "both", 0),
        ("gru", "batch", "step", "both", 0),
        ("gru", "batch", "step", "both", 4),
        ("gru", "batch", "sequence", "input", 0),
        ("lstm", "batch", "step", "both", 0),
        ("lstm", "layer", "step", "both", 0),
    ],
)
def test_values_and_gradients_are_those_of_a_float64_loop(cell, norm, time, normed, least):
    settings = {"model.cell": cell, "norm.time": time, "model.normed": normed}
    settings["norm.least"] = least
    # no step has one row alone: there the derivative is that of the rounding
    lengths = np.array([7, 5, 7, 5, 2, 3])
    net, x = net_of(norm, **settings), sequences(0, lengths)
    expected = functools.partial(
        *(reference,),
        **{"x": x, "cell": cell, "norm": norm, "time": time, "normed": normed},
        **{"lengths": lengths, "least": least},
    )
    check_against(expected, net, drawn(net, x), x)


@pytest.mark.parametrize("norm, least", [("batch", 0), ("batch", 4), ("layer", 0)])
def test_nothing_behind_the_end_of_a_sequence_is_read(norm, least):
    check_ends(net_of(norm, **{"norm.least": least}), sequences())


def test_late_steps_count_sequences_that_ended_and_padding_examples_never_do():
    """At least 4 of the 5 that are no padding: steps 0 to 2 have them."""
    x, mask = sequences(), np.arange(N) != 2
    net = net_of("batch", **{"norm.least": 4, "norm.momentum": 0.0})
    variables = drawn(net, x)
    moved = net.apply(variables, x, train=True, mask=mask, mutable=MUTABLE)[1]["batch_stats"]
    kernel = np.asarray(variables["params"]["layer_1"]["dense_input"]["kernel"], np.float64)
    a = x[..., :-1].astype(np.float64) @ kernel
    found = moved["layer_1"]["norm_input"]["steps"]["norm"]["mean"]
    for t in range(T):
        rows = np.flatnonzero((LENGTHS > min(t, 2)) & mask)
        expected = a[rows, np.minimum(t, LENGTHS[rows] - 1)].mean(0)
        np.testing.assert_allclose(found[t], expected, rtol=1e-4, atol=1e-6)
    few = sequences(0, np.full(N, 1))[:2]  # no step has 4: all count as at the first
    assert np.isfinite(net.apply(variables, few, train=True, mutable=MUTABLE)[0]).all()


def test_enough_sequences_at_every_step_change_nothing():
    x, outs = sequences(0, np.array([7, 7, 7, 3, 2, 1])), []
    for least in (0, 3):
        net = net_of("batch", **{"norm.least": least})
        outs.append(net.apply(drawn(net, x), x, train=True, mutable=MUTABLE)[0])
    assert np.array_equal(*outs)


def test_a_sequence_alone_and_cut_to_its_end_gives_the_same():
    net, x = net_of("batch"), sequences()
    variables = drawn(net, x)
    _, moved = net.apply(variables, x, train=True, mutable=MUTABLE)
    variables = {**variables, **moved}
    together = net.apply(variables, x, train=False)
    for i, length in ((1, 5), (4, 2)):
        stats = jax.tree.map(lambda leaf, n=length: leaf[:n], variables["batch_stats"])
        alone = net.apply({**variables, "batch_stats": stats}, x[i : i + 1, :length], train=False)
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-6)


def test_equal_lengths_need_no_mask():
    x = sequences(0, np.full(N, T))
    outs = []
    for masked in (True, False):
        net = net_of("batch", **{"norm.masked": masked})
        outs.append(net.apply(drawn(net, x), x, train=True, mutable=MUTABLE)[0])
    np.testing.assert_allclose(*outs, rtol=1e-6, atol=1e-6)


def test_the_mask_decides_what_statistics_are_of():
    """Without it, what is over counts with its blank input and its last state."""
    x = sequences()
    kept = {}
    for masked in (True, False):
        net = net_of("batch", **{"norm.masked": masked, "norm.momentum": 0.0})
        variables = drawn(net, x)
        kept[masked] = net.apply(variables, x, train=True, mutable=MUTABLE)[1]["batch_stats"]
    kernel = np.asarray(variables["params"]["layer_1"]["dense_input"]["kernel"], np.float64)
    a = x[..., :-1].astype(np.float64) @ kernel
    for t in range(T):
        rows = LENGTHS > t
        if rows.sum() > 1:
            mean = kept[True]["layer_1"]["norm_input"]["steps"]["norm"]["mean"][t]
            np.testing.assert_allclose(mean, a[rows, t].mean(0), rtol=1e-4, atol=1e-6)
        mean = kept[False]["layer_1"]["norm_input"]["steps"]["norm"]["mean"][t]
        np.testing.assert_allclose(mean, a[:, t].mean(0), rtol=1e-4, atol=1e-6)


def test_steps_that_never_had_two_sequences_evaluate_as_the_last_one_that_had():
    net = net_of("batch", **{"norm.momentum": 0.0})
    x = sequences()  # steps 0 to 4 have two sequences, 5 and 6 one
    variables = drawn(net, x)
    assert not np.any(variables["batch_stats"]["live"])
    _, moved = net.apply(variables, x, train=True, mutable=MUTABLE)
    assert moved["batch_stats"]["live"].tolist() == [6, 6, 5, 4, 3, 1, 1]
    full = sequences(3, np.full(N, T))
    found = net.apply({**variables, **moved}, full, train=False)

    def repeated(leaf):
        return leaf.at[5:].set(leaf[4]) if leaf.ndim == 2 else leaf.at[5:].set(6)

    stats = jax.tree.map(repeated, moved["batch_stats"])
    assert np.array_equal(found, net.apply({**variables, "batch_stats": stats}, full, train=False))
    own = {**moved["batch_stats"], "live": jnp.full(T, 6.0)}
    other = net.apply({**variables, "batch_stats": own}, full, train=False)
    assert np.abs(found - other).max() > 0.01  # it matters
    # a later pass with fewer sequences takes nothing away
    few = sequences(4, np.full(N, 2))
    _, later = net.apply({**variables, **moved}, few, train=True, mutable=MUTABLE)
    assert later["batch_stats"]["live"].tolist() == [6, 6, 5, 4, 3, 1, 1]


LONGER = {"data.length": 6, "data.length_spread": 2, "eval.long": 3, "eval.batch": 70}


def trained(config: Config) -> tuple[Any, Any, Any]:
    """Return the data, the final metrics and the state of a short run."""
    dataset = load_data(config)
    population = Population([config], dataset)
    states = population.train(lambda progress: None)
    return dataset, population, jax.tree.map(lambda leaf: leaf[0], states)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_longer_sequences_are_scored_as_a_float64_loop_does(norm):
    """They have 9 to 11 steps, those of training 4 to 8, of which the last ones are rare."""
    config = config_of(
        **{"norm.name": norm, "data.batch": 8, "host.width": 1, "norm.momentum": 0.5},
        **{"train.steps": 40, "train.eval_every": 20, "optim.lr": 0.3, "eval.stats_examples": 64},
    )
    dataset, population, state = trained(config | LONGER)
    outcome, (member,) = population.outcomes[0], population.members
    x = dataset.images.reshape(-1, 11, 9)[member.split.test + 1797] / np.float32(255)
    lengths, labels = (x[..., 8] > 0).sum(1), dataset.labels[member.split.test]
    assert (sorted(set(lengths)), len(labels)) == ([9, 10, 11], 600)
    assert not dataset.images.reshape(-1, 11, 9)[:1797, 8:].any()  # the others end before
    kept = None
    if norm == "batch":
        layer = state.batch_stats["layer_1"]
        kept = {
            "input": layer["norm_input"]["steps"]["norm"],
            "hidden": layer["steps"]["norm_hidden"],
        }
        assert len(kept["input"]["mean"]) == 8 and state.batch_stats["live"][7] >= 2
    logits = reference(state.params, x, "gru", norm, lengths=lengths, kept=kept)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(600), labels]
    mode = "running_" if kept else ""
    assert outcome.final[f"{mode}long_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    accuracy = (logits.argmax(1) == labels).mean()
    assert outcome.final[f"{mode}long_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    data, net = Resident(population.images, (8, 9)), build_model(config, 10, "cpu")
    plan, stats = jax.tree.map(jnp.asarray, member.scoring), [state.batch_stats]
    few = score(net, state, stats, data, plan, jnp.asarray(member.curve_batches))
    assert few.count.tolist() == [[300, 0, 0, 0, 0, 0]]  # of a curve, no more
    # nothing else of the run changes
    _, alone, same = trained(config | LONGER | {"eval.long": 0})
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(same.params), strict=True):
        assert np.array_equal(a, b)
    assert alone.outcomes[0].curve == outcome.curve
    assert alone.outcomes[0].final == {k: v for k, v in outcome.final.items() if "long" not in k}


def test_steps_behind_those_of_training_repeat_the_last_statistics():
    """So what a step never seen gives is bounded, although it had one sequence or none."""
    net, more = net_of("batch", **{"norm.momentum": 0.0}), 4
    x = sequences()  # steps 5 and 6 have one sequence
    variables = drawn(net, x)
    variables |= net.apply(variables, x, train=True, mutable=MUTABLE)[1]
    full = noise_until(np.full(N, T + more), T + more, D, 3)
    found = net.apply(variables, full, train=False)

    def repeated(leaf):
        return jnp.concatenate([leaf[:5], jnp.repeat(leaf[4:5], T + more - 5, 0)])

    stats = jax.tree.map(repeated, variables["batch_stats"])
    assert np.array_equal(found, net.apply(variables | {"batch_stats": stats}, full, train=False))
    assert np.abs(found).max() < 10


def test_noise_is_drawn_for_every_step():
    norm = TimeNorm(build("none", noise=1.0), "step", True)
    x = jnp.ones((T, N, H))
    found = norm.apply({}, x, None, jnp.arange(T), rngs={"noise": jax.random.key(0)})
    assert len({step.tobytes() for step in np.asarray(found)}) == T


def test_one_row_at_a_step_moves_nothing_and_stays_finite():
    net, x = net_of("batch"), sequences()
    variables = drawn(net, x)
    out, moved = net.apply(variables, x, train=True, mutable=MUTABLE)
    stats = moved["batch_stats"]["layer_1"]["norm_input"]["steps"]["norm"]
    assert np.isfinite(out).all() and np.array_equal(stats["var"][5:], np.ones((2, 3 * H)))


def test_two_layers_feed_each_other_and_padding_examples_do_not_count():
    net, x = net_of("batch", **{"model.widths": (H, 3)}), sequences()
    variables = drawn(net, x)
    assert variables["params"]["layer_2"]["dense_input"]["kernel"].shape == (H, 9)
    mask = jnp.arange(N) < 4
    cut = net.apply(variables, x[:4], train=True, mutable=MUTABLE)
    masked = net.apply(variables, x, train=True, mask=mask, mutable=MUTABLE)
    np.testing.assert_allclose(cut[0], masked[0][:4], rtol=1e-4, atol=1e-5)


def test_how_parameters_start():
    hyper = Hyper(seed=3, lr=0.1, momentum=0.9, weight_decay=0.0, gain=2.0, norm_scale=0.1)
    x = sequences()
    start = {
        n: init_state(net_of(n, **{"model.cell": "lstm"}), "momentum", hyper, jnp.asarray(x)).params
        for n in ("none", "batch", "layer")
    }
    layer = start["batch"]["layer_1"]
    for part in np.split(np.asarray(layer["steps"]["dense_hidden"]["kernel"]) / 2, 4, 1):
        np.testing.assert_allclose(part @ part.T, np.eye(H), atol=1e-5)
    forget = np.zeros(4 * H)
    forget[H : 2 * H] = 1
    assert np.array_equal(layer["bias"], forget)
    assert np.array_equal(
        layer["norm_input"]["steps"]["norm"]["scale"], np.full(4 * H, np.float32(0.1))
    )
    assert np.array_equal(layer["steps"]["norm_hidden"]["scale"], np.full(4 * H, np.float32(0.1)))
    for name in ("none", "layer"):  # arms share the bits of what they share
        shared = start[name]["layer_1"]
        assert np.array_equal(shared["dense_input"]["kernel"], layer["dense_input"]["kernel"])
        hidden = shared["steps"]["dense_hidden"]["kernel"]
        assert np.array_equal(hidden, layer["steps"]["dense_hidden"]["kernel"])


def test_the_table_knows_the_cells():
    assert CELLS.keys() == PRODUCTS.keys()
    config = config_of(**{"model.widths": (4, 3), "model.cell": "lstm"})
    assert MODELS["rnn"].shapes(config, (8, 8, 1)) == [(1, 1, 16)] * 2 + [(1, 1, 12)] * 2
    config = config_of(**{"model.normed": "input"})
    assert MODELS["rnn"].shapes(config, (8, 8, 1)) == [(1, 1, 12)]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"norm.name": "evonorm_s0"}, "no activation follows the norms of 'rnn'"),
        ({"norm.kernel": "weight_norm"}, "not made for the kernels of 'rnn'"),
        ({"norm.name": "batch", "norm.time": "sequence", "norm.stats_batch": 2}, "groups examples"),
        ({"data.length": 4, "data.length_spread": 4}, "use at most 3"),
        ({"data.length": 0, "data.length_spread": 2}, "use at most 0"),
        ({"data.length": 0, "data.patch": 3}, r"use one of \[1, 2, 4, 8\]"),
        ({"data.patch": 2}, "only rows can be resampled"),
        ({"eval.probes": "rank"}, "cannot look into 'rnn'"),
        ({"norm.least": 4, "norm.time": "sequence"}, "use norm.time=step or norm.least=0"),
        ({"norm.least": 4, "norm.masked": False}, "use norm.masked=True or norm.least=0"),
        ({"norm.least": 4, "norm.stats_batch": 3}, "use norm.stats_batch=0 or norm.least=0"),
        ({"norm.least": N + 1}, "more than data.batch = 6"),
        ({"data.length": 0, "data.patch": 2, "eval.long": 3}, "and eval.long = 3: only rows can"),
        (VOWELS | {"data.length": 0, "eval.long": 3}, "long = 3: japanese_vowels has lengths"),
        ({"norm.name": "instance"}, "at least 2 are needed"),
        (VOWELS, "data.length = 7: japanese_vowels has lengths of its own; use 0"),
        (
            VOWELS | {"data.length": 0, "data.permuted": True},
            "data.permuted = True takes rows or patches of images, japanese_vowels is sequences",
        ),
        ({"data.permuted": True}, "data.permuted = True and data.length = 7: between permuted"),
        (
            {"data.length": 0, "data.permuted": True, "eval.long": 3},
            "data.permuted = True and eval.long = 3: between permuted steps nothing",
        ),
        (
            {"data.length": 0, "data.permuted": True, "data.length_law": "natural"},
            "data.permuted = True with data.length_law = 'natural': .* use False",
        ),
        (VOWELS | {"data.length": 0, "data.length_spread": 2}, "spread = 2: japanese_vowels has"),
        (VOWELS | {"data.length": 0, "data.patch": 1}, "patch = 1: japanese_vowels has"),
        (VOWELS | {"model.name": "mlp"}, "vowels is sequences; use one of rnn, encoder"),
        (VOWELS | {"model.name": "cnn", "data.augment": "crop_flip"}, "'cnn' takes images"),
    ],
)
def test_what_a_recurrent_network_refuses(settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        config_of(**settings)
    assert "\n" not in str(caught.value)


def test_settings_that_mean_nothing_are_reset():
    mlp = resolve({"data.length": 9, "data.length_spread": 3, "norm.time": "sequence"}).config
    assert mlp["data.length"] == mlp["data.length_spread"] == 0 and mlp["norm.time"] == "step"
    encoder = config_of(**{"model.name": "encoder", "norm.least": 2, "data.length_law": "log"})
    assert encoder["norm.least"] == 0 and encoder["data.length_law"] == "even"  # one length
    assert config_of(**{"model.name": "encoder", "eval.long": 3})["eval.long"] == 0
    layer = config_of(**{"norm.name": "layer", "norm.time": "sequence", "norm.masked": False})
    assert layer["norm.time"] == "step" and layer["norm.masked"]
    assert config_of(**{"norm.name": "layer", "norm.least": 4})["norm.least"] == 0
    none = config_of(**{"norm.name": "none", "init.norm_scale": 0.1})
    assert none["init.norm_scale"] == 1.0
    batch = config_of(**{"norm.name": "batch", "norm.masked": False, "init.norm_scale": 0.1})
    assert not batch["norm.masked"] and batch["init.norm_scale"] == 0.1


def test_runs_are_the_same_in_every_population_and_learn():
    config = config_of(
        **{"data.length": 6, "data.length_spread": 2, "data.batch": 32, "norm.name": "batch"},
        **{"model.widths": (16,), "train.steps": 150, "optim.lr": 0.1, "init.norm_scale": 0.3},
        **{"train.eval_every": 150, "host.width": 3, "eval.stats_examples": 256},
    )
    dataset = load_data(config)
    assert dataset.shape == (8, 9, 1)
    seeds = [config | {"seed": seed} for seed in range(3)]
    curves = []
    for members in (seeds, seeds[1:]):
        population = Population(members, dataset)
        population.train(lambda progress: None)
        curves.append([outcome.final for outcome in population.outcomes])
    assert curves[0][1:] == curves[1]
    assert all(final["test_accuracy"] > 0.6 for final in curves[0])


def test_natural_lengths_reach_the_network_and_it_learns():
    short = {"train.steps": 100, "train.eval_every": 100, "optim.lr": 0.3, "host.width": 1}
    config = config_of(
        **VOWELS, **short, **{"data.length": 0, "data.batch": 16, "model.widths": (16,)}
    )
    dataset = load_data(config)
    assert np.array_equal(dataset.images, data.load("japanese_vowels").images)
    population = Population([config], dataset)
    states = population.train(lambda progress: None)
    assert population.outcomes[0].final["test_accuracy"] > 0.8
    kernel = states.params["layer_1"]["dense_input"]["kernel"]
    assert kernel.shape == (1, 12, 48)


def test_rows_become_steps():
    digits = data.load("digits")
    plain = data.as_sequences(digits)
    rows = digits.images.reshape(-1, 8, 8)
    steps = plain.images.reshape(-1, 8, 9)
    assert plain.shape == (8, 9, 1) and np.array_equal(steps[..., :8], rows)
    assert np.all(steps[..., 8] == 255)
    spread = data.as_sequences(digits, 12, 8)
    lengths, steps = lengths_of(1797, 4, 20), spread.images.reshape(-1, 20, 9)
    assert np.array_equal((steps[..., 8] > 0).sum(1), lengths)
    assert not steps[np.arange(20) >= lengths[:, None]].any()
    tiles = data.as_sequences(digits, patch=4)
    assert tiles.shape == (4, 17, 1)
    upper_right = tiles.images.reshape(-1, 4, 17)[:, 1, :16].reshape(-1, 4, 4)
    assert np.array_equal(upper_right, digits.images.reshape(-1, 8, 8)[:, :4, 4:])
    # first and last row stay, and a place halfway is the mean of its neighbours
    last = steps[np.arange(1797), lengths - 1, :8]
    assert np.array_equal(steps[:, 0, :8], rows[:, 0]) and np.array_equal(last, rows[:, 7])
    middle = steps[lengths == 15][:, 1, :8].astype(float)
    expected = rows[lengths == 15][:, :2].mean(1)
    assert np.abs(middle - expected).max() <= 0.5
    assert sorted(set(lengths)) == list(range(4, 21))
    counts = np.bincount(lengths)[4:]
    assert counts.min() > 70 and counts.max() < 145  # 106 on average, SD 10
    assert np.array_equal(lengths, lengths_of(1797, 4, 20))
    assert len({digits.sha256, plain.sha256, spread.sha256}) == 3
    assert np.array_equal(spread.labels, digits.labels)
    halves = dataclasses.replace(digits, images=digits.images.astype(np.float32) - 100.25)
    real = data.as_sequences(halves, 12, 8).images.reshape(-1, 20, 9)
    assert real.dtype == np.float32 and np.array_equal(real[..., 8], steps[..., 8] > 0)
    close = np.abs(real[..., :8] + 100.25 * real[..., 8:] - steps[..., :8])
    assert 0.4 < close.max() <= 0.51


def test_permuted_steps_have_one_order_for_all_examples_and_runs():
    digits, pixels = data.load("digits"), {"data.length": 0, "data.patch": 1}
    plain = data.as_sequences(digits, patch=1)
    assert plain.shape == (64, 2, 1)
    shown = plain.images.reshape(-1, 64, 2)
    assert np.array_equal(shown[..., 0], digits.images) and np.all(shown[..., 1] == 255)
    permuted = load_data(config_of(**pixels, **{"data.permuted": True, "seed": 5}))
    order = order_of(64)
    assert sorted(order) == [*range(64)] and np.mean(order == np.arange(64)) < 0.1
    assert order[:6].tolist() == [47, 10, 0, 24, 49, 61]  # a change of it changes results
    assert np.array_equal(permuted.images.reshape(-1, 64, 2), shown[:, order])
    assert np.array_equal(permuted.labels, digits.labels) and permuted.sha256 != plain.sha256
    rows = data.as_sequences(digits, is_permuted=True).images.reshape(-1, 8, 9)
    assert np.array_equal(rows[..., :8], digits.images.reshape(-1, 8, 8)[:, order_of(8)])


def test_permuted_steps_are_another_run_on_other_data():
    plain, permuted = (config_of(**{"data.length": 0, "data.permuted": p}) for p in (False, True))
    assert run_id(plain) != run_id(permuted) and data_key(plain) != data_key(permuted)
    assert "data.permuted" not in identity(plain) and identity(permuted)["data.permuted"]
    assert resolve({"data.permuted": True}).config["data.permuted"] is False  # an mlp has no steps


def test_lengths_whose_logarithm_is_even():
    """About as many have from 4 to 8 steps as from 18 to 40."""
    logs = data.as_sequences(data.load("digits"), 22, 18, law="log")
    lengths = (logs.images.reshape(-1, 40, 9)[..., 8] > 0).sum(1)
    assert (lengths.min(), lengths.max()) == (4, 40)
    counts = np.bincount(lengths, minlength=41)[4:]
    shares = np.diff(np.log(np.arange(4, 42))) / np.log(41 / 4)
    chi = ((counts - 1797 * shares) ** 2 / (1797 * shares)).sum()
    assert shares.sum() == pytest.approx(1) and chi < 68  # 36 degrees of freedom, 1 in 1,000


def test_natural_lengths_are_those_of_the_drawn_columns():
    images = np.zeros((3, 4, 5, 1), np.uint8)
    images[0, 1, 2], images[0, 3, 3] = 9, 7  # columns 2 and 3
    images[1, :, 0], images[1, 0, 4] = 5, 6  # all, the middle is blank
    flat = images.reshape(3, -1)
    drawn_images = data.Dataset("digits", flat, np.arange(3, dtype=np.int32), (4, 5, 1), 3, "")
    made = data.as_sequences(drawn_images, law="natural")
    assert made.shape == (5, 5, 1)
    found = made.images.reshape(3, 5, 5)
    assert (found[..., -1] == 255).sum(1).tolist() == [2, 5, 1]
    assert found[0, :, :4].tolist() == [[0, 9, 0, 0], [0, 0, 0, 7], *[[0] * 4] * 3]
    assert np.array_equal(found[1, :, :4], images[1, :, :, 0].T)


def test_natural_lengths_need_no_spread_and_refuse_one():
    natural = {"data.length_law": "natural", "data.length": 0}
    assert config_of(**natural)["data.length_law"] == "natural"
    assert load_data(config_of(**natural)).shape == (8, 9, 1)
    with pytest.raises(ConfigError, match="have a length of their own; use 0"):
        config_of(**{"data.length_law": "natural", "data.length": 8})
    with pytest.raises(ConfigError, match="takes columns of images"):
        config_of(**natural, **{"data.name": "japanese_vowels"})
