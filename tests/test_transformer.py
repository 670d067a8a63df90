"""Transformer encoders: values, gradients and sizes against float64 formulas, ends, placements."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from time_networks import (
    check_against,
    check_ends,
    drawn,
    noise_until,
    transformer_reference,
)

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


def config_of(**settings: Any) -> Config:
    base = {"model.name": "encoder", "model.widths": (C,), "model.heads": HEADS, "data.batch": N}
    return resolve({**base, "data.length": T, "norm.time": "sequence", **settings}).config


def net_of(norm: str = "batch", **settings: Any) -> Any:
    return build_model(config_of(**{"norm.name": norm, **settings}), CLASSES, "cpu")


def sequences() -> np.ndarray:
    return noise_until(LENGTHS, T, D)


def reference(params, x, **settings):
    return transformer_reference(params, x, heads=HEADS, lengths=LENGTHS, **settings)


@pytest.mark.parametrize(
    "norm, placement, time, masked, own",
    [
        ("none", "pre", "step", True, {}),
        ("layer", "post", "step", True, {}),
        ("batch", "pre", "sequence", True, {}),
        ("batch", "pre", "sequence", False, {}),
        ("batch", "peri", "step", True, {}),
        ("batch", "pre", "sequence", True, {"qk_norm": True}),
        ("layer", "post", "step", True, {"residual": "skipinit"}),
    ],
)
def test_values_and_gradients_are_those_of_float64_formulas(norm, placement, time, masked, own):
    settings = {"model.placement": placement, "norm.time": time, "norm.masked": masked}
    settings |= {f"model.{name}": value for name, value in own.items()}
    net, x = net_of(norm, **settings), sequences()
    expected = functools.partial(
        reference, x=x, norm=norm, placement=placement, time=time, masked=masked
    )
    check_against(expected, net, drawn(net, x), x)


def test_branches_of_size_0_leave_only_the_shortcut():
    x = sequences()
    heads = [net_of("none", **{"model.residual": "skipinit", "model.depth": d}) for d in (1, 3)]
    logits = [net.apply(net.init(jax.random.key(0), x, train=True), x, train=True) for net in heads]
    assert np.array_equal(*logits)


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
        ({"model.residual": "fixup"}, "use identity or skipinit"),
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
