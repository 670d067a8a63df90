"""Where parameters, state and input are float64, nothing is computed in float32."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import oracle
from trained_layers import CONV, EPSILON, GROUPS, MUTABLE, make, start

from normlab.layers.table import KERNELS
from normlab.models.build import build_model
from normlab.norms import NORMS
from normlab.norms.updates import average_states, reestimate
from normlab.settings import defaults
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

X = np.random.default_rng(0).normal(1, 2, CONV)
ROWS = np.random.default_rng(1).normal(0, 1, (64, 8))
STEPS = [
    *({"optim.name": name} for name in ("sgd", "momentum", "adam", "adamw", "adam_keras")),
    *({"norm.kernel": name} for name in KERNELS),
    *({"norm.average": name} for name in ("debiased", "cumulative")),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def widened(tree: Any) -> Any:
    return jax.tree.map(lambda v: v.astype(float) if v.dtype == jnp.float32 else v, tree)


def lines_in_float32(function: Any, *inputs: Any) -> list[str]:
    """What a program computes in float32; constants may begin there."""
    lines = jax.jit(function).lower(*inputs).as_text().splitlines()
    begins = re.compile(r"constant|broadcast_in_dim|convert .*-> tensor<[^>]*f64>$")
    return [line for line in lines if "f32" in line and not begins.search(line)]


@pytest.mark.parametrize("name", NORMS)
def test_a_layer_trains_in_float64(name):
    norm = make(name)
    variables = widened(start(norm, X))

    def train(variables, x):
        def value(params, x):
            y, moved = norm.apply(variables | {"params": params}, x, train=True, mutable=MUTABLE)
            return jnp.sum(jnp.sin(y)), moved

        return jax.grad(value, (0, 1), has_aux=True)(variables["params"], x)

    assert not lines_in_float32(train, variables, X)
    (_, of_x), moved = jax.eval_shape(train, variables, X)
    leaves = jax.tree.leaves((of_x, moved))
    assert {leaf.dtype for leaf in leaves} <= {jnp.dtype("float64"), jnp.dtype("int32")}


@pytest.mark.parametrize("name", [name for name, row in NORMS.items() if row.running_statistics])
def test_running_statistics_in_float32_evaluate_in_float64(name):
    norm = make(name)
    variables = widened(start(norm, X))
    stats = {k: np.float32(v) for k, v in variables["batch_stats"].items()}
    stats |= {k: np.linspace(0.5, 1.5, 4, dtype=np.float32) for k in stats if k != "mean_lo"}
    y = norm.apply(variables | {"batch_stats": stats}, X, train=False)
    running = [np.float64(stats.get(k, one)) for k, one in (("mean", 0.0), ("var", 1.0))]
    given = {"epsilon": EPSILON, "groups": GROUPS, "running": tuple(running)}
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, oracle(name, X, variables["params"], **given), atol=1e-13)


@pytest.mark.parametrize("settings", STEPS, ids=lambda settings: "=".join(*settings.items()))
def test_a_step_is_in_float64(settings):
    config = defaults() | {"model.name": "mlp", "model.widths": (4,), **settings}
    net, optimizer, hyper = build_model(config, 3, "lax"), config["optim.name"], hyper_of(config)
    x = jnp.asarray(ROWS)
    state = widened(init_state(net, optimizer, hyper, x))

    def step(hyper, state, batch):
        return make_train_step(net, optimizer, hyper)(state, batch)

    batch = Batch(x, jnp.zeros(len(x), int), jnp.ones(()))
    assert not lines_in_float32(step, hyper, state, batch)


def test_statistics_of_several_batches_are_combined_in_float64():
    layer = make("batch")
    batches = [X, X[:2] + 1]
    variables = widened(start(layer, X))

    def apply(variables, x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    means = [np.mean(x, (0, 1, 2)) for x in batches]
    found = reestimate(apply, variables, batches)["batch_stats"]
    right = (len(X) * means[0] + 2 * means[1]) / (len(X) + 2)
    np.testing.assert_allclose(found["mean"] + found["mean_lo"], right, rtol=1e-14)
    states = {"batch_stats": {"var": jnp.array([0.1, 0.7])}}
    assert average_states(states, [1, 2])["batch_stats"]["var"] == pytest.approx(0.5, abs=1e-15)
