"""Dynamic tanh and dynamic erf: element-wise functions in the place of a norm."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab import norms

SHAPE = (3, 4, 5)
NAMES = ["dynamic_tanh", "dynamic_erf"]
FUNCTIONS = {
    "dynamic_tanh": (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
    "dynamic_erf": (np.vectorize(math.erf), lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))),
}
"""Function and derivative, float64."""


def draw(shape=SHAPE, loc=0.0, seed=0) -> np.ndarray:
    return (loc + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def params_of(name: str, alpha=0.8, shift=-0.3) -> dict[str, Any]:
    params = {"scale": draw((5,), 1.0, 5), "bias": draw((5,), 0.5, 6), "alpha": np.float32(alpha)}
    return params | ({"shift": np.float32(shift)} if name == "dynamic_erf" else {})


def outputs(name: str, params, x, cotangent, mask=None):
    """Output and the gradients with respect to parameters and x."""
    layer = norms.build(name).norm(name="norm_1")

    @jax.jit
    def run(params, x):
        def value(params, x):
            y: Any = layer.apply({"params": params}, x, train=True, mask=mask)
            return jnp.sum(cotangent * y), y

        return jax.grad(value, argnums=(0, 1), has_aux=True)(params, x)

    (of_params, of_x), y = run(params, x)
    return y, of_params, of_x


@pytest.mark.parametrize("name", NAMES)
def test_output_and_gradients_are_those_of_the_equation(name):
    x, cotangent, params = draw(), draw(seed=1), params_of(name)
    y, of_params, of_x = outputs(name, params, x, cotangent)
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    exact, weights = x.astype(np.float64), cotangent.astype(np.float64)
    f, slope = FUNCTIONS[name]
    inner = p["alpha"] * exact + p.get("shift", 0.0)
    np.testing.assert_allclose(y, p["scale"] * f(inner) + p["bias"], rtol=1e-6, atol=1e-6)
    through = weights * p["scale"] * slope(inner)
    expected = {
        "scale": (weights * f(inner)).sum((0, 1)),
        "bias": weights.sum((0, 1)),
        "alpha": (through * exact).sum(),
        "shift": through.sum(),
    }
    np.testing.assert_allclose(of_x, through * p["alpha"], rtol=1e-5, atol=1e-6)
    assert set(of_params) == set(params)
    for leaf, value in of_params.items():
        np.testing.assert_allclose(value, expected[leaf], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_start_where_the_papers_say(name):
    def params(**options):
        layer = norms.build(name, **options).norm(name="norm_1")
        return layer.init(jax.random.key(0), draw())["params"]

    start = params()
    assert start["alpha"].shape == () and start["alpha"] == 0.5
    assert name == "dynamic_tanh" or (start["shift"].shape == () and start["shift"] == 0)
    assert params(alpha=1.25)["alpha"] == 1.25


@pytest.mark.parametrize("name", NAMES)
def test_it_is_linear_near_0_and_saturates_far_away(name):
    x, params = np.abs(draw()) + 1, params_of(name, alpha=2.0, shift=0.0)
    params |= {"scale": np.ones(5, np.float32), "bias": np.zeros(5, np.float32)}
    slope = 2.0 * FUNCTIONS[name][1](0.0)
    near, _, of_x = outputs(name, params, x * np.float32(1e-5), np.float32(1))
    np.testing.assert_allclose(near, slope * x * 1e-5, rtol=1e-5)
    np.testing.assert_allclose(of_x, slope, rtol=1e-5)
    for sign in (1, -1):
        for size in (1e20, 1e30, 5e37):  # twice the largest of them overflows
            far = np.minimum(x * size, 3e38).astype(np.float32) * sign
            y, of_params, of_x = outputs(name, params, far, draw(seed=1))
            np.testing.assert_array_equal(y, np.full(SHAPE, sign))
            assert (np.asarray(of_x) == 0).all() and of_params["alpha"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_masked_positions_are_0_and_reach_nothing(name):
    """Shift and bias would lift them."""
    x, mask = draw(), np.ones((3, 4, 1), bool)
    mask[1:, 2:] = False
    y, of_params, of_x = outputs(name, params_of(name), np.where(mask, x, np.nan), draw(), mask)
    clean, clean_params, _ = outputs(name, params_of(name), x, np.where(mask, draw(), 0))
    np.testing.assert_allclose(y, np.where(mask, clean, 0), rtol=1e-6)
    assert (np.asarray(of_x)[~np.broadcast_to(mask, SHAPE)] == 0).all()
    for leaf, value in of_params.items():
        np.testing.assert_allclose(value, clean_params[leaf], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_rounded_once(name):
    x, params = jnp.asarray(draw(), jnp.bfloat16), params_of(name)
    layer = norms.build(name).norm(name="norm_1")
    y: Any = layer.apply({"params": params}, x)
    wide: Any = layer.apply({"params": params}, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
