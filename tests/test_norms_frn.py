"""Filter response normalization and the thresholded activation that belongs to it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab import norms

SHAPE = (3, 4, 2, 5)


def draw(shape=SHAPE, loc=0.0, seed=0) -> np.ndarray:
    return (loc + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def train_outputs(x, cotangent, epsilon=1e-6, mask=None):
    """Output and gradient with respect to x, scale 1 and bias 0."""
    layer = norms.FilterResponseNorm(epsilon=epsilon)
    variables = layer.init(jax.random.key(0), x)

    @jax.jit
    def run(x):
        def value(x):
            y: Any = layer.apply(variables, x, train=True, mask=mask)
            return jnp.sum(jnp.asarray(cotangent, y.dtype) * y), y

        return jax.grad(value, has_aux=True)(x)

    slope, y = run(x)
    return np.asarray(y), np.asarray(slope)


@pytest.mark.parametrize("shape", [SHAPE, (3, 7, 5)])
def test_norm_and_activation_together_are_the_papers_layer(shape):
    """z = max(scale x / sqrt(nu^2 + epsilon) + bias, tau), nu^2 the mean square over space."""
    layers, x = norms.build("frn", epsilon=1e-3), draw(shape, 1.0)
    scale, bias, tau = (draw((5,), loc, seed=7) for loc in (1.0, 0.5, -0.2))
    norm, act = layers.norm(name="norm_1"), layers.act(name="act_1")
    y = norm.apply({"params": {"scale": scale, "bias": bias}}, x, train=True)
    z = act.apply({"params": {"tau": tau}}, y)
    exact = x.astype(np.float64)
    square = (exact**2).mean(tuple(range(1, len(shape) - 1)), keepdims=True)
    expected = np.maximum(scale * exact / np.sqrt(square + 1e-3) + bias, tau)
    np.testing.assert_allclose(z, expected, rtol=1e-6, atol=1e-6)


def test_the_row_replaces_the_activation_by_a_relu_at_first():
    act, x = norms.build("frn").act(name="act_1"), draw()
    y, variables = act.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["params"]["tau"], np.zeros(SHAPE[-1]))
    np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_threshold_is_a_bias_before_and_after_a_relu(dtype):
    x, tau = jnp.asarray(draw()).astype(dtype), draw((5,), seed=3).astype(dtype)
    act = norms.TLU()

    def value(tau):
        y: Any = act.apply({"params": {"tau": tau}}, x)
        assert y.dtype == dtype
        return jnp.sum(y.astype(jnp.float32)), y

    slope, y = jax.grad(value, has_aux=True)(jnp.asarray(tau, jnp.float32))
    exact, tau = np.asarray(x, np.float64), np.asarray(tau, np.float64)
    limit = {"float32": 1e-6, "bfloat16": 1e-2}[dtype]
    expected = np.maximum(exact - tau, 0) + tau
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=limit, atol=limit)
    np.testing.assert_allclose(slope, (exact < tau).sum((0, 1, 2)))


def test_it_is_instance_norm_where_channels_have_mean_0():
    x = draw()
    x -= x.mean((1, 2), keepdims=True)
    instance = norms.build("instance", epsilon=1e-6).norm(name="norm_1")
    expected, _ = instance.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(train_outputs(x, x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e20, 1e30, 5e37])
def test_magnitude_is_not_felt_and_overflows_nothing(factor):
    x, cotangent = draw(loc=1.0), draw(seed=1)
    y, slope = train_outputs(x, cotangent, epsilon=1e-12)
    huge, small_slope = train_outputs(x * np.float32(factor), cotangent, epsilon=1e-12)
    np.testing.assert_allclose(huge, y, rtol=2e-6)
    assert np.isfinite(small_slope).all()
    if factor < 1e37:  # 1 / factor is a normal float
        np.testing.assert_allclose(small_slope * np.float32(factor), slope, rtol=1e-4, atol=1e-5)


def test_masked_positions_count_for_nothing():
    """Also where all of an example is masked."""
    x, cotangent, mask = draw(), draw(seed=1), np.ones((3, 4, 1, 1), bool)
    mask[0, 2:] = mask[2] = False
    y, slope = train_outputs(np.where(mask, x, np.nan), cotangent, mask=mask)
    cropped, cropped_slope = train_outputs(x[:1, :2], cotangent[:1, :2])
    np.testing.assert_allclose(y[:1, :2], cropped, rtol=1e-6)
    np.testing.assert_allclose(slope[:1, :2], cropped_slope, rtol=1e-5, atol=1e-6)
    hidden = ~np.broadcast_to(mask, x.shape)
    assert (y[hidden] == 0).all() and (slope[hidden] == 0).all()


def test_dense_inputs_are_refused():
    with pytest.raises(ValueError, match=r"norm_1: each statistic of .* \(4, 8\) .* 1 value"):
        norms.build("frn").norm(name="norm_1").init(jax.random.key(0), jnp.ones((4, 8)))
