"""Running statistics against their recursion in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab.statistics.averages import Average, normalize_by, start_average, update_average
from normlab.statistics.moments import Moments, moments

EPSILON = 1e-3


def draw(shape, loc=0.0, std=1.0, seed=0) -> Any:
    return (loc + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def mean_of(average: Average) -> np.ndarray:
    return np.asarray(average.mean, np.float64) + np.asarray(average.mean_lo, np.float64)


def batch_of(x: Any) -> Moments:
    return moments(x, (0,))


@pytest.mark.parametrize("loc", [0.0, 1e6])
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_running_average_follows_the_float64_recursion(loc, momentum):
    update = jax.jit(lambda average, x: update_average(average, batch_of(x), 1 - momentum))
    average, mean, var = start_average(3), np.zeros(3), np.ones(3)
    keep = float(np.float32(1 - momentum))  # 1 - 0.99 is not a float32: 0.006 after 200 steps
    for step in range(200):
        x = draw((32, 3), loc, std=1 + step % 3, seed=step)
        average = update(average, x)
        exact = x.astype(np.float64)
        mean = (1 - keep) * mean + keep * exact.mean(0)
        var = (1 - keep) * var + keep * exact.var(0)
    far = 6e-8 * loc * momentum**200  # a step is one float32: it errs with the way still to go
    np.testing.assert_allclose(mean_of(average), mean, rtol=0, atol=5e-6 + far)
    np.testing.assert_allclose(average.var, var, rtol=2e-6)
    x = draw((16, 3), loc, seed=999)
    expected = (x.astype(np.float64) - mean) / np.sqrt(var + EPSILON)
    found = normalize_by(jnp.asarray(x), average, EPSILON)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-5 + far)


@pytest.mark.parametrize("before", [(0.0, 0.0, 1.0), (1e6, 0.02, 1e6), (-3.0, 1e-8, 1e-9)])
def test_rate_one_leaves_exactly_the_statistics_of_the_batch(before):
    old = Average(*(jnp.full((3,), v, jnp.float32) for v in before))
    batch = batch_of(draw((32, 3), 0.3, std=1e-3))
    new = update_average(old, batch, 1.0)
    np.testing.assert_array_equal(
        mean_of(new), sum(np.asarray(v[0], np.float64) for v in (batch.shift, batch.delta))
    )
    np.testing.assert_array_equal(new.var, batch.var[0])


def test_groups_enter_the_running_average_equally():
    x = draw((4, 8, 3), 2.0)
    new = update_average(start_average(3), moments(x, (1,)), 0.2)
    np.testing.assert_allclose(mean_of(new), 0.2 * x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(new.var, 0.8 + 0.2 * x.var(1).mean(0), rtol=1e-5)


def test_a_batch_without_valid_values_moves_no_average():
    old = Average(*(jnp.full((3,), v, jnp.float32) for v in (5.0, 1e-7, 2.0)))
    nothing = moments(draw((8, 3)), (0,), mask=jnp.zeros((8, 3), bool))
    for rate in (1.0, 0.1):
        for new, leaf in zip(update_average(old, nothing, rate), old, strict=True):
            np.testing.assert_array_equal(new, leaf)


def test_unbiased_variance_is_that_of_n_minus_one():
    x = draw((4, 8, 3), 2.0)
    new = update_average(start_average(3), moments(x, (1,)), 1.0, unbiased=True)
    np.testing.assert_allclose(new.var, x.var(1, ddof=1).mean(0), rtol=1e-5)
    alone = update_average(start_average(3), moments(x[0, :1], (0,)), 1.0, unbiased=True)
    np.testing.assert_array_equal(alone.var, 0)


def test_ghost_groups_at_a_large_mean_lose_nothing():
    x = draw((4, 16, 3), 1e6)
    new = update_average(start_average(3), moments(x, (1,)), 1.0)
    np.testing.assert_allclose(mean_of(new), x.astype(np.float64).mean((0, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_moves_only_nothing(bad):
    """Its channel stays as it was, the others move."""
    old = start_average(3)
    x = draw((8, 3), 2.0)
    x[4, 1] = bad
    new = update_average(old, moments(x, (0,)), 0.5)
    for value, leaf in zip(new, old, strict=True):
        np.testing.assert_array_equal(value[1], leaf[1])
    np.testing.assert_allclose(new.mean[0], x[:, 0].mean() / 2, rtol=1e-5)


def test_a_variance_beyond_float32_stays_finite_and_can_return():
    huge = update_average(start_average(1), moments(draw((8, 1), std=1e25), (0,)), 0.5)
    assert np.isfinite(huge.var).all() and (huge.var > 1e37).all()
    back, move = huge, jax.jit(lambda average, x: update_average(average, moments(x, (0,)), 0.9))
    for seed in range(60):
        back = move(back, draw((8, 1), seed=seed))
    assert 0.1 < float(back.var[0]) < 10
