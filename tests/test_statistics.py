"""Axis letters, moments, normalization and running statistics against float64 NumPy."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import differences
from trained_layers import EPSILON, SPREADS, draw, pair, relative_error

from normlab.norms import build
from normlab.statistics.averages import Average, normalize_by, start_average, update_average
from normlab.statistics.axes import axes_of, refuse_degenerate
from normlab.statistics.moments import Moments, centre, moments, std
from normlab.statistics.normalize import normalize

LIMIT = 2e-6
CASES = [((64, 5), (0,)), ((8, 6, 6, 4), (0, 1, 2)), ((4, 6, 6, 4), (1, 2, 3)), ((3, 5, 8), (2,))]
SMALL = ((4, 3, 2), (0, 1))


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


def slope_of(x, g, axes, mask, centered):
    """The gradient of sum(g y) in closed form, float64."""
    mask = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    _, var, y = oracle(x, axes, mask, centered)
    g = np.where(mask, g, 0)
    mean_g, mean_gy = masked_mean(g, axes, mask), masked_mean(g * y, axes, mask)
    return np.where(mask, (g - centered * mean_g - y * mean_gy) / np.sqrt(var + EPSILON), 0)


def mean_of(m: Moments) -> np.ndarray:
    shift, delta, shrink = (np.asarray(v, np.float64) for v in (m.shift, m.delta, m.shrink))
    return (shift + delta) / shrink


@functools.cache
def normalized(axes: tuple[int, ...], centered: bool = True) -> Any:
    """(x, mask, weights) -> the gradient of sum(weights * y), y and the moments."""

    def run(x, mask, weights):
        def value(x):
            y, m = normalize(x, axes, epsilon=EPSILON, mask=mask, centered=centered)
            return jnp.sum(weights * y), (y, m)

        return jax.grad(value, has_aux=True)(x)

    return jax.jit(run)


def test_letters_name_axes():
    cases = (
        ("NHW", 4, (0, 1, 2)),
        ("NHW", 2, (0,)),
        ("HW", 4, (1, 2)),
        ("T", 3, (1,)),
        ("C", 3, (2,)),
    )
    for letters, ndim, axes in (*cases, ("", 4, ())):
        assert axes_of(tuple(letters), ndim) == axes


@functools.cache
def plain(axes: tuple[int, ...] = (0,), epsilon: float = EPSILON) -> Any:
    """Compiled (x, mask) -> normalized values and moments."""
    return jax.jit(lambda x, mask=None: normalize(x, axes, epsilon=epsilon, mask=mask))


@functools.cache
def direct(axes: tuple[int, ...], **options: Any) -> Any:
    """Compiled (x, mask=...) -> moments."""
    return jax.jit(functools.partial(moments, axes=axes, **options))


TYPES = [("float32", 0.0, LIMIT), ("float32", 1e3, LIMIT), ("float32", 1e6, LIMIT)]
HALVES = [("float16", 1e3, 1e-5), ("bfloat16", 1e2, 1e-5)]


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "loc", "limit"),
    [(*case, *kind) for case in CASES for kind in TYPES] + [(*CASES[1], *kind) for kind in HALVES],
)
def test_moments_and_normalized_values_are_those_of_float64(shape, axes, dtype, loc, limit):
    x = jnp.asarray(draw(shape, loc)).astype(dtype)
    mean, var, right = oracle(x, axes)
    y, m = plain(axes)(x)
    assert y.dtype == jnp.float32 and m.shift.shape == m.var.shape == mean.shape
    np.testing.assert_allclose(y, right, rtol=0, atol=limit * np.abs(right).max())
    np.testing.assert_allclose(mean_of(m), mean, rtol=0, atol=LIMIT)
    np.testing.assert_allclose(m.var, var, rtol=LIMIT)
    np.testing.assert_array_equal(m.n, x.size / mean.size)


@pytest.mark.parametrize(("groups", "has_mask"), [(1, False), (2, False), (2, True), (8, True)])
def test_groups_of_channels_are_one_statistic_each(groups, has_mask):
    """Per channel or not, moments over groups broadcast to those of the array seen by groups."""
    x = draw((4, 3, 3, 8), 1e4)
    mask = draw(x.shape, seed=1) > 0 if has_mask else np.ones(x.shape, bool)
    split = (*x.shape[:-1], groups, 8 // groups)
    mean, var, y = oracle(x.reshape(split), (1, 2, 4), mask.reshape(split))

    @jax.jit
    def run(x, mask):
        given: Any = {"groups": groups, "mask": mask}
        return moments(x, (1, 2), **given), normalize(x, (1, 2), epsilon=EPSILON, **given)[0]

    found, normal = run(x, mask if has_mask else None)
    for value, expected in ((mean_of(found), mean), (found.var, var)):
        wide = np.broadcast_to(value, (4, 1, 1, 8)).reshape(4, 1, 1, groups, -1)
        np.testing.assert_allclose(wide, np.broadcast_to(expected, wide.shape), rtol=LIMIT)
    np.testing.assert_allclose(normal, y.reshape(x.shape), atol=5e-6)


@pytest.mark.parametrize("rows", [16, 45])
@pytest.mark.parametrize("value", [0.0, 3.3, 1234.567, 1e6 + 0.1, 3e38])
def test_a_constant_becomes_zero(value, rows):
    """To the bit, also for a number of values by which division is not exact."""
    y, m = plain(epsilon=1e-12)(np.full((rows, 3), value, np.float32))
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(m.shrink, 1)
    assert (np.sqrt(m.var) <= 2.0**-24 * value).all()  # XLA multiplies by 1 / rows


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("centered", [True, False])
def test_gradient_and_jvp_are_those_of_float64(centered, has_mask):
    shape, axes = SMALL
    x, weights, tangent = (draw(shape, seed=s) for s in range(3))
    mask = draw(shape, seed=3) > -0.7 if has_mask else None

    def reference(x):
        return float((weights * oracle(x, axes, mask, centered)[2]).sum())

    found = normalized(axes, centered)(x, mask, weights)[0]
    assert relative_error(found, differences(reference, x)) < LIMIT

    def values(x):
        return normalize(x, axes, epsilon=EPSILON, mask=mask, centered=centered)[0]

    forward = jax.jit(lambda x, t: jax.jvp(values, (x,), (t,))[1])(x, tangent)
    np.testing.assert_allclose(np.vdot(weights, forward), np.vdot(found, tangent), rtol=1e-5)


@pytest.mark.parametrize("loc", [0.0, 1e4])
def test_hessian_vector_products_are_those_of_float64(loc):
    shape, axes = SMALL
    x, weight, direction = draw(shape, loc), draw(shape, seed=1), draw(shape, seed=2)

    def value(x):
        return jnp.sum(weight * jnp.tanh(normalize(x, axes, epsilon=EPSILON)[0]))

    def slope(x):
        return slope_of(x, weight * (1 - np.tanh(oracle(x, axes)[2]) ** 2), axes, None, True)

    found = jax.jit(lambda x, v: jax.jvp(jax.grad(value), (x,), (v,))[1])(x, direction)
    exact, step = x.astype(np.float64), 1e-4 * direction.astype(np.float64)
    assert relative_error(found, (slope(exact + step) - slope(exact - step)) / 2e-4) < 1e-5


def test_the_returned_statistics_have_the_derivatives_of_their_definition():
    x, tangent = draw((6, 3), 5.0), draw((6, 3), seed=1)
    centred = x - x.mean(0, keepdims=True)
    for found in (lambda x: moments(x, (0,)), lambda x: normalize(x, (0,), epsilon=EPSILON)[1]):
        m, dm = jax.jit(lambda x, t, f=found: jax.jvp(f, (x,), (t,)))(x, tangent)
        np.testing.assert_allclose(dm.shift + dm.delta, tangent.mean(0, keepdims=True), atol=1e-6)
        by_definition = 2 * (centred * tangent).mean(0, keepdims=True)
        np.testing.assert_allclose(dm.var, by_definition, atol=1e-6)
        np.testing.assert_allclose(centre(x, m), centred, atol=1e-6)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_masked_positions_influence_nothing(filler, centered):
    shape, axes = (32, 4, 3), (0, 1)
    x, mask, weights = draw(shape, 3.0), draw((32, 4, 1), seed=1) > 0, draw(shape, seed=2)
    run = normalized(axes, centered)
    filled = run(np.where(mask, x, np.float32(filler)), mask, weights)
    jax.tree.map(np.testing.assert_array_equal, filled, run(x, mask, weights))
    slope, (found, m) = filled
    mean, var, y = oracle(x, axes, mask, centered)
    np.testing.assert_allclose(found, y, atol=5e-6)
    np.testing.assert_allclose(mean_of(m) - mean, 0, atol=LIMIT)
    np.testing.assert_allclose(m.var, var, rtol=LIMIT)
    np.testing.assert_array_equal(m.n, mask.sum())
    outside = ~np.broadcast_to(mask, shape)
    assert not np.asarray(slope)[outside].any() and not np.asarray(found)[outside].any()
    filled_x: Any = np.where(mask, x, np.float32(filler))
    alone = direct(axes, centered=centered)(filled_x, mask=mask)
    np.testing.assert_allclose(alone.var, var, rtol=LIMIT)


def test_a_statistic_without_valid_values_is_finite():
    x, mask = draw((4, 6)), np.ones((4, 6), bool)
    mask[2], x[2] = False, np.nan
    slope, (y, m) = normalized((1,))(x, mask, draw((4, 6), seed=1))
    assert np.isfinite(slope).all() and np.isfinite(y).all()
    assert not np.asarray(y)[2].any() and not np.asarray(slope)[2].any()
    assert (float(m.var[2, 0]), float(m.n[2, 0])) == (0, 0)


@pytest.mark.parametrize("rows", [16, 45, 1000])
@pytest.mark.parametrize(("loc", "scale"), [(1e30, 1e26), (3e37, 1e33), (2e22, 1e17), (1e30, 0)])
def test_a_large_mean_whose_squares_overflow_keeps_the_digits(loc, scale, rows):
    """On shrunk values the squares lose the variance first, which then seems to fit."""
    x = (loc + scale * draw((rows, 3)).astype(np.float64)).astype(np.float32)
    _, var, right = oracle(x, (0,))
    y, m = plain()(x)
    np.testing.assert_allclose(y, right, rtol=0, atol=LIMIT * max(1, np.abs(right).max()))
    np.testing.assert_allclose(std(m, EPSILON), np.sqrt(var + EPSILON), rtol=LIMIT)


def test_one_value_for_each_statistic_is_refused():
    message = r"norm_3: .*shape \(1, 5\) .*1 value.* at least 2"
    with pytest.raises(ValueError, match=message) as error:
        refuse_degenerate("norm_3", (1, 5), (0,))
    assert "\n" not in str(error.value)
    refuse_degenerate("norm_3", (2, 5), (0,))


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("name", [name for name in SPREADS if name != "one example"])
def test_squares_that_overflow_are_normalized(name, centered, has_mask):
    shape, axes = (32, 4, 3), (0, 1)
    x = SPREADS[name](np.random.default_rng(0), shape).astype(np.float32)
    mask, weights = (draw((32, 4, 1), seed=1) > -1 if has_mask else None), draw(shape, seed=3)
    mean, var, y = oracle(x, axes, mask, centered)
    slope, (found, m) = normalized(axes, centered)(x, mask, weights)
    assert relative_error(found, y) < LIMIT
    np.testing.assert_allclose(mean_of(m) - mean, 0, atol=1e-6 * np.sqrt(var).max())
    np.testing.assert_allclose(std(m, EPSILON), np.sqrt(var + EPSILON), rtol=LIMIT)
    assert np.isfinite(slope).all()
    if np.sqrt(var).min() < 1e37:  # else the true gradient is below the smallest float32
        right = slope_of(x.astype(np.float64), weights, axes, mask, centered)
        assert relative_error(slope, right) < LIMIT


@pytest.mark.parametrize(
    ("name", "other"),
    [("layer_channels", nn.LayerNorm), ("rms", nn.RMSNorm), ("group", nn.GroupNorm)],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_backward_pass_holds_the_input_and_less_than_in_flax(name, other, dtype):
    x = jnp.ones((8, 8, 8, 64), dtype)

    def held(layer):
        run = layer.init_with_output
        _, backward = jax.eval_shape(
            lambda x: jax.vjp(lambda x: run(jax.random.key(0), x)[0], x), x
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    assert held(build(name).norm()) <= min(1.2 * x.nbytes, held(other(dtype=dtype)))


@pytest.mark.parametrize(
    ("axes", "groups", "use"),
    [(axes, groups, "scale and bias") for axes, groups in (((0, 1), 0), ((1,), 0), ((), 1))]
    + [((1,), groups, "scale and bias") for groups in (1, 2)]
    + [((0, 1), 0, use) for use in ("scale", "bias")],
)
def test_scale_and_bias_have_the_derivatives_of_their_definition(axes, groups, use):
    x, weights = draw((4, 3, 6), 2.0), draw((4, 3, 6), seed=1)
    scale = draw(6, 1.0, seed=2) if "scale" in use else None
    bias = draw(6, seed=3) if "bias" in use else None

    def fused(x, scale, bias):
        y, m = normalize(x, axes, groups=groups, epsilon=EPSILON, scale=scale, bias=bias)
        return jnp.sum(weights * y**2) + jnp.sum(m.var)

    def apart(x, scale, bias):
        y, m = normalize(x, axes, groups=groups, epsilon=EPSILON)
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
        return jnp.sum(weights * y**2) + jnp.sum(m.var)

    one, two = (jax.jit(jax.grad(f, argnums=(0, 1, 2)))(x, scale, bias) for f in (fused, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)


@pytest.mark.parametrize("value", [1e4, 1e30, np.nan])
def test_what_one_example_needs_changes_no_bit_of_another(value):
    x = draw((8, 32))
    other = x.copy()
    other[3] += value
    alone, beside = plain((1,))(x), plain((1,))(other)
    rest = np.arange(8) != 3
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[rest], b[rest]), alone, beside)


def test_far_values_at_equal_distances_cost_a_few_digits_only():
    x = draw((256, 3))
    x[::16] += 1e4
    assert relative_error(plain()(x)[0], oracle(x, (0,))[2]) < LIMIT


def test_no_mean_costs_more_than_a_few_digits():
    """The means of the channels go from below to above the one that makes the sums start again."""
    x = draw((4096, 64)) + np.geomspace(0.1, 100, 64).astype(np.float32)
    found, (_, var, right) = plain()(x), oracle(x, (0,))
    assert max(relative_error(found[0][:, c], right[:, c]) for c in range(64)) < LIMIT
    np.testing.assert_allclose(found[1].var, var, rtol=2 * LIMIT)


@pytest.mark.parametrize("shape", [(8, 4), (4,), (8, 1), ()])
def test_masks_broadcast_as_in_numpy(shape):
    x, mask = draw((8, 4)), draw(shape, seed=1) > 0
    y, m = plain()(x, mask)
    mean, _, expected = oracle(x, (0,), mask)
    np.testing.assert_allclose(y, expected, atol=5e-6)
    np.testing.assert_allclose(mean_of(m), mean, atol=LIMIT)


def test_a_mask_that_does_not_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"mask of shape \(8,\) .* \(8, 4\); .* \[N, 1\]"):
        normalize(draw((8, 4)), (0,), epsilon=EPSILON, mask=np.ones(8, bool))


def filled(*values: float) -> Average:
    return Average(*(jnp.full(3, value) for value in values))


@functools.partial(jax.jit, static_argnames=("axes", "unbiased"))
def updated(old: Average, x: Any, rate: Any = 1.0, axes: Any = (0,), unbiased=False) -> Average:
    return update_average(old, moments(x, axes), rate, unbiased)


@pytest.mark.parametrize("loc", [0.0, 1e6])
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_running_average_follows_the_float64_recursion(loc, momentum):
    average, mean, var = start_average(3), np.zeros(3), np.ones(3)
    rate = float(np.float32(1 - momentum))  # 1 - 0.99 is not a float32: 0.006 after 200 steps
    for step in range(200):
        x = draw((32, 3), loc, std=1 + step % 3, seed=step)
        average, exact = updated(average, x, 1 - momentum), x.astype(np.float64)
        mean = (1 - rate) * mean + rate * exact.mean(0)
        var = (1 - rate) * var + rate * exact.var(0)
    far = 6e-8 * loc * momentum**200  # a step is one float32: it errs with the way still to go
    np.testing.assert_allclose(pair(average._asdict()), mean, rtol=0, atol=5e-6 + far)
    np.testing.assert_allclose(average.var, var, rtol=2e-6)
    x = draw((16, 3), loc, seed=999)
    expected = (x.astype(np.float64) - mean) / np.sqrt(var + EPSILON)
    found = normalize_by(jnp.asarray(x), average, EPSILON)
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-5 + far)


@pytest.mark.parametrize("before", [(0.0, 0.0, 1.0), (1e6, 0.02, 1e6), (-3.0, 1e-8, 1e-9)])
def test_rate_one_leaves_exactly_the_statistics_of_the_batch(before):
    x = draw((32, 3), 0.3, std=1e-3)
    new, batch = updated(filled(*before), x), direct((0,))(x)
    np.testing.assert_array_equal(pair(new._asdict()), mean_of(batch)[0])
    np.testing.assert_array_equal(new.var, batch.var[0])


@pytest.mark.parametrize("loc", [2.0, 1e6])
def test_groups_enter_the_running_average_equally_and_lose_nothing(loc):
    x = draw((4, 8, 3), loc)
    exact = x.astype(np.float64)
    new = updated(start_average(3), x, 0.2, (1,))
    np.testing.assert_allclose(pair(new._asdict()), 0.2 * exact.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(new.var, 0.8 + 0.2 * exact.var(1).mean(0), rtol=1e-5)
    whole = updated(start_average(3), x, axes=(1,), unbiased=True)
    np.testing.assert_allclose(pair(whole._asdict()), exact.mean((0, 1)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(whole.var, exact.var(1, ddof=1).mean(0), rtol=1e-5)
    one_value = updated(start_average(3), x[0, :1], unbiased=True)
    jax.tree.map(np.testing.assert_array_equal, one_value, start_average(3))


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_a_batch_without_valid_values_moves_no_average(rate):
    old, nothing = filled(5.0, 1e-7, 2.0), moments(draw((8, 3)), (0,), mask=np.zeros((8, 3), bool))
    jax.tree.map(np.testing.assert_array_equal, update_average(old, nothing, rate), old)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_moves_no_average_of_its_channel(bad):
    old, x = start_average(3), draw((8, 3), 2.0)
    x[4, 1] = bad
    new = updated(old, x, rate=0.5)
    for value, leaf in zip(new, old, strict=True):
        np.testing.assert_array_equal(value[1], leaf[1])
    np.testing.assert_allclose(new.mean[0], x[:, 0].mean() / 2, rtol=1e-5)


def test_a_variance_beyond_float32_stays_finite_and_can_return():
    huge = updated(start_average(3), draw((8, 3), std=1e25), 0.5)
    assert np.isfinite(huge.var).all() and (huge.var > 1e37).all()
    back = huge
    for seed in range(60):
        back = updated(back, draw((8, 3), seed=seed), 0.9)
    assert (0.1 < back.var).all() and (back.var < 10).all()
