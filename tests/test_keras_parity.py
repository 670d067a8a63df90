"""The tutorial's network: Adam's form in Keras, Glorot's uniform, the same losses as in Keras."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.validation import keras_parity, lessons
from benchmarks.validation.keras_parity import Arm, Run, Trained
from normlab import data
from normlab.models.build import build_model
from normlab.settings import Config, defaults
from normlab.studies.setup import load_config
from normlab.training.optim import direction

LR, B1 = 0.01, 0.9


def gradients(steps: int) -> np.ndarray:
    """Of six parameters, from far above to far below Adam's epsilon of 1e-7."""
    draws = np.random.default_rng(0).standard_normal((steps, 6))
    return (draws * 10.0 ** np.arange(0, -12, -2)).astype(np.float32)


def train_ours(grads: np.ndarray) -> np.ndarray:
    """Parameters after every step, from 0."""
    transform = direction("adam_keras", jnp.asarray(B1, grads.dtype), 0.0)

    def step(carry: Any, grad: jax.Array) -> Any:
        params, state = carry
        updates, state = transform.update({"w": grad}, state, params)
        params = jax.tree.map(lambda p, u: p - LR * u, params, updates)
        return (params, state), params["w"]

    first = {"w": jnp.zeros(grads.shape[1], grads.dtype)}
    run = jax.jit(lambda g: jax.lax.scan(step, (first, transform.init(first)), g)[1])
    return np.asarray(run(jnp.asarray(grads)))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("float64", 1e-12)])
def test_adam_keras_is_its_formula(dtype, error):
    """In float32 it has 1 - 0.999^t to few digits only."""
    grads = gradients(30).astype(np.float64)
    m, v, w, right = np.zeros(6), np.zeros(6), np.zeros(6), []
    for t, grad in enumerate(grads, 1):
        m, v = B1 * m + (1 - B1) * grad, 0.999 * v + 0.001 * grad**2
        w = w - LR * math.sqrt(1 - 0.999**t) / (1 - B1**t) * m / (np.sqrt(v) + 1e-7)
        right.append(w)
    with jax.enable_x64(dtype == "float64"):
        found = train_ours(grads.astype(dtype))
    scale = np.abs(right).max(0)
    assert np.all(np.abs(found - right) < error * scale)
    assert scale[-1] < 1e-3 * scale[0]  # epsilon decides there: the test can see it


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"model.name": "mlp", "model.widths": (200,)}, (2, 100)),
        ({"model.name": "resnet", "model.widths": (4,), "model.depth": 4}, (2, 4, 4, 3)),
    ],
    ids=["mlp", "resnet"],
)
def test_glorot_uniform_fills_its_bounds(settings, shape):
    net = build_model(defaults() | settings | {"init.kernel": "glorot_uniform"}, 10, "lax")
    x = jnp.zeros(shape)
    params = jax.jit(lambda: net.init(jax.random.key(0), x, train=True)["params"])()
    kernels = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items() if "kernel" in k}
    assert "head/kernel" in kernels
    for name, leaf in kernels.items():
        field = math.prod(leaf.shape[:-2])
        limit = math.sqrt(6 / (field * (leaf.shape[-2] + leaf.shape[-1])))
        assert np.abs(leaf).max() <= limit, name
        if leaf.size > 1000:
            assert np.abs(leaf).max() > 0.99 * limit, name
            assert np.std(leaf) == pytest.approx(limit / math.sqrt(3), rel=0.05), name


def lesson_config(norm: str) -> Config:
    return load_config("tutorial") | {
        "data.name": "synthetic",
        "model.widths": (16,),
        "norm.name": norm,
    }


def slopes_of(p: list[np.ndarray], x: np.ndarray, y: np.ndarray, has_norm: bool) -> Any:
    """The loss and its gradients of [kernel, bias, scale, shift, kernel, bias], by hand."""
    w, b, scale, shift, head, last = p
    z, n = x @ w + b, len(x)
    inverse = 1 / np.sqrt(z.var(0) + 1e-3)
    h = (z - z.mean(0)) * inverse
    a = scale * h + shift if has_norm else z
    e = np.exp(np.maximum(a, 0) @ head + last)
    share = e / e.sum(1, keepdims=True)
    loss = -np.log(share[np.arange(n), y]).mean()
    d = (share - np.eye(share.shape[1])[y]) / n
    da = (d @ head.T) * (a > 0)
    dz = scale * inverse * (da - da.mean(0) - h * (da * h).mean(0)) if has_norm else da
    norm = [(da * h).sum(0), da.sum(0)] if has_norm else [0 * scale, 0 * shift]
    return loss, [x.T @ dz, dz.sum(0), *norm, np.maximum(a, 0).T @ d, d.sum(0)]


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_our_side_in_float64_is_its_formula(norm):
    """Anything in float32 would differ by 1e-8; both types begin with the same weights and rows."""
    steps, dataset, config = 20, data.load("synthetic"), lesson_config(norm)
    with jax.enable_x64(True):
        ((lesson, found),) = lessons.train_in_float64(config, (5,), dataset, steps)
    ((other, same),) = lessons.train_population(config, (5,), dataset, steps)
    jax.tree.map(np.testing.assert_array_equal, lesson.weights, other.weights)
    np.testing.assert_array_equal(lesson.rows, other.rows)
    np.testing.assert_allclose(found.losses, same.losses, atol=1e-5)
    assert found.accuracy == pytest.approx(same.accuracy, abs=0.005)
    assert lesson.inputs(lesson.rows[0]).dtype == found.losses.dtype == np.float64
    first, head = lesson.weights["dense_1"], lesson.weights["head"]
    p = [first["kernel"], first["bias"], np.ones(16), np.zeros(16), head["kernel"], head["bias"]]
    m, v, right = [0 * leaf for leaf in p], [0 * leaf for leaf in p], []
    for t, rows in enumerate(lesson.rows, 1):
        inputs = dataset.images[rows] / 255
        loss, slopes = slopes_of(p, inputs, dataset.labels[rows], norm == "batch")
        right.append(loss)
        m = [0.9 * a + 0.1 * g for a, g in zip(m, slopes, strict=True)]
        v = [0.999 * a + 0.001 * g**2 for a, g in zip(v, slopes, strict=True)]
        rate = 1e-3 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        moves = [rate * a / (np.sqrt(b) + 1e-7) for a, b in zip(m, v, strict=True)]
        p = [leaf - move for leaf, move in zip(p, moves, strict=True)]
    np.testing.assert_allclose(found.losses, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "dtype", "error"),
    [
        ("batch", "float32", 1e-5),
        ("none", "float32", 1e-5),
        ("batch", "float64", 1e-6),  # on jax, Keras has this layer in float32 all the same
        ("none", "float64", 1e-13),
    ],
)
@pytest.mark.peers("keras")
def test_both_train_alike(norm, dtype, error):
    keras = pytest.importorskip("keras")
    steps, config = 20, lesson_config(norm)
    arm = Arm(norm, dtype=dtype)
    (run,) = keras_parity.compare(arm, config, data.load("synthetic"), (5,), steps)
    assert run.normlab.losses.shape == run.keras.losses.shape == (steps,)
    assert run.normlab.losses[-5:].mean() < run.normlab.losses[:5].mean()
    differences = run.differences()
    assert differences["normlab_keras"] < error
    assert 0 < differences["keras_keras_reversed"] < error
    assert run.normlab.accuracy == pytest.approx(run.keras.accuracy, abs=0.005)
    for side in (run.normlab, run.keras, run.keras_reversed):
        is_rounded = np.all(side.losses == np.float32(side.losses))
        assert is_rounded == (dtype == "float32")
    assert keras.config.floatx() == keras.config.dtype_policy().name == "float32"
    assert jnp.ones(()).dtype == np.float32


def made_up(offset: float, arm: Arm, steps: int, own: float = 1e-4) -> Run:
    """Run whose losses differ from Keras by `offset`, and Keras's by `own` when reversed."""
    one = Trained(np.ones(steps), 0.5)
    two, three = (one._replace(losses=one.losses.copy()) for _ in range(2))
    two.losses[50] += offset
    three.losses[60] += own
    return Run(arm, 0, two, one, three)


SINGLE, DOUBLE = Arm("none"), Arm("batch", dtype="float64")
UNJUDGED = Arm("batch", "tanh", is_judged=False)


@pytest.mark.parametrize(
    ("arm", "offset", "own", "judged", "is_within"),
    [
        (DOUBLE, 0.9e-6, 0.0, 0.9e-6, True),
        (DOUBLE, 1.1e-6, 1.0, 1.1e-6, False),
        (SINGLE, 1.9e-4, 1e-4, 1.9, True),
        (SINGLE, 2.1e-4, 1e-4, 2.1, False),
        (SINGLE, 1.0, 0.0, math.inf, False),
        (SINGLE, 0.0, 0.0, 0.0, True),
        (SINGLE, math.nan, 1e-4, math.nan, False),
        (SINGLE, 1e-4, math.nan, math.nan, False),
        (DOUBLE, math.nan, 1e-4, math.nan, False),
    ],
)
def test_each_type_has_its_limit(arm, offset, own, judged, is_within):
    run = made_up(offset, arm, 1000, own)
    assert run.judged == pytest.approx(judged, rel=1e-6, nan_ok=True)
    assert run.is_within_limit == is_within
    run.normlab.losses[500] = 9.0  # what comes after STEPS is not judged
    assert run.judged == pytest.approx(judged, rel=1e-6, nan_ok=True)


def test_the_result_counts_the_judged_runs_of_a_type_and_no_other(monkeypatch):
    good, bad = made_up(1e-4, Arm("batch"), 1000), made_up(3e-4, SINGLE, 1000)
    double, other = made_up(2e-7, DOUBLE, 1000), made_up(1.0, UNJUDGED, 1000)
    short = SINGLE._replace(is_judged=False)
    shorts = [made_up(x, short, keras_parity.STEPS) for x in (0.0, 1.0, 5e-5)]
    shorts.append(made_up(3e-7, DOUBLE._replace(is_judged=False), keras_parity.STEPS))
    runs = [good, double, other, *shorts]
    found = keras_parity.result(runs, "float32")
    assert found["verdict"].startswith("float32: pass: 1 of 1 runs stay within 2 times")
    assert found["further_runs"] == "2 of 3 further runs, not judged, do too; the largest is 1e+04"
    failed = keras_parity.result([good, bad._replace(seed=4), *runs[1:]], "float32")
    assert failed["verdict"].startswith("float32: fail: 1 of 2 runs")
    assert failed["verdict"].endswith("the largest is 3")
    assert (failed["limit"], failed["largest"], failed["n"]) == (2.0, pytest.approx(3.0), 2)
    wide = keras_parity.result(runs, "float64")
    assert wide["verdict"].startswith("float64: pass: 1 of 1 runs stay within 1e-06 nats of Keras")
    assert wide["verdict"].endswith("the largest is 2e-07")
    assert wide["further_runs"].startswith("1 of 1") and wide["further_runs"].endswith(" 3e-07")
    table = keras_parity.table_of([good, bad, double, *shorts])
    assert [row[3] for row in table.rows] == ["1.0e-04", "**3.0e-04**", "2.0e-07"]
    monkeypatch.setattr(keras_parity, "PACKAGES", ())  # it need not be installed
    facts = keras_parity.facts_of([good, bad, double, *shorts], "jax")
    assert facts["runs"][1]["largest_difference"]["normlab_keras"] == pytest.approx(3e-4)
    assert [run["judged"] for run in facts["runs"][:3]] == pytest.approx([1.0, 3.0, 2e-7], rel=1e-6)
    assert facts["runs"][2]["dtype"] == "float64"
    assert facts["results"]["float64"] == wide
    assert facts["runs"][0]["losses"]["keras"]["50"] == 1
    good.normlab.losses[70:] = np.nan  # it diverged
    diverged = keras_parity.result([good, bad, *shorts], "float32")
    assert diverged["verdict"].startswith("float32: fail: 0 of 2")
    assert math.isnan(diverged["largest"])


def test_both_types_of_both_networks_are_judged():
    judged = {(arm.norm, arm.act, arm.dtype) for arm in keras_parity.ARMS if arm.is_judged}
    types = itertools.product(("batch", "none"), ("relu",), keras_parity.LIMITS)
    assert judged == set(types) and len(keras_parity.SEEDS) == 3
