"""Mean-only and L1 batch normalization: equations, state, gradients, overflow, masks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ORACLES
from trained_layers import MUTABLE, draw, outputs

from normlab.norms import build

EPSILON = 1e-3
DENSE, CONV = (6, 4), (4, 3, 2, 4)
BOTH = ["mean_only_batch", "l1_batch"]
LARGEST = float(np.finfo(np.float32).max)


def layer(name, **options) -> Any:
    return build(name, **{"epsilon": EPSILON, "momentum": 0.0, **options}).norm(name="norm_1")


def start(norm, x) -> dict[str, Any]:
    """Initial variables with scale and bias away from 1 and 0."""
    variables = norm.clone(axis_name=None).init(jax.random.key(0), jnp.asarray(x), train=True)
    params = {k: draw(v.shape, 1, seed=3) for k, v in variables["params"].items()}
    return {**variables, "params": params}


def pair(stats) -> np.ndarray:
    return np.asarray(stats["mean"], np.float64) + np.asarray(stats["mean_lo"], np.float64)


@pytest.mark.parametrize("shape, size", [(DENSE, 0), (CONV, 2)])
@pytest.mark.parametrize("loc", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("name", BOTH)
def test_equation_in_groups_at_any_mean(name, loc, shape, size):
    x, norm = draw(shape, loc), layer(name, stats_batch=size)
    variables = start(norm, x)
    y, _, _ = outputs(norm, variables, x)
    groups = np.split(x.astype(np.float64), len(x) // (size or len(x)))
    expected = np.concatenate([ORACLES[name](g, EPSILON, 0) for g in groups])
    params = variables["params"]
    expected = expected * params.get("scale", 1.0) + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", [DENSE, CONV])
def test_mean_only_gradient_is_centred_and_its_state_has_no_variance(shape):
    x, norm = draw(shape, 1e6, 1e-3), layer("mean_only_batch")
    variables = start(norm, x)
    assert set(variables["params"]) == {"bias"}
    assert set(variables["batch_stats"]) == {"mean", "mean_lo"}
    _, (of_params, of_x), moved = outputs(norm, variables, x)
    g = draw(shape, seed=9).astype(np.float64)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(of_x, g - g.mean(axes), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(of_params["bias"], g.sum(axes), rtol=1e-5)
    assert set(moved["batch_stats"]) == {"mean", "mean_lo"}


def test_mean_only_evaluates_with_an_unrounded_mean():
    norm = layer("mean_only_batch", momentum=0.9)
    x = draw((64, 3), 1e6)
    variables, expected = start(norm, x), np.full(3, 1e6)
    variables["batch_stats"] = {"mean": jnp.full(3, 1e6), "mean_lo": jnp.zeros(3)}
    step = jax.jit(lambda v, x: norm.apply(v, x, train=True, mutable=MUTABLE)[1])
    for seed in range(40):
        batch = draw((64, 3), 1e6, seed=seed)
        variables |= step(variables, batch)
        expected = 0.9 * expected + 0.1 * batch.mean(0, dtype=np.float64)
    np.testing.assert_allclose(pair(variables["batch_stats"]), expected, rtol=1e-12)
    y = norm.apply(variables, x, train=False)
    by_hand = x - pair(variables["batch_stats"]) + variables["params"]["bias"]
    np.testing.assert_allclose(y, by_hand, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("shape", [DENSE, CONV])
def test_l1_gradient(shape):
    x, norm = draw(shape, 2.0), layer("l1_batch")
    variables = start(norm, x)
    _, (of_params, of_x), _ = outputs(norm, variables, x)
    g, scale = draw(shape, seed=9), variables["params"]["scale"].astype(np.float64)

    def value(x):
        return (g * scale * ORACLES["l1_batch"](x, EPSILON, 0)).sum()

    exact, h = x.astype(np.float64), 1e-6
    units = h * np.eye(x.size).reshape(-1, *shape)
    differences = [(value(exact + u) - value(exact - u)) / (2 * h) for u in units]
    np.testing.assert_allclose(of_x, np.reshape(differences, shape), rtol=1e-5, atol=1e-6)
    summed = (g * ORACLES["l1_batch"](exact, EPSILON, 0)).sum(tuple(range(len(shape) - 1)))
    np.testing.assert_allclose(of_params["scale"], summed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [30, 42, 70, 90])
def test_l1_output_and_gradient_at_large_values_are_those_at_small_ones(power):
    """Around 2^62 the gradient of 1 / s^2 underflows; above, squares of values overflow."""
    x, norm = draw(CONV, 0, 2.0**20), layer("l1_batch")  # epsilon is nothing to it
    variables = start(norm, x)
    y, slopes, _ = outputs(norm, variables, x)
    large, of_large, _ = outputs(norm, variables, x * 2.0**power)
    np.testing.assert_allclose(large, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_large[1] * 2.0**power, slopes[1], rtol=1e-5, atol=1e-6)


def test_l1_scale_whose_square_overflows_where_the_variance_does_not():
    x, norm = np.array([[1.7e19], [-1.7e19]] * 3, np.float32), layer("l1_batch")
    y, _, moved = outputs(
        norm, {**start(norm, x), "params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}, x
    )
    np.testing.assert_allclose(np.abs(y), np.sqrt(2 / np.pi), rtol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], LARGEST, rtol=1e-6)


def test_l1_state_is_the_square_of_its_scale_that_of_normal_values_their_variance():
    x = draw((2000, 2), 5.0, 3.0)
    norm = layer("l1_batch")
    _, _, moved = outputs(norm, start(norm, x), x)
    deviation = np.abs(x - x.mean(0, dtype=np.float64)).mean(0)
    stats = moved["batch_stats"]
    np.testing.assert_allclose(stats["var"], np.pi / 2 * deviation**2, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 9, rtol=0.1)
    few = draw((8, 4, 1, 2), 0, 3.0)  # statistics of four values, averaged over groups
    small = layer("l1_batch", stats_batch=1, running_var="unbiased")
    _, _, moved = outputs(small, start(small, few), few)
    expected = np.sqrt(np.pi / 2) * np.abs(few - few.mean(1, keepdims=True)).mean((1, 2))
    np.testing.assert_allclose(
        moved["batch_stats"]["var"], 4 / 3 * (expected**2).mean(0), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("name", BOTH)
def test_momentum_0_leaves_the_batch_s_statistics_which_evaluate_to_its_output(name, shape):
    x, norm = draw(shape, 1e6), layer(name)
    variables = start(norm, x)
    y, _, moved = outputs(norm, variables, x)
    assert not moved.get("norm_state")
    evaluated = norm.apply(variables | moved, x, train=False)
    np.testing.assert_allclose(evaluated, y, rtol=1e-6, atol=1e-6)
    mean = x.mean(tuple(range(len(shape) - 1)), dtype=np.float64)
    np.testing.assert_allclose(pair(moved["batch_stats"]), mean, rtol=1e-12)


@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("std", [1e20, 1e30, 0.0])
@pytest.mark.parametrize("name", BOTH)
def test_values_whose_squares_overflow(name, std, shape):
    x = draw(shape, 0, std) if std else np.random.default_rng(0).uniform(-3e38, 3e38, shape)
    x, norm = x.astype(np.float32), layer(name)
    variables = start(norm, x)
    y, slopes, moved = outputs(norm, variables, x)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, slopes, moved)))
    assert np.isfinite(norm.apply(variables | moved, x / 2, train=False)).all()
    if name == "l1_batch":
        np.testing.assert_allclose(moved["batch_stats"]["var"], LARGEST, rtol=1e-6)
    expected = ORACLES[name](x.astype(np.float64), EPSILON, 0) * variables["params"].get("scale", 1)
    expected = np.clip(expected + variables["params"]["bias"], -LARGEST, LARGEST)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6 * np.abs(expected).max())


def test_mean_only_output_that_a_dtype_cannot_hold_is_its_largest_number():
    x = jnp.asarray([[60000.0], [-60000.0], [-60000.0], [-60000.0]], jnp.float16)
    norm = layer("mean_only_batch")
    y, variables = norm.init_with_output(jax.random.key(0), x, train=True)
    assert y.dtype == jnp.float16
    assert y[0, 0] == jnp.finfo(jnp.float16).max and (y[1:] == -30000).all()
    far = {"mean": jnp.full(1, -6e4), "mean_lo": jnp.zeros(1)}
    y = norm.apply({**variables, "batch_stats": far}, x, train=False)
    assert y[0, 0] == jnp.finfo(jnp.float16).max


@pytest.mark.parametrize("name", BOTH)
def test_masked_values_reach_nothing_and_an_empty_batch_moves_nothing(name):
    x, norm = draw(CONV, 2), layer(name)
    variables = start(norm, x)
    mask = np.ones((*CONV[:-1], 1), bool)
    mask[3] = mask[0, 1:] = False
    clean = outputs(norm, variables, x, mask)
    poisoned = outputs(norm, variables, np.where(mask, x, np.nan), mask)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    valid = x[np.broadcast_to(mask, CONV)].reshape(-1, CONV[-1]).astype(np.float64)
    expected = ORACLES[name](valid, EPSILON, 0) * variables["params"].get("scale", 1)
    y = np.asarray(clean[0])[np.broadcast_to(mask, CONV)].reshape(valid.shape)
    np.testing.assert_allclose(y, expected + variables["params"]["bias"], rtol=2e-6, atol=2e-6)
    y, slopes, moved = outputs(norm, variables, np.full_like(x, np.nan), np.zeros_like(mask))
    assert not any(np.any(v) for v in jax.tree.leaves((y, slopes)))
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("name", BOTH)
def test_frozen_statistics_give_gradients_in_spite_of_masked_nan(name):
    x, norm = draw(DENSE, 2), layer(name, use_running=True, update_running=False)
    mask = np.arange(len(x))[:, None] < 3
    y, slopes, moved = outputs(norm, start(norm, x), np.where(mask, x, np.nan), mask)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, slopes, moved)))
    assert np.any(slopes[0]["bias"]) and not np.any(y[3:])


@pytest.mark.parametrize("name", BOTH)
def test_an_axis_name_joins_the_parts_of_a_batch(name):
    x, norm = draw((3, *CONV), 2), layer(name, axis_name="parts")
    variables = start(norm, x[0])
    mask = np.random.default_rng(1).random((3, *CONV)) < 0.7

    def part(x, mask):
        return norm.apply(variables, x, train=True, mask=mask, mutable=MUTABLE)

    y, moved = jax.jit(jax.vmap(part, axis_name="parts"))(x, mask)
    one = (-1, *CONV[1:])
    whole, _, expected = outputs(layer(name), variables, x.reshape(one), mask.reshape(one))
    np.testing.assert_allclose(y.reshape(one), whole, rtol=1e-5, atol=1e-6)
    for leaf, value in expected["batch_stats"].items():
        np.testing.assert_allclose(moved["batch_stats"][leaf][1], value, rtol=1e-5, atol=1e-7)
