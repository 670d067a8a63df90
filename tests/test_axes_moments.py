"""Axis letters, moments, normalization and running averages against float64 NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab.axes import axes_of
from normlab.moments import (
    Average,
    Moments,
    moments,
    normalize,
    normalize_by,
    refuse_degenerate,
    start_average,
    update_average,
)

EPSILON = 1e-3
LIMIT = 2e-6
CASES = [((64, 5), (0,)), ((8, 6, 6, 4), (0, 1, 2)), ((4, 6, 6, 4), (1, 2, 3)), ((3, 5, 8), (2,))]
SMALL = ((4, 3, 2), (0, 1))


def draw(shape, loc=0.0, std=1.0, seed=0, dtype="float32") -> Any:
    return (loc + std * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def masked_mean(x, axes, mask):
    count = np.maximum(mask.sum(axes, keepdims=True), 1)
    return np.where(mask, x, 0).sum(axes, keepdims=True) / count


def oracle(x, axes, mask=None, centered=True, epsilon=EPSILON):
    """Mean, variance and normalized values from their definitions, float64."""
    x = np.asarray(x, np.float64)
    mask = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    mean = masked_mean(x, axes, mask) if centered else np.zeros((1,) * x.ndim)
    var = masked_mean((x - mean) ** 2, axes, mask)
    return mean, var, np.where(mask, (x - mean) / np.sqrt(var + epsilon), 0)


def slope(f, x, direction, h=1e-5):
    """Central difference of a float64 function."""
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


def gradient(f, x):
    """Gradient of a scalar float64 function by central differences, entry after entry."""
    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.array([slope(f, x, unit) for unit in units]).reshape(x.shape)


def relative_error(value, reference) -> float:
    difference = np.asarray(value, np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def pair(m: Moments | Average, low: str) -> np.ndarray:
    return np.asarray(m[0], np.float64) + np.asarray(getattr(m, low), np.float64)


@pytest.mark.parametrize(
    ("over", "ndim", "axes"),
    [
        (("N", "H", "W"), 4, (0, 1, 2)),
        (("N", "H", "W"), 2, (0,)),
        (("H", "W"), 4, (1, 2)),
        (("T",), 3, (1,)),
        (("C",), 3, (2,)),
        ((), 4, ()),
    ],
)
def test_letters_name_axes(over, ndim, axes):
    assert axes_of(over, ndim) == axes


@pytest.mark.parametrize("loc", [0.0, 1e3, 1e6])
@pytest.mark.parametrize(("shape", "axes"), CASES)
def test_moments_are_those_of_float64(shape, axes, loc):
    x = draw(shape, loc)
    found = jax.jit(moments, static_argnums=1)(x, axes)
    mean, var, _ = oracle(x, axes)
    assert found.shift.shape == found.var.shape == mean.shape
    np.testing.assert_allclose(pair(found, "delta"), mean, rtol=0, atol=LIMIT)
    np.testing.assert_allclose(found.var, var, rtol=LIMIT)
    np.testing.assert_array_equal(found.n, x.size / mean.size)


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_groups_of_channels_are_one_statistic_each(groups, has_mask):
    """Per channel or not, moments over groups broadcast to those of the array seen by groups."""
    x = draw((4, 3, 3, 8), 1e4)
    mask = draw(x.shape, seed=1) > 0 if has_mask else np.ones(x.shape, bool)
    split = (*x.shape[:-1], groups, 8 // groups)
    mean, var, y = oracle(x.reshape(split), (1, 2, 4), mask.reshape(split))
    arguments = {"groups": groups, "mask": jnp.asarray(mask) if has_mask else None}
    found = moments(jnp.asarray(x), (1, 2), **arguments)
    for value, expected in ((pair(found, "delta"), mean), (found.var, var)):
        wide = np.broadcast_to(value, (4, 1, 1, 8)).reshape(4, 1, 1, groups, -1)
        np.testing.assert_allclose(wide, np.broadcast_to(expected, wide.shape), rtol=LIMIT)
    found, _ = normalize(jnp.asarray(x), (1, 2), epsilon=EPSILON, **arguments)
    np.testing.assert_allclose(found, y.reshape(x.shape), atol=5e-6)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(
    ("dtype", "loc", "limit"),
    [
        ("float32", 0, LIMIT),
        ("float32", 1e6, LIMIT),
        ("float16", 1e3, 1e-5),
        ("bfloat16", 1e2, 1e-5),
    ],
)
def test_normalized_values_are_those_of_float64(dtype, loc, limit, centered):
    x = jnp.asarray(draw((16, 5, 5, 3), loc)).astype(dtype)
    y, _ = jax.jit(lambda x: normalize(x, (0, 1, 2), epsilon=EPSILON, centered=centered))(x)
    assert y.dtype == jnp.float32
    expected = oracle(np.asarray(x, np.float64), (0, 1, 2), centered=centered)[2]
    np.testing.assert_allclose(y, expected, rtol=0, atol=limit * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("value", [0.0, 3.3, 1234.567, 1e6 + 0.1])
def test_a_constant_becomes_zero(value):
    x = jnp.full((16, 3), value, jnp.float32)
    y, m = normalize(x, (0,), epsilon=1e-12)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(m.var, 0)


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("centered", [True, False])
def test_gradient_and_jvp_are_those_of_float64(centered, has_mask):
    shape, axes = SMALL
    x, cotangent, tangent = (draw(shape, seed=s, dtype="float64") for s in range(3))
    mask = draw(shape, seed=3) > -0.7 if has_mask else None

    def value(x):
        y, _ = normalize(x, axes, epsilon=EPSILON, mask=mask, centered=centered)
        return jnp.sum(cotangent.astype(np.float32) * y)

    def reference(x):
        return float((cotangent * oracle(x, axes, mask, centered)[2]).sum())

    x32 = x.astype(np.float32)
    found = jax.jit(jax.grad(value))(x32)
    assert relative_error(found, gradient(reference, x32.astype(np.float64))) < LIMIT
    _, found = jax.jvp(value, (x32,), (tangent.astype(np.float32),))
    np.testing.assert_allclose(found, slope(reference, x, tangent), rtol=1e-5)


@pytest.mark.parametrize("loc", [0.0, 1e4])
def test_hessian_vector_products_are_those_of_float64(loc):
    shape, axes = SMALL
    x, weight, direction = draw(shape, loc), draw(shape, seed=1), draw(shape, seed=2)

    def value(x):
        return jnp.sum(weight * jnp.tanh(normalize(x, axes, epsilon=EPSILON)[0]))

    def reference_gradient(x):
        _, var, y = oracle(x, axes)
        g = weight * (1 - np.tanh(y) ** 2)
        centred = g - g.mean(axes, keepdims=True) - y * (g * y).mean(axes, keepdims=True)
        return centred / np.sqrt(var + EPSILON)

    found = jax.jit(lambda x, v: jax.jvp(jax.grad(value), (x,), (v,))[1])(x, direction)
    expected = slope(reference_gradient, x.astype(np.float64), direction.astype(np.float64), 1e-4)
    assert relative_error(found, expected) < 1e-5


def test_gradients_of_the_returned_statistics():
    x = draw((6, 3), 5.0)

    def total(x):
        m = normalize(x, (0,), epsilon=EPSILON)[1]
        return jnp.sum(m.shift + m.delta), jnp.sum(m.var)

    np.testing.assert_allclose(jax.grad(lambda x: total(x)[0])(x), 1 / 6, rtol=1e-6)
    mean, _, _ = oracle(x, (0,))
    np.testing.assert_allclose(
        jax.grad(lambda x: total(x)[1])(x), 2 * (x - mean) / 6, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_masked_positions_influence_nothing(filler, centered):
    shape, axes = (8, 4, 3), (0, 1)
    x, mask, cotangent = draw(shape, 3.0), draw((8, 4, 1), seed=1) > 0, draw(shape, seed=2)
    filled = np.where(mask, x, np.float32(filler))

    @jax.jit
    def run(x):
        def value(x):
            y, m = normalize(x, axes, epsilon=EPSILON, mask=mask, centered=centered)
            return jnp.sum(cotangent * y), (y, m)

        return jax.grad(value, has_aux=True)(x)

    slope_filled, (y_filled, m_filled) = run(filled)
    slope_plain, (y_plain, m_plain) = run(x)
    np.testing.assert_array_equal(y_filled, y_plain)
    np.testing.assert_array_equal(slope_filled, slope_plain)
    np.testing.assert_array_equal(m_filled.var, m_plain.var)
    mean, var, y = oracle(x, axes, mask, centered)
    np.testing.assert_allclose(y_filled, y, atol=5e-6)
    np.testing.assert_allclose(pair(m_filled, "delta") - mean, 0, atol=LIMIT)
    np.testing.assert_allclose(m_filled.var, var, rtol=LIMIT)
    np.testing.assert_array_equal(m_filled.n, mask.sum())
    outside = ~np.broadcast_to(mask, shape)
    np.testing.assert_array_equal(np.asarray(slope_filled)[outside], 0)
    np.testing.assert_array_equal(np.asarray(y_filled)[outside], 0)


def test_moments_alone_leave_masked_nan_out():
    x, mask = draw((8, 3)), np.arange(8)[:, None].repeat(3, 1) < 5
    found = moments(jnp.where(mask, x, jnp.nan), (0,), mask=jnp.asarray(mask))
    np.testing.assert_allclose(pair(found, "delta"), x[:5].mean(0, keepdims=True), atol=LIMIT)
    np.testing.assert_allclose(found.var, x[:5].var(0, keepdims=True), rtol=1e-5)


def test_a_group_without_valid_values_is_finite():
    x = draw((4, 6))
    mask: Any = np.ones((4, 6), bool)
    mask[2] = False
    x[2] = np.nan

    def value(x):
        y, m = normalize(x, (1,), epsilon=EPSILON, mask=mask)
        return jnp.sum(y**3), (y, m)

    found, (y, m) = jax.jit(jax.grad(value, has_aux=True))(x)
    assert np.isfinite(found).all() and np.isfinite(y).all()
    np.testing.assert_array_equal(y[2], 0)
    np.testing.assert_array_equal(found[2], 0)
    assert (float(m.var[2, 0]), float(m.n[2, 0])) == (0, 0)


def batch_of(x: Any) -> Moments:
    return moments(x, (0,))


@pytest.mark.parametrize("loc", [0.0, 1e6])
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_running_average_follows_the_float64_recursion(loc, momentum):
    update = jax.jit(lambda average, x: update_average(average, batch_of(x), momentum))
    average, mean, var = start_average(3), np.zeros(3), np.ones(3)
    keep = float(np.float32(1 - momentum))  # 1 - 0.99 is not a float32: 0.006 after 200 steps
    for step in range(200):
        x = draw((32, 3), loc, std=1 + step % 3, seed=step)
        average = update(average, x)
        exact = x.astype(np.float64)
        mean = (1 - keep) * mean + keep * exact.mean(0)
        var = (1 - keep) * var + keep * exact.var(0)
    far = 6e-8 * loc * momentum**200  # a step is one float32: it errs with the way still to go
    np.testing.assert_allclose(pair(average, "mean_lo"), mean, rtol=0, atol=5e-6 + far)
    np.testing.assert_allclose(average.var, var, rtol=2e-6)
    x = draw((16, 3), loc, seed=999)
    expected = (x.astype(np.float64) - mean) / np.sqrt(var + EPSILON)
    found = normalize_by(jnp.asarray(x), average, EPSILON)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-5 + far)


@pytest.mark.parametrize("before", [(0.0, 0.0, 1.0), (1e6, 0.02, 1e6), (-3.0, 1e-8, 1e-9)])
def test_momentum_zero_leaves_exactly_the_statistics_of_the_batch(before):
    old = Average(*(jnp.full((3,), v, jnp.float32) for v in before))
    batch = batch_of(draw((32, 3), 0.3, std=1e-3))
    new = update_average(old, batch, 0.0)
    np.testing.assert_array_equal(pair(new, "mean_lo"), pair(batch, "delta")[0])
    np.testing.assert_array_equal(new.var, batch.var[0])


def test_groups_enter_the_running_average_equally():
    x = draw((4, 8, 3), 2.0)
    new = update_average(start_average(3), moments(x, (1,)), 0.8)
    np.testing.assert_allclose(pair(new, "mean_lo"), 0.2 * x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(new.var, 0.8 + 0.2 * x.var(1).mean(0), rtol=1e-5)


def test_a_batch_without_valid_values_moves_no_average():
    old = Average(*(jnp.full((3,), v, jnp.float32) for v in (5.0, 1e-7, 2.0)))
    nothing = moments(draw((8, 3)), (0,), mask=jnp.zeros((8, 3), bool))
    for momentum in (0.0, 0.9):
        for new, leaf in zip(update_average(old, nothing, momentum), old, strict=True):
            np.testing.assert_array_equal(new, leaf)


def test_one_value_for_each_statistic_is_refused():
    with pytest.raises(
        ValueError, match=r"norm_3: .*shape \(1, 5\) .*1 value.* at least 2"
    ) as error:
        refuse_degenerate("norm_3", (1, 5), (0,))
    assert "\n" not in str(error.value)
    refuse_degenerate("norm_3", (2, 5), (0,))
