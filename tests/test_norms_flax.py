"""Our layers against Flax's own on ordinary inputs: outputs, gradients, running statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from normlab.norms import NORMS, build

EPSILON, MOMENTUM, GROUPS = 1e-3, 0.8, 2
OPTIONS = {"epsilon": EPSILON, "momentum": MOMENTUM, "groups": GROUPS}
SHAPES = [(6, 8), (4, 5, 3, 8)]
LIMIT = 1e-5

PEERS = {
    "batch": lambda ndim: nn.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON),
    "layer": lambda ndim: nn.LayerNorm(reduction_axes=tuple(range(1, ndim)), epsilon=EPSILON),
    "layer_channels": lambda ndim: nn.LayerNorm(epsilon=EPSILON),
    "instance": lambda ndim: nn.InstanceNorm(epsilon=EPSILON),
    "group": lambda ndim: nn.GroupNorm(num_groups=GROUPS, epsilon=EPSILON),
    "rms": lambda ndim: nn.RMSNorm(epsilon=EPSILON),
}
CASES = [
    (name, shape)
    for name in PEERS
    for shape in SHAPES
    if not (NORMS[name].needs_space and len(shape) == 2)
]


def draw(shape, seed=0, loc=0.5) -> np.ndarray:
    return (loc + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=LIMIT, atol=LIMIT)


class Pair:
    """Our layer and Flax's with the same parameters."""

    def __init__(self, name: str, shape):
        options = {k: v for k, v in OPTIONS.items() if k in NORMS[name].options}
        self.ours, self.theirs = build(name, **options).norm(name="norm_1"), PEERS[name](len(shape))
        self.switch = name == "batch"
        variables = self.ours.init(jax.random.key(0), draw(shape), train=True)
        self.params = {k: draw(v.shape, seed=7, loc=1.0) for k, v in variables["params"].items()}
        self.stats = variables.get("batch_stats", {})

    def run_ours(self, params, x, stats, train):
        variables = {"params": params, "batch_stats": stats}
        y, moved = self.ours.apply(variables, x, train=train, mutable=["batch_stats"])
        return y, moved.get("batch_stats", {})

    def run_theirs(self, params, x, stats, train):
        variables = {
            "params": params,
            "batch_stats": {k: stats[k] for k in ("mean", "var") if stats},
        }
        flag = {"use_running_average": not train} if self.switch else {}
        y, moved = self.theirs.apply(variables, x, mutable=["batch_stats"], **flag)
        return y, moved.get("batch_stats", {})


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_flax_has_the_same_parameters(name, shape):
    pair = Pair(name, shape)
    flag = {"use_running_average": False} if pair.switch else {}
    theirs = pair.theirs.init(jax.random.key(0), draw(shape), **flag)
    assert {k: v.shape for k, v in theirs["params"].items()} == {
        k: v.shape for k, v in pair.params.items()
    }


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_outputs_and_gradients_are_those_of_flax(name, shape, train):
    pair, x, cotangent = Pair(name, shape), draw(shape), draw(shape, seed=1, loc=0.0)

    def both(run):
        def value(params, x):
            y, _ = run(params, x, pair.stats, train)
            return jnp.sum(cotangent * y), y

        return jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(pair.params, x)

    (params, slope), y = both(pair.run_ours)
    (their_params, their_slope), their_y = both(pair.run_theirs)
    close(y, their_y)
    close(slope, their_slope)
    assert set(params) == set(their_params)
    for leaf in params:
        close(params[leaf], their_params[leaf])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [n for n in PEERS if NORMS[n].running_statistics])
def test_running_statistics_after_three_steps_are_those_of_flax(name, shape):
    pair = Pair(name, shape)
    ours, theirs = pair.stats, pair.stats
    for step in range(3):
        x = draw(shape, seed=step, loc=step)
        _, ours = pair.run_ours(pair.params, x, ours, train=True)
        _, theirs = pair.run_theirs(pair.params, x, theirs, train=True)
    assert set(theirs) == {"mean", "var"}
    close(ours["mean"] + ours["mean_lo"], theirs["mean"])
    close(ours["var"], theirs["var"])
    x = draw(shape, seed=9)
    y, _ = pair.run_ours(pair.params, x, ours, train=False)
    close(y, pair.run_theirs(pair.params, x, theirs, train=False)[0])
