"""EvoNorm B0 and S0: equations, limits, state, magnitudes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab import norms

SHAPE = (6, 3, 2, 4)
EPSILON = 1e-3
MUTABLE = ["batch_stats", "norm_state"]


def draw(shape=SHAPE, loc=0.0, seed=0) -> np.ndarray:
    return (loc + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def deviation(x, axes):
    return np.sqrt(x.var(axes, keepdims=True) + EPSILON)


def b0(p, x, batch=None):
    """In float64; `batch` is the std to be used for the batch's."""
    batch = deviation(x, tuple(range(x.ndim - 1))) if batch is None else batch
    space = deviation(x, tuple(range(1, x.ndim - 1)))
    return p["scale"] * x / np.maximum(batch, p["v"] * x + space) + p["bias"]


def s0(p, x, groups=2):
    split = x.reshape(*x.shape[:-1], groups, -1)
    space = deviation(split, (*range(1, x.ndim - 1), x.ndim))
    gated = x / (1 + np.exp(-p["v"] * x))
    return p["scale"] * (gated.reshape(split.shape) / space).reshape(x.shape) + p["bias"]


LAYERS: dict[str, Any] = {
    "evonorm_b0": (norms.EvoNormB0(epsilon=EPSILON, momentum=0.8), b0),
    "evonorm_s0": (norms.EvoNormS0(epsilon=EPSILON, groups=2), s0),
}


def params_of(v=0.7, scale=1.0, bias=0.0, spread=0.0):
    starts = {"v": v, "scale": scale, "bias": bias}
    return {
        k: (s + spread * draw((4,), seed=i)).astype(np.float32)
        for i, (k, s) in enumerate(starts.items())
    }


def outputs(layer, params, x, cotangent: Any = 1.0, mask: Any = None):
    """Output in training mode, new state, gradients with respect to parameters and x."""
    stats = layer.init(jax.random.key(0), jnp.ones(SHAPE)).get("batch_stats", {})

    @jax.jit
    def run(params, x):
        def value(params, x):
            variables = {"params": params, "batch_stats": stats}
            y, moved = layer.apply(variables, x, train=True, mask=mask, mutable=MUTABLE)
            return jnp.sum(cotangent * y), (y, moved)

        return jax.grad(value, argnums=(0, 1), has_aux=True)(params, x)

    (of_params, of_x), (y, moved) = run(params, x)
    return np.asarray(y), moved, of_params, np.asarray(of_x)


@pytest.mark.parametrize("shape", [SHAPE, (6, 5, 4)])
@pytest.mark.parametrize("name", LAYERS)
def test_output_and_gradients_are_those_of_the_paper(name, shape):
    layer, reference = LAYERS[name]
    x, cotangent, params = draw(shape, 0.3), draw(shape, seed=1), params_of(spread=0.3)
    y, _, of_params, of_x = outputs(layer, params, x, cotangent)
    p, exact = jax.tree.map(lambda v: np.asarray(v, np.float64), (params, x))
    np.testing.assert_allclose(y, reference(p, exact), rtol=1e-5, atol=1e-6)

    def slope(value, start, h=1e-6):
        units = h * np.eye(start.size).reshape(-1, *start.shape)
        ends = [(value(start + u) - value(start - u)) / (2 * h) for u in units]
        return np.array([(cotangent * e).sum() for e in ends]).reshape(start.shape)

    by_x = slope(lambda x: reference(p, x), exact)
    np.testing.assert_allclose(of_x, by_x, rtol=1e-4, atol=2e-5)
    for leaf, start in p.items():
        by_leaf = slope(lambda v, k=leaf: reference({**p, k: v}, exact), start)
        np.testing.assert_allclose(of_params[leaf], by_leaf, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_start_at_1_0_1_and_no_activation_follows(name):
    layers, x = norms.build(name), draw()
    params = layers.norm(name="norm_1").init(jax.random.key(0), x)["params"]
    start = {"v": 1, "scale": 1, "bias": 0}
    assert set(params) == set(start)
    for leaf, value in start.items():
        np.testing.assert_array_equal(params[leaf], np.full(4, value))
    y: Any = layers.act(name="act_1").apply({}, x)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("name", LAYERS)
def test_values_keep_their_digits_beside_a_large_mean(name):
    layer, reference = LAYERS[name]
    x, params = draw(loc=1e4), params_of()
    y = outputs(layer, params, x)[0]
    expected = reference(params, x.astype(np.float64))
    np.testing.assert_allclose(y, expected, rtol=2e-6)


@pytest.mark.parametrize("factor", [1e20, 1e30, 2e38])
@pytest.mark.parametrize("name", LAYERS)
def test_no_magnitude_overflows(name, factor):
    """Far from epsilon both are functions of x / std alone, S0's being that of a ReLU."""
    layer, _ = LAYERS[name]
    x, params = draw(loc=0.5), params_of()
    huge = np.clip(x.astype(np.float64) * factor, -3.3e38, 3.3e38).astype(np.float32)
    y, moved, of_params, of_x = outputs(layer, params, huge, draw(seed=1))
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, moved, of_params, of_x)))
    small = huge.astype(np.float64) / factor
    if name == "evonorm_b0":
        space = small.std((1, 2), keepdims=True)
        expected = small / np.maximum(small.std((0, 1, 2)), params["v"] * small + space)
    else:
        split = small.reshape(6, 3, 2, 2, 2)
        expected = np.maximum(split, 0) / split.std((1, 2, 4), keepdims=True)
    np.testing.assert_allclose(y, expected.reshape(SHAPE), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1e15, 1e20])
def test_b0_has_its_gradient_where_the_squares_of_a_std_overflow(factor):
    layer, params = norms.EvoNormB0(epsilon=1e-12), params_of()
    x, cotangent, factor = draw(), draw(seed=1), np.float32(factor)
    near = outputs(layer, params, x, cotangent)[3]
    far = outputs(layer, params, x * factor, cotangent)[3]
    np.testing.assert_allclose(far * factor, near, rtol=1e-4, atol=1e-5)


def test_b0_of_one_image_is_linear_below_0_and_bounded_above():
    """With one std for both, y = x / std for x < 0 and x / (v x + std) < 1 / v for x > 0."""
    layer, _ = LAYERS["evonorm_b0"]
    x = draw((1, 3, 2, 4))
    y = outputs(layer, params_of(v=2.0), x)[0]
    relative = x / deviation(x.astype(np.float64), (1, 2))
    expected = np.where(x < 0, relative, relative / (2 * relative + 1))
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_s0_is_half_a_norm_without_gate_and_a_relu_with_a_steep_one():
    layer, _ = LAYERS["evonorm_s0"]
    x = draw(loc=0.2)
    split = x.astype(np.float64).reshape(6, 3, 2, 2, 2)
    scaled = (split / deviation(split, (1, 2, 4))).reshape(SHAPE)
    np.testing.assert_allclose(outputs(layer, params_of(v=0.0), x)[0], scaled / 2, rtol=1e-5)
    steep = outputs(layer, params_of(v=1e6), x)[0]
    np.testing.assert_allclose(steep, np.maximum(scaled, 0), rtol=1e-5)


def test_s0_takes_the_size_of_a_group_for_their_number():
    x = draw()
    by_number = norms.EvoNormS0(groups=2).init_with_output(jax.random.key(0), x)[0]
    by_size = norms.EvoNormS0(group_size=2).init_with_output(jax.random.key(0), x)[0]
    other = norms.EvoNormS0(group_size=4).init_with_output(jax.random.key(0), x)[0]
    np.testing.assert_array_equal(by_size, by_number)
    assert not np.allclose(other, by_number)


@pytest.mark.parametrize(("running_var", "factor"), [("biased", 1), ("unbiased", 36 / 35)])
def test_b0_keeps_a_running_variance_and_nothing_else(running_var, factor):
    layer = norms.EvoNormB0(epsilon=EPSILON, momentum=0.8, running_var=running_var)
    variables: Any = layer.init(jax.random.key(0), draw(), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(4))
    train = jax.jit(lambda v, x: layer.apply(v, x, train=True, mutable=MUTABLE)[1])
    expected = np.ones(4)
    for step in range(3):
        x = draw(loc=step, seed=step) * (1 + step)
        variables = {**variables, **train(variables, x)}
        expected = 0.8 * expected + 0.2 * factor * x.astype(np.float64).var((0, 1, 2))
    assert set(variables["batch_stats"]) == {"var"}
    np.testing.assert_allclose(variables["batch_stats"]["var"], expected, rtol=1e-6)


def test_b0_evaluates_with_the_running_variance_and_each_images_own():
    layer, reference = LAYERS["evonorm_b0"]
    x, params, var = draw(loc=1.0), params_of(spread=0.3), np.array([0.1, 1, 4, 9], np.float32)
    variables = {"params": params, "batch_stats": {"var": var}}
    y, after = layer.apply(variables, x, train=False, mutable=MUTABLE)
    expected = reference(params, x.astype(np.float64), np.sqrt(var + EPSILON))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after["batch_stats"]["var"], var)


def test_b0_of_ghost_batches_is_that_of_separate_batches():
    params, x, cotangent = params_of(spread=0.3), draw(), draw(seed=1)
    ghosts = norms.EvoNormB0(epsilon=EPSILON, stats_batch=2)
    y, moved, _, of_x = outputs(ghosts, params, x, cotangent)
    whole = norms.EvoNormB0(epsilon=EPSILON)
    parts = [outputs(whole, params, x[i : i + 2], cotangent[i : i + 2]) for i in (0, 2, 4)]
    np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_x, np.concatenate([p[3] for p in parts]), rtol=1e-4, atol=1e-5)
    var = np.mean([p[1]["batch_stats"]["var"] for p in parts], axis=0)
    np.testing.assert_allclose(moved["batch_stats"]["var"], var, rtol=1e-6)


def test_b0_along_an_axis_is_that_of_the_whole_batch():
    params, x = params_of(spread=0.3), draw()
    whole, moved, _, _ = outputs(norms.EvoNormB0(epsilon=EPSILON), params, x)
    layer = norms.EvoNormB0(epsilon=EPSILON, axis_name="parts")
    variables = {"params": params, "batch_stats": {"var": np.ones(4, np.float32)}}

    def part(x) -> Any:
        return layer.apply(variables, x, train=True, mutable=MUTABLE)

    y, parts = jax.vmap(part, axis_name="parts")(x.reshape(2, 3, *SHAPE[1:]))
    np.testing.assert_allclose(y.reshape(SHAPE), whole, rtol=1e-5, atol=1e-6)
    for var in parts["batch_stats"]["var"]:
        np.testing.assert_allclose(var, moved["batch_stats"]["var"], rtol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_masked_positions_count_for_nothing(name):
    layer, _ = LAYERS[name]
    x, cotangent, mask = draw(), draw(seed=1), np.ones((6, 3, 1, 1), bool)
    mask[:, 2:] = mask[4:] = False
    y, moved, of_params, of_x = outputs(
        layer, params_of(bias=0.5), np.where(mask, x, np.nan), cotangent, mask
    )
    cropped = outputs(layer, params_of(bias=0.5), x[:4, :2], cotangent[:4, :2])
    np.testing.assert_allclose(y[:4, :2], cropped[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_x[:4, :2], cropped[3], rtol=1e-4, atol=1e-5)
    hidden = ~np.broadcast_to(mask, SHAPE)
    assert (y[hidden] == 0).all() and (of_x[hidden] == 0).all()
    for leaf, expected in zip(
        jax.tree.leaves((moved, of_params)), jax.tree.leaves(cropped[1:3]), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_that_is_all_masked_moves_nothing(name):
    layer, _ = LAYERS[name]
    nothing = np.zeros(SHAPE[:-1] + (1,), bool)
    x = np.full(SHAPE, np.nan, np.float32)
    y, moved, *slopes = outputs(layer, params_of(), x, mask=nothing)
    assert (y == 0).all() and all((np.asarray(s) == 0).all() for s in jax.tree.leaves(slopes))
    assert all((np.asarray(v) == 1).all() for v in jax.tree.leaves(moved))


@pytest.mark.parametrize("train", [True, False])
def test_b0_refuses_dense_inputs(train):
    layer = norms.build("evonorm_b0").norm(name="norm_1")
    with pytest.raises(ValueError, match=r"norm_1: each statistic of .* \(4, 8\) .* 1 value"):
        layer.init(jax.random.key(0), jnp.ones((4, 8)), train=train)
