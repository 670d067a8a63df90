"""Transformer encoders: values, gradients and sizes against float64 formulas, ends, placements."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from time_networks import check_against, check_ends, drawn, noise_until

from normlab.models.build import build_model
from normlab.models.table import MODELS
from normlab.models.transformer import attend
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.settings import Config
from normlab.training.batches import load_data
from normlab.training.population import Population

N, T, D, C, HEADS, CLASSES = 5, 6, 3, 8, 2, 4
LENGTHS = np.array([6, 4, 6, 2, 4])
EPSILON = 1e-5


def config_of(**settings: Any) -> Config:
    base = {"model.name": "encoder", "model.widths": (C,), "model.heads": HEADS, "data.batch": N}
    return resolve({**base, "data.length": T, "norm.time": "sequence", **settings}).config


def net_of(norm: str = "batch", **settings: Any) -> Any:
    return build_model(config_of(**{"norm.name": norm, **settings}), CLASSES, "cpu")


def sequences() -> np.ndarray:
    return noise_until(LENGTHS, T, D)


def reference(params, x, norm, placement, time, masked=True):
    """Return the logits in float64, [N, T, C] and one loop for each head and example."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x, valid = np.asarray(x, np.float64)[..., :-1], np.arange(T) < LENGTHS[:, None]

    def dense(name, scope, y):
        return y @ scope[name]["kernel"] + scope[name]["bias"]

    def normalize(place, y):
        if norm == "none":
            return y
        affine = place["steps" if time == "step" else "norm"]
        affine = affine["norm"] if time == "step" else affine
        if norm == "layer":
            mean, var = y.mean(-1, keepdims=True), y.var(-1, keepdims=True)
        elif time == "sequence":
            counted = y[valid] if masked else y.reshape(-1, C)
            mean, var = counted.mean(0), counted.var(0)
        else:
            steps = [y[valid[:, t], t] for t in range(T)]
            mean, var = np.stack([s.mean(0) for s in steps]), np.stack([s.var(0) for s in steps])
        return (y - mean) / np.sqrt(var + EPSILON) * affine["scale"] + affine["bias"]

    def attention(scope, y):
        parts = dense("dense_qkv", scope, y)
        size, out = C // HEADS, np.zeros_like(y)
        for n, length in enumerate(LENGTHS):
            for head in range(HEADS):
                q, k, v = (
                    parts[n, :, i * C + head * size : i * C + (head + 1) * size] for i in range(3)
                )
                weights = np.exp(q @ k[:length].T / np.sqrt(size))
                weights /= weights.sum(1, keepdims=True)
                out[n, :, head * size : (head + 1) * size] = weights @ v[:length]
        return dense("dense_out", scope, out)

    def feed(scope, y):
        return dense("dense_2", scope, np.maximum(dense("dense_1", scope, y), 0))

    def scope_of(name, scope):
        return scope.get(name, {})

    h = dense("dense_in", p, x) + p["positions"][:, 0]
    block = p["block_1"]
    for name, branch in (("attention", attention), ("dense", feed)):
        before = scope_of(f"norm_{name}", block)
        if placement == "post":
            h = normalize(before, h + branch(block, h))
            continue
        y = branch(block, normalize(before, h))
        h = h + (normalize(scope_of(f"norm_{name}_after", block), y) if placement == "peri" else y)
    h = h if placement == "post" else normalize(scope_of("norm_last", p), h)
    mean = np.stack([h[n, :length].mean(0) for n, length in enumerate(LENGTHS)])
    return mean @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize(
    "norm, placement, time, masked",
    [
        ("none", "pre", "step", True),
        ("layer", "post", "step", True),
        ("batch", "pre", "sequence", True),
        ("batch", "pre", "sequence", False),
        ("batch", "peri", "step", True),
    ],
)
def test_values_and_gradients_are_those_of_float64_formulas(norm, placement, time, masked):
    settings = {"model.placement": placement, "norm.time": time, "norm.masked": masked}
    net, x = net_of(norm, **settings), sequences()
    expected = functools.partial(
        reference, x=x, norm=norm, placement=placement, time=time, masked=masked
    )
    check_against(expected, net, drawn(net, x), x)


def test_nothing_behind_the_end_of_a_sequence_is_read():
    check_ends(net_of("batch"), sequences())


def test_attention_of_large_products_is_finite_and_picks_the_largest():
    q = jnp.full((2, 1, 1, 4), 1e4)
    k = jnp.stack([q[0], -q[0]])
    v = jnp.arange(8.0).reshape(2, 1, 1, 4)
    both = attend(q, k, v, jnp.ones((2, 1, 1), bool))
    assert np.array_equal(both[0], v[0]) and np.array_equal(both[1], v[0])
    second = attend(q, k, v, jnp.array([False, True]).reshape(2, 1, 1))
    assert np.array_equal(second[0], v[1])


@pytest.mark.parametrize("placement, norms", [("pre", 5), ("post", 4), ("peri", 9)])
def test_the_table_knows_the_norms_and_the_parameters(placement, norms):
    config = config_of(**{"norm.name": "layer", "model.depth": 2, "model.placement": placement})
    assert MODELS["encoder"].shapes(config, (8, 8, 1)) == [(1, 1, C)] * norms
    net = build_model(config, CLASSES, "cpu")
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), sequences())
    block = C * 3 * C + 3 * C + C * C + C + C * 4 * C + 4 * C + 4 * C * C + C
    expected = D * C + C + T * C + 2 * block + norms * 2 * C + C * CLASSES + CLASSES
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == expected


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"model.heads": 3}, "use one width that is a multiple of the heads"),
        ({"model.widths": (8, 4)}, "have one width"),
        ({"norm.name": "frn", "model.placement": "post"}, "no activation follows the norms"),
        ({"norm.kernel": "standardize"}, "not made for the kernels of 'encoder'"),
        ({"norm.name": "batch", "norm.stats_batch": 1}, "groups examples"),
        ({"model.name": "mlp", "model.placement": "peri"}, "'mlp' has none"),
    ],
)
def test_what_an_encoder_refuses(settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        config_of(**settings)
    assert "\n" not in str(caught.value)


def test_an_encoder_learns_with_adam():
    config = config_of(
        **{"model.widths": (16,), "data.batch": 32, "data.length": 6, "data.length_spread": 2},
        **{"optim.name": "adam", "optim.lr": 5e-3, "train.steps": 150, "train.eval_every": 150},
        **{"norm.name": "batch", "host.width": 1},
    )
    population = Population([config], load_data(config))
    population.train(lambda progress: None)
    assert population.outcomes[0].final["test_accuracy"] > 0.6
