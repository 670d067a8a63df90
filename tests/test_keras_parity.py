"""The tutorial's network: Adam's form in Keras, Glorot's uniform, the same losses as in Keras."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.validation import keras_parity
from benchmarks.validation.keras_parity import Arm, Run, Trained
from normlab import data
from normlab.models.build import build_model
from normlab.settings import defaults
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


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.peers("keras")
def test_both_train_alike(norm):
    pytest.importorskip("keras")
    steps = 20
    config = load_config("tutorial") | {"data.name": "synthetic", "model.widths": (16,)}
    (run,) = keras_parity.compare(Arm(norm), config, data.load("synthetic"), (5,), steps)
    assert run.normlab.losses.shape == run.keras.losses.shape == (steps,)
    assert run.normlab.losses[-5:].mean() < run.normlab.losses[:5].mean()
    differences = run.differences()
    assert differences["normlab_keras"] < 1e-5
    assert 0 < differences["keras_keras_reversed"] < 1e-5
    assert run.normlab.accuracy == pytest.approx(run.keras.accuracy, abs=0.005)


def made_up(offset: float, arm: Arm, steps: int) -> Run:
    one = Trained(np.ones(steps), 0.5)
    two = one._replace(losses=one.losses.copy())
    two.losses[50] += offset
    return Run(arm, 0, one, two, one)


def test_the_verdict_counts_the_judged_runs_and_no_other(monkeypatch):
    good, bad = made_up(5e-5, Arm("batch"), 1000), made_up(2e-4, Arm("none"), 1000)
    other = made_up(1.0, Arm("batch", "tanh", is_judged=False), 1000)
    short = [made_up(x, Arm("none", is_judged=False), keras_parity.STEPS) for x in (0.0, 1.0, 5e-5)]
    assert keras_parity.verdict([good, other, *short]).startswith("pass: 1 of 1 runs")
    failed = keras_parity.verdict([good, bad, other, *short])
    assert failed.startswith("fail: 1 of 2 runs") and failed.endswith("2.0e-04")
    assert keras_parity.tally([good, bad, *short]).startswith("2 of 3 further runs")
    table = keras_parity.table_of([good, bad, *short])
    assert [row[3] for row in table.rows] == ["5.0e-05", "**2.0e-04**"]
    monkeypatch.setattr(keras_parity, "PACKAGES", ())  # it need not be installed
    facts = keras_parity.facts_of([good, bad], "jax")
    assert facts["runs"][1]["largest_difference"]["normlab_keras"] == pytest.approx(2e-4)
    assert facts["runs"][0]["losses"]["keras"]["50"] == 1
    good.normlab.losses[70:] = np.nan  # it diverged
    assert not good.is_within_limit and keras_parity.verdict([good]).startswith("fail")
