"""Every row of NORMS against its paper's equation in float64, wherever the values lie."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from oracles import ORACLES, Input, differences, l1_square, oracle, power_slope
from trained_layers import (
    CONV,
    DENSE,
    EPSILON,
    GROUPS,
    MUTABLE,
    SEQUENCE,
    SPREADS,
    draw,
    make,
    outputs,
    pair,
    relative_error,
    start,
)

from normlab.norms import NORMS

RUNNING = [name for name, row in NORMS.items() if row.running_statistics]
COUPLED = [name for name in RUNNING if name not in ("instance_running", "power")]
"""Rows whose training takes the statistics that the running ones follow."""
LARGEST = float(np.finfo(np.float32).max)
CASES = [
    (name, shape)
    for name, row in NORMS.items()
    for shape in ((CONV, SEQUENCE) if row.needs_space else (CONV, DENSE))
]
DEGREE = dict.fromkeys(("l1_batch", "switchable", "evonorm_b0", "frn", "unit"), 0) | {
    "mean_only_batch": 1,
    "global_response": 1,
}
"""Row -> k, where y(a x) = a^k y(x) for a > 0 if epsilon is nothing beside x."""


def expected(name: str, x: Any, variables: Any, **given: Any) -> np.ndarray:
    given = {"epsilon": EPSILON, "groups": GROUPS} | given
    return oracle(name, x, variables["params"], **given)


def batch_statistics(name: str, x: Any, valid: Any = True) -> tuple[np.ndarray, np.ndarray]:
    """The mean and what stands for the variance, [C], that the running ones move towards."""
    i = Input(x, valid=valid)
    mean, var = i.moments("NS")
    var = l1_square(i) if name == "l1_batch" else var
    if name == "power":
        var = i.mean(i.x**2, "NS")
    if name == "instance_running":
        own = i.moments("S")
        n = i.valid.sum(i.axes("S"), keepdims=True)
        mean, var = ((n * np.minimum(v, LARGEST)).sum(0) / n.sum(0) for v in own)
    return mean.reshape(-1), np.minimum(var, LARGEST).reshape(-1)


def test_every_row_has_an_oracle():
    assert set(ORACLES) == set(NORMS)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_output_and_gradients_are_those_of_the_paper(name, shape):
    """Of valid values, for parameters away from their start; the others are 0 and reach nothing."""
    x, norm = draw(shape, 0.5), make(name)
    variables, valid = start(norm, x), np.random.default_rng(1).random(shape) < 0.8
    y, (of_params, of_x), moved = outputs(norm, variables, np.where(valid, x, np.nan), valid)
    p, cotangent = variables["params"], draw(shape, seed=9).astype(np.float64)

    def value(x, **params) -> float:
        found = expected(name, x, {"params": {**p, **params}}, valid=valid)
        return float((cotangent * found).sum())

    np.testing.assert_allclose(y, expected(name, x, variables, valid=valid), rtol=3e-6, atol=3e-6)
    if NORMS[name].approximate_gradient:
        i = Input(x, {k: np.float64(v) for k, v in p.items()}, EPSILON, valid=valid)
        by_x = power_slope(i, cotangent)
    else:
        by_x = differences(value, x)
    np.testing.assert_allclose(of_x, by_x, rtol=2e-5, atol=5e-6)
    assert set(of_params) == set(p)
    for leaf, at in p.items():
        by_leaf = differences(lambda v, k=leaf: value(x, **{k: v}), at)
        np.testing.assert_allclose(of_params[leaf], by_leaf, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*COUPLED, "power"])
def test_groups_of_examples_are_separate_batches_whose_statistics_are_averaged(name):
    """One value is masked in one group and all of another, which then weighs nothing."""
    x, norm = draw((8, *CONV[1:]), 2.0), make(name, stats_batch=2, running_var="unbiased")
    variables, valid = start(norm, x), np.ones((8, *CONV[1:]), bool)
    valid[6:] = valid[0, 1, 0] = False
    y, _, moved = outputs(norm, variables, np.where(valid, x, np.nan), valid)
    parts = [(x[i : i + 2], valid[i : i + 2]) for i in range(0, 8, 2)]
    right = [expected(name, part, variables, valid=mask) for part, mask in parts]
    np.testing.assert_allclose(y, np.concatenate(right), rtol=3e-6, atol=3e-6)
    counts = np.array([mask[..., 0].sum() for _, mask in parts])[:3]
    means, variances = zip(*(batch_statistics(name, *part) for part in parts[:3]), strict=True)
    stats, weights = moved["batch_stats"], counts / counts.sum()
    if "mean" in stats:
        np.testing.assert_allclose(pair(stats), weights @ np.stack(means), rtol=1e-6)
    if "var" in stats:
        var = (weights * counts / (counts - 1)) @ np.stack(variances)
        np.testing.assert_allclose(stats["var"], var, rtol=3e-6)


@pytest.mark.parametrize(("name", "shape"), [c for c in CASES if c[0] in RUNNING])
def test_evaluation_takes_the_running_statistics_and_its_own_for_the_rest(name, shape):
    x, norm = draw(shape, 1e4), make(name)
    variables = start(norm, x)
    stats = {"mean": 1e4 + draw(4, seed=5), "mean_lo": draw(4, std=1e-3, seed=6)}
    stats["var"] = np.array([0.1, 1, 4, 9], np.float32)
    kept = {k: stats[k] for k in variables["batch_stats"]}
    y, after = norm.apply({**variables, "batch_stats": kept}, x, train=False, mutable=MUTABLE)
    running = pair(stats), stats["var"].astype(np.float64)
    assert relative_error(y, expected(name, x, variables, running=running)) < 3e-6
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], kept)


@pytest.mark.parametrize(("name", "shape"), [c for c in CASES if c[0] in RUNNING])
@pytest.mark.parametrize("loc", [0.0, 1e6])
def test_momentum_0_leaves_the_statistics_of_the_batch_which_evaluate_to_its_output(
    name, shape, loc
):
    x, norm = draw(shape, loc), make(name)
    variables = start(norm, x)
    y, _, moved = outputs(norm, variables, x)
    assert set(moved["batch_stats"]) == set(variables["batch_stats"])
    if name in COUPLED:
        evaluated = norm.apply(variables | moved, x, train=False)
        np.testing.assert_allclose(evaluated, y, rtol=2e-6, atol=2e-6)
    mean, var = batch_statistics(name, x)
    if "mean" in moved["batch_stats"]:
        assert (np.abs(pair(moved["batch_stats"]) - mean) < 1e-6).all()
    if "var" in moved["batch_stats"]:
        np.testing.assert_allclose(moved["batch_stats"]["var"], var, rtol=2e-6)


@pytest.mark.parametrize("loc", [1e4, 1e6])
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_values_keep_their_digits_at_a_large_mean(name, shape, loc):
    x, norm = draw(shape, loc), make(name)
    variables = start(norm, x)
    y, _, _ = outputs(norm, variables, x)
    assert relative_error(y, expected(name, x, variables)) < 3e-6


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_values_whose_squares_overflow(name, shape, spread):
    """Output against the equation; what float32 cannot hold is its largest number or infinite."""
    x = SPREADS[spread](np.random.default_rng(0), shape).astype(np.float32)
    norm = make(name)
    variables = start(norm, x)
    y, slopes, moved = outputs(norm, variables, x)
    with np.errstate(all="ignore"):
        right = expected(name, x, variables)
    fits = np.abs(right) < LARGEST
    np.testing.assert_allclose(
        np.where(fits, y, 0), np.where(fits, right, 0), rtol=5e-6, atol=5e-6 * np.abs(right).max()
    )
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(moved))
    if fits.all():
        assert np.isfinite(y).all() and np.isfinite(slopes[1]).all()
    if np.abs(right).max() < 1e30:  # else the slope of a scale is a sum that overflows
        assert all(np.isfinite(v).all() for v in jax.tree.leaves(slopes[0]))
    if "var" in moved.get("batch_stats", {}):
        var = batch_statistics(name, x)[1]
        np.testing.assert_allclose(moved["batch_stats"]["var"], var, rtol=1e-5)


@pytest.mark.parametrize("power", [30, 42, 46, 70])
@pytest.mark.parametrize(("name", "shape"), [c for c in CASES if c[0] in DEGREE])
def test_output_and_gradient_at_large_values_are_those_at_small_ones(name, shape, power):
    """Around 2^62 the gradient of 1 / variance underflows; above, squares of values overflow."""
    if power == 42 and name in ("switchable", "evonorm_b0"):
        pytest.skip("their docstrings say that these gradients are off")
    x, norm, degree = draw(shape, 0, 2.0**20), make(name), DEGREE[name]
    variables = start(norm, x)
    variables["params"] = {**variables["params"], "bias": np.zeros(4, np.float32)}
    if "bias" not in NORMS[name].parameters:
        del variables["params"]["bias"]
    small, of_small, _ = outputs(norm, variables, x)
    large, of_large, _ = outputs(norm, variables, x * 2.0**power)
    unit = 2.0 ** (power * degree)
    np.testing.assert_allclose(large / unit, small, rtol=1e-5, atol=1e-6 * np.abs(small).max())
    slopes = of_large[1] * 2.0 ** (power * (1 - degree)), of_small[1]
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-5 * np.abs(of_small[1]).max())


@pytest.mark.parametrize("name", RUNNING)
def test_the_table_says_whose_output_in_training_depends_on_the_momentum(name):
    """Once the averages have moved, and batch renormalization corrects."""
    found = []
    for momentum in (0.5, 0.99):
        options = {"renorm_steps": 0} if name == "batch_renorm" else {}
        norm, x = make(name, momentum=momentum, **options), 1 + draw(CONV, 3)
        variables = start(norm, x)
        _, _, moved = outputs(norm, variables, x)
        y, *_ = outputs(norm, {**variables, **moved}, x)
        found.append(np.asarray(y))
    assert np.array_equal(*found) != NORMS[name].trains_on_averages


@pytest.mark.parametrize("name", RUNNING)
def test_frozen_statistics_give_gradients_in_spite_of_masked_nan(name):
    x, norm = draw(CONV, 2), make(name, use_running=True, update_running=False)
    variables, valid = start(norm, x), np.arange(4).reshape(-1, 1, 1, 1) < 3
    y, slopes, moved = outputs(norm, variables, np.where(valid, x, np.nan), valid)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, slopes, moved)))
    assert np.any(slopes[0]["bias"]) and not np.any(y[3:])
    kept = {k: v for k, v in variables.items() if k in moved}
    jax.tree.map(np.testing.assert_array_equal, dict(moved), kept)
