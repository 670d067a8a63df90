"""Global response, unit length and local response normalization."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import local_response

from normlab import norms

SHAPE = (3, 4, 2, 5)


def draw(shape=SHAPE, loc=0.0, seed=0) -> np.ndarray:
    return (loc + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def outputs(layer, params, x, cotangent: Any = 1.0, mask: Any = None):
    """Output and the gradients with respect to parameters and x."""

    @jax.jit
    def run(params, x):
        def value(params, x):
            y: Any = layer.apply({"params": params}, x, train=True, mask=mask)
            return jnp.sum(jnp.asarray(cotangent, y.dtype) * y), y

        return jax.grad(value, argnums=(0, 1), has_aux=True)(params, x)

    (of_params, of_x), y = run(params, x)
    return np.asarray(y), of_params, np.asarray(of_x)


def differences(value, start, cotangent, h=1e-6):
    units = h * np.eye(start.size).reshape(-1, *start.shape)
    ends = [(value(start + u) - value(start - u)) / (2 * h) for u in units]
    return np.array([(cotangent * e).sum() for e in ends]).reshape(start.shape)


def assert_derivatives(layer, reference, params, x):
    """Output and all gradients against a float64 function (params, x) -> y."""
    cotangent = draw(x.shape, seed=1)
    y, of_params, of_x = outputs(layer, params, x, cotangent)
    p, exact = jax.tree.map(lambda v: np.asarray(v, np.float64), (params, x))
    np.testing.assert_allclose(y, reference(p, exact), rtol=1e-5, atol=1e-6)
    by_x = differences(lambda x: reference(p, x), exact, cotangent)
    np.testing.assert_allclose(of_x, by_x, rtol=1e-4, atol=2e-5)
    for leaf, start in p.items():
        by_leaf = differences(lambda v, k=leaf: reference({**p, k: v}, exact), start, cotangent)
        np.testing.assert_allclose(of_params[leaf], by_leaf, rtol=1e-4, atol=2e-5)


def response(p, x, epsilon):
    g = np.sqrt((x**2).sum(tuple(range(1, x.ndim - 1)), keepdims=True))
    return p["response"] * (x * g / (g.mean(-1, keepdims=True) + epsilon)) + p["bias"] + x


GLOBAL = {"response": draw((5,), 0.5, 3), "bias": draw((5,), 0.0, 4)}


@pytest.mark.parametrize("shape", [SHAPE, (3, 7, 5), (3, 5)])
def test_global_response_is_that_of_the_paper(shape):
    layer = norms.GlobalResponseNorm(epsilon=0.1)
    assert_derivatives(layer, lambda p, x: response(p, x, 0.1), GLOBAL, draw(shape))


def test_global_response_starts_as_the_identity():
    """Also of values so large that the response itself would overflow."""
    layer = norms.GlobalResponseNorm()
    variables: Any = layer.init(jax.random.key(0), draw())
    assert all((v == 0).all() and v.shape == (5,) for v in variables["params"].values())
    for factor in (1, 2e38):
        x = np.clip(draw().astype(np.float64) * factor, -3.3e38, 3.3e38).astype(np.float32)
        np.testing.assert_array_equal(jax.jit(layer.apply)(variables, x), x)


@pytest.mark.parametrize("factor", [1e20, 1e30, 1e37])
def test_global_response_grows_with_its_input(factor):
    layer = norms.GlobalResponseNorm(epsilon=1e-12)
    params = GLOBAL | {"bias": np.zeros(5, np.float32)}
    x, cotangent, factor = draw(), draw(seed=1), np.float32(factor)
    y, _, of_x = outputs(layer, params, x, cotangent)
    huge, _, of_huge = outputs(layer, params, x * factor, cotangent)
    np.testing.assert_allclose(huge / factor, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_huge, of_x, rtol=1e-4, atol=1e-5)


def test_global_response_of_dead_channels_has_derivatives():
    """Second ones too: a root at 0 has none, which made every one NaN."""
    layer, x = norms.GlobalResponseNorm(), draw()
    x[0], x[..., 2] = 0, 0
    y, of_params, of_x = outputs(layer, GLOBAL, x, draw(seed=1))
    expected = response(GLOBAL, x.astype(np.float64), 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)

    def value(x):
        y: Any = layer.apply({"params": GLOBAL}, x)
        return jnp.sum(y**2)

    _, of_slope = jax.jvp(jax.grad(value), (jnp.asarray(x),), (jnp.ones_like(x),))
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((of_params, of_x, of_slope)))


def test_global_response_leaves_masked_positions_and_channels_out():
    layer, params = norms.GlobalResponseNorm(epsilon=0.0), GLOBAL
    x, cotangent, mask = draw(), draw(seed=1), np.ones(SHAPE, bool)
    mask[:, 2:] = mask[..., 3:] = mask[2] = False
    y, _, of_x = outputs(layer, params, np.where(mask, x, np.nan), cotangent, mask)
    few = {k: v[:3] for k, v in params.items()}
    cropped, _, cropped_slope = outputs(layer, few, x[:2, :2, :, :3], cotangent[:2, :2, :, :3])
    np.testing.assert_allclose(y[:2, :2, :, :3], cropped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_x[:2, :2, :, :3], cropped_slope, rtol=1e-4, atol=1e-5)
    assert (y[~mask] == 0).all() and (of_x[~mask] == 0).all()


@pytest.mark.parametrize("shape", [SHAPE, (3, 5)])
def test_unit_gives_vectors_of_channels_length_1(shape):
    def reference(p, x):
        return p["scale"] * x / np.sqrt((x**2).sum(-1, keepdims=True) + 0.1)

    params = {"scale": draw((5,), 1.0, 3)}
    assert_derivatives(norms.UnitNorm(epsilon=0.1), reference, params, draw(shape))
    y, _ = norms.UnitNorm(epsilon=1e-12).init_with_output(jax.random.key(0), draw(shape, 1.0))
    np.testing.assert_allclose(np.linalg.norm(np.asarray(y), axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e20, 1e30, 5e37])
def test_unit_does_not_feel_magnitude(factor):
    layer, params = norms.UnitNorm(epsilon=1e-12), {"scale": np.ones(5, np.float32)}
    x, cotangent = draw(loc=1.0), draw(seed=1)
    y, _, of_x = outputs(layer, params, x, cotangent)
    huge, _, of_huge = outputs(layer, params, x * np.float32(factor), cotangent)
    np.testing.assert_allclose(huge, y, rtol=2e-6)
    assert np.isfinite(of_huge).all()
    if factor < 1e37:  # 1 / factor is a normal float
        np.testing.assert_allclose(of_huge * np.float32(factor), of_x, rtol=1e-4, atol=1e-5)


def test_unit_sums_over_valid_channels():
    layer, params = norms.UnitNorm(epsilon=0.1), {"scale": np.ones(5, np.float32)}
    x, mask = draw(), np.arange(5) < 3
    y, _, of_x = outputs(layer, params, np.where(mask, x, np.nan), mask=mask)
    few = outputs(layer, {"scale": np.ones(3, np.float32)}, x[..., :3])[0]
    np.testing.assert_allclose(y[..., :3], few, rtol=1e-6)
    assert (y[..., 3:] == 0).all() and (of_x[..., 3:] == 0).all()


LOCAL: list[dict[str, Any]] = [
    {},
    {"size": 1},
    {"size": 4, "alpha": 1.0, "beta": 0.5},
    {"size": 9, "alpha": 2.0, "beta": 1.0, "k": 2.0},
]


@pytest.mark.parametrize("options", LOCAL)
def test_local_response_is_that_of_the_equation(options):
    def reference(p, x):
        return local_response(x, 0, 0, **options)

    assert_derivatives(norms.LocalResponseNorm(**options), reference, {}, draw((2, 2, 3, 7)) * 3)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("options", LOCAL)
def test_local_response_is_that_of_torch(options):
    torch = pytest.importorskip("torch")

    x = draw((2, 3, 3, 7)) * 3
    ours: Any = norms.LocalResponseNorm(**options).apply({}, x)
    theirs = torch.nn.LocalResponseNorm(**{"size": 5} | options)
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(ours, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e4, 1e15, 1e19, 1e20, 1e30, 5e37])
def test_local_response_of_large_values(factor):
    """Far from k it is x / (alpha / n * sum)^beta, beside channels of any other size too."""
    x = np.clip(draw((2, 3, 9), 2.0) * factor, -3.3e38, 3.3e38).astype(np.float32)
    x[0, 0, :6] = draw((6,))
    y, _, of_x = outputs(norms.LocalResponseNorm(alpha=1.0), {}, x, draw((2, 3, 9), seed=1))
    expected = local_response(x.astype(np.float64), 0, 0, alpha=1.0)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-38)
    assert np.isfinite(of_x).all() and (of_x != 0).any()


def test_local_response_of_large_values_has_their_gradient():
    """The squares' part of it is as large as the other; it underflowed from 1e15 to 1e19."""
    layer, x, cotangent = norms.LocalResponseNorm(alpha=1.0), draw((2, 9), 2.0), draw((2, 9))
    exact = x.astype(np.float64)
    expected = differences(lambda x: local_response(x, 0, 0, alpha=1.0, k=0.0), exact, cotangent)
    for factor in (1e15, 1e18, 1e20):
        _, _, of_x = outputs(layer, {}, x * np.float32(factor), cotangent)
        np.testing.assert_allclose(of_x * factor**1.5, expected, rtol=1e-4, atol=1e-5)


def test_local_response_counts_masked_values_as_0():
    layer, x, mask = norms.LocalResponseNorm(alpha=1.0), draw(), draw() > 0
    y, _, of_x = outputs(layer, {}, np.where(mask, x, np.nan), draw(seed=1), mask)
    clean, _, _ = outputs(layer, {}, np.where(mask, x, 0))
    np.testing.assert_array_equal(y, clean)
    assert (of_x[~mask] == 0).all() and np.isfinite(of_x).all()


def test_what_has_no_meaning_is_refused():
    one = jnp.ones((2, 3, 3, 1))
    for name in ("global_response", "unit"):
        with pytest.raises(ValueError, match=r"norm_1: each statistic of .* 1 value"):
            norms.build(name).norm(name="norm_1").init(jax.random.key(0), one)
    wrong: list[dict[str, Any]] = [{"size": 0}, {"k": 0.0}]
    for options in wrong:
        layer = norms.build("local_response", **options).norm(name="norm_1")
        with pytest.raises(ValueError, match=r"norm_1: size \d and k \d.\d must be above 0"):
            layer.apply({}, one)
