"""Axis letters, moments and normalization against float64 NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab.statistics.axes import axes_of, refuse_degenerate
from normlab.statistics.moments import Moments, centre, moments, normalize, std

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


def mean_of(m: Moments) -> np.ndarray:
    shift, delta, shrink = (np.asarray(v, np.float64) for v in (m.shift, m.delta, m.shrink))
    return (shift + delta) / shrink


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
    np.testing.assert_allclose(mean_of(found), mean, rtol=0, atol=LIMIT)
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
    for value, expected in ((mean_of(found), mean), (found.var, var)):
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


@pytest.mark.parametrize("rows", [16, 45])
@pytest.mark.parametrize("value", [0.0, 3.3, 1234.567, 1e6 + 0.1, 3e38])
def test_a_constant_becomes_zero(value, rows):
    """To the bit, also for a number of values by which division is not exact."""
    x = jnp.full((rows, 3), value, jnp.float32)
    y, m = normalize(x, (0,), epsilon=1e-12)
    np.testing.assert_array_equal(m.shrink, 1)
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
    np.testing.assert_allclose(mean_of(m_filled) - mean, 0, atol=LIMIT)
    np.testing.assert_allclose(m_filled.var, var, rtol=LIMIT)
    np.testing.assert_array_equal(m_filled.n, mask.sum())
    outside = ~np.broadcast_to(mask, shape)
    np.testing.assert_array_equal(np.asarray(slope_filled)[outside], 0)
    np.testing.assert_array_equal(np.asarray(y_filled)[outside], 0)


def test_moments_alone_leave_masked_nan_out():
    x, mask = draw((8, 3)), np.arange(8)[:, None].repeat(3, 1) < 5
    found = moments(jnp.where(mask, x, jnp.nan), (0,), mask=jnp.asarray(mask))
    np.testing.assert_allclose(mean_of(found), x[:5].mean(0, keepdims=True), atol=LIMIT)
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


def test_one_value_for_each_statistic_is_refused():
    with pytest.raises(
        ValueError, match=r"norm_3: .*shape \(1, 5\) .*1 value.* at least 2"
    ) as error:
        refuse_degenerate("norm_3", (1, 5), (0,))
    assert "\n" not in str(error.value)
    refuse_degenerate("norm_3", (2, 5), (0,))


HUGE = {
    "std 1e20": lambda r, s: 1e20 * r.standard_normal(s),
    "std 1e30": lambda r, s: 1e30 * r.standard_normal(s),
    "uniform": lambda r, s: r.uniform(-3e38, 3e38, s),
    "one side": lambda r, s: r.uniform(2e38, 3e38, s),
    "one channel": lambda r, s: r.standard_normal(s) * np.where(np.arange(s[-1]) == 1, 1e25, 1),
}


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("name", HUGE)
def test_squares_that_overflow_are_normalized(name, centered, has_mask):
    shape, axes = (32, 4, 3), (0, 1)
    x = HUGE[name](np.random.default_rng(0), shape).astype(np.float32)
    mask = draw((32, 4, 1), seed=1) > -1 if has_mask else None
    direction, cotangent = draw(shape, seed=2), draw(shape, seed=3)
    mean, var, y = oracle(x, axes, mask, centered)

    def run(x):
        y, m = normalize(x, axes, epsilon=EPSILON, mask=mask, centered=centered)
        return jnp.sum(cotangent * y), (y, m)

    slope, (found, m) = jax.jit(jax.grad(run, has_aux=True))(x)
    assert relative_error(found, y) < LIMIT
    np.testing.assert_allclose(mean_of(m) - mean, 0, atol=1e-6 * np.sqrt(var).max())
    np.testing.assert_allclose(std(m, EPSILON), np.sqrt(var + EPSILON), rtol=LIMIT)
    g = cotangent if mask is None else np.where(mask, cotangent, 0)
    mean_g = masked_mean(g, axes, np.broadcast_to(True if mask is None else mask, shape))
    mean_gy = masked_mean(g * y, axes, np.broadcast_to(True if mask is None else mask, shape))
    expected = (g - centered * mean_g - y * mean_gy) / np.sqrt(var + EPSILON)
    expected = expected if mask is None else np.where(mask, expected, 0)
    assert np.isfinite(slope).all()
    if np.sqrt(var).min() < 1e37:  # else the true gradient is below the smallest float32
        assert relative_error(slope, expected) < LIMIT
    forward = jax.jvp(lambda x: run(x)[0], (x,), (direction,))[1]
    assert np.isfinite(forward)


def test_moments_have_the_derivatives_of_their_definition():
    x, tangent = draw((6, 3), 5.0), draw((6, 3), seed=1)
    m, dm = jax.jvp(lambda x: moments(x, (0,)), (x,), (tangent,))
    centred = x - x.mean(0, keepdims=True)
    np.testing.assert_allclose(dm.shift + dm.delta, tangent.mean(0, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(dm.var, 2 * (centred * tangent).mean(0, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(centre(x, m), centred, atol=1e-6)


@pytest.mark.parametrize("use", ["scale and bias", "scale", "bias"])
@pytest.mark.parametrize(
    ("axes", "groups"), [((0, 1), 0), ((1,), 0), ((1,), 1), ((1,), 2), ((), 1)]
)
def test_scale_and_bias_have_the_derivatives_of_their_definition(axes, groups, use):
    x, cotangent = draw((4, 3, 6), 2.0), draw((4, 3, 6), seed=1)
    scale = draw(6, 1.0, seed=2) if "scale" in use else None
    bias = draw(6, seed=3) if "bias" in use else None

    def fused(x, scale, bias):
        y, m = normalize(x, axes, groups=groups, epsilon=EPSILON, scale=scale, bias=bias)
        return jnp.sum(cotangent * y**2) + jnp.sum(m.var)

    def apart(x, scale, bias):
        y, m = normalize(x, axes, groups=groups, epsilon=EPSILON)
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
        return jnp.sum(cotangent * y**2) + jnp.sum(m.var)

    one, two = (jax.jit(jax.grad(f, argnums=(0, 1, 2)))(x, scale, bias) for f in (fused, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)


def test_the_worst_pilot_costs_a_few_digits_only():
    """All outliers exactly where the pilot looks: the mean it gives is as far off as it can be."""
    x = draw((256, 3))
    x[::16] += 1e4
    _, _, expected = oracle(x, (0,))
    y, _ = normalize(x, (0,), epsilon=EPSILON)
    assert relative_error(y, expected) < LIMIT


@pytest.mark.parametrize("shape", [(8, 4), (4,), (8, 1), ()])
def test_masks_broadcast_as_in_numpy(shape):
    x, mask = draw((8, 4)), draw(shape, seed=1) > 0
    y, m = normalize(x, (0,), epsilon=EPSILON, mask=mask)
    mean, _, expected = oracle(x, (0,), mask)
    np.testing.assert_allclose(y, expected, atol=5e-6)
    np.testing.assert_allclose(mean_of(m), mean, atol=LIMIT)


def test_a_mask_that_does_not_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"mask of shape \(8,\) .* \(8, 4\); .* \[N, 1\]"):
        normalize(draw((8, 4)), (0,), epsilon=EPSILON, mask=np.ones(8, bool))
