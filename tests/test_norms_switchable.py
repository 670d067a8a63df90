"""Switchable and batch-instance normalization: mixtures, their limits, pooled statistics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained_layers import MUTABLE, draw, outputs

from normlab.norms import NORMS, build
from normlab.norms.switchable import pool, statistics
from normlab.statistics.moments import moments

EPSILON = 1e-3
DENSE, SEQUENCE, CONV = (6, 4), (4, 3, 4), (4, 3, 2, 4)
BOTH = ["switchable", "batch_instance"]
LIMITS = {"instance": 0, "layer": -2, "batch": -1}
"""Row that a single weight makes of switchable norm -> the place of that weight."""


def layer(name, **options) -> Any:
    momentum = {"momentum": 0.0} if NORMS[name].running_statistics else {}
    return build(name, **{"epsilon": EPSILON, **momentum, **options}).norm(name="norm_1")


def start(norm, x, **params) -> dict[str, Any]:
    """Initial variables with all parameters off their start, but for those given."""
    variables = norm.clone(axis_name=None).init(jax.random.key(0), jnp.asarray(x), train=True)
    drawn = {k: draw(v.shape, 0.5, 0.5, seed=3) for k, v in variables["params"].items()}
    return {**variables, "params": drawn | params}


def softmax(logits) -> np.ndarray:
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum()


def by_paper(name, x, params, mask=None, running=None):
    """The mixture of x in float64, over its valid values; `running` are mean and variance."""
    x = x.astype(np.float64)
    valid = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    over = [tuple(range(1, x.ndim - 1)), tuple(range(1, x.ndim)), tuple(range(x.ndim - 1))]

    def moments_over(axes):
        n = np.maximum(valid.sum(axes, keepdims=True), 1)
        mean = np.where(valid, x, 0).sum(axes, keepdims=True) / n
        return mean, np.where(valid, (x - mean) ** 2, 0).sum(axes, keepdims=True) / n

    stats = [moments_over(axes) for axes in over[0 if x.ndim > 2 else 1 :]]
    stats[-1] = running or stats[-1]
    if name == "switchable":
        m, v = softmax(params["mean_weight"]), softmax(params["var_weight"])
        mean = sum(w * s[0] for w, s in zip(m, stats, strict=True))
        hat = (x - mean) / np.sqrt(sum(w * s[1] for w, s in zip(v, stats, strict=True)) + EPSILON)
    else:
        batch, instance = ((x - m) / np.sqrt(v + EPSILON) for m, v in (stats[-1], stats[0]))
        rho = np.clip(np.asarray(params["rho"], np.float64), 0, 1)
        hat = rho * batch + (1 - rho) * instance
    return np.where(valid, hat * params["scale"] + params["bias"], 0)


@pytest.mark.parametrize(
    "shape, limit", [(DENSE, "layer"), (DENSE, "batch")] + [(CONV, k) for k in LIMITS]
)
def test_a_single_weight_is_that_scheme(shape, limit):
    x, norm = draw(shape, 3.0), layer("switchable")
    logits = jnp.full(2 if shape == DENSE else 3, -50.0).at[LIMITS[limit]].set(50.0)
    variables = start(norm, x, mean_weight=logits, var_weight=logits)
    y, (of_params, of_x), moved = outputs(norm, variables, x)
    other = layer(limit)
    affine = {k: variables["params"][k] for k in ("scale", "bias")}
    plain = {**other.init(jax.random.key(0), x, train=True), "params": affine}
    expected, (of_affine, slope), after = outputs(other, plain, x)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(of_x, slope, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(of_params["scale"], of_affine["scale"], rtol=1e-5, atol=2e-6)
    for leaf, value in after.get("batch_stats", {}).items():
        np.testing.assert_allclose(moved["batch_stats"][leaf], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape, size", [(SEQUENCE, 0), (CONV, 2)])
@pytest.mark.parametrize("loc", [0.0, 1e4, 1e6])
def test_mixture_in_groups_at_any_mean(loc, shape, size):
    x, norm = draw(shape, loc), layer("switchable", stats_batch=size)
    variables = start(norm, x)
    y, _, _ = outputs(norm, variables, x)
    groups = np.split(x, len(x) // (size or len(x)))
    parts = [by_paper("switchable", g, variables["params"]) for g in groups]
    np.testing.assert_allclose(y, np.concatenate(parts), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name, shape", [("switchable", DENSE)] + [(n, CONV) for n in BOTH])
def test_gradients_of_values_and_of_all_parameters(name, shape):
    x, norm = draw(shape, 2.0), layer(name)
    mask = np.random.default_rng(1).random(shape) < 0.8
    variables = start(norm, x)
    params = {k: v.astype(np.float64) for k, v in variables["params"].items()}
    if name == "batch_instance":
        variables["params"]["rho"] = params["rho"] = np.array([0.2, 0.5, 0.7, 0.9])
    y, (of_params, of_x), _ = outputs(norm, variables, x, mask)
    np.testing.assert_allclose(y, by_paper(name, x, params, mask), rtol=3e-6, atol=3e-6)
    g, h = draw(shape, seed=9).astype(np.float64), 1e-5

    def differences(f, at):
        units = h * np.eye(at.size).reshape(-1, *at.shape)
        return np.array([(f(at + u) - f(at - u)) / (2 * h) for u in units]).reshape(at.shape)

    exact = x.astype(np.float64)
    expected = differences(lambda x: (g * by_paper(name, x, params, mask)).sum(), exact)
    np.testing.assert_allclose(of_x, expected, rtol=1e-5, atol=3e-6)
    for leaf, at in params.items():
        expected = differences(
            lambda v, k=leaf: (g * by_paper(name, exact, {**params, k: v}, mask)).sum(), at
        )
        np.testing.assert_allclose(of_params[leaf], expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("name", BOTH)
def test_evaluation_mixes_the_running_statistics_with_its_own(name, shape):
    x, norm = draw(shape, 1e4), layer(name)
    variables = start(norm, x)
    if shape == DENSE and name == "batch_instance":
        assert set(variables["params"]) == {"scale", "bias"}
        variables["params"]["rho"] = np.ones(4)  # for the reference
    params = {k: v for k, v in variables["params"].items() if k != "rho" or shape == CONV}
    variables = {**variables, "params": params}
    y, _, moved = outputs(norm, variables, x)
    evaluated = norm.apply(variables | moved, x, train=False)
    np.testing.assert_allclose(evaluated, y, rtol=2e-6, atol=2e-6)
    stats = {"mean": jnp.full(4, 1e4 + 1), "mean_lo": jnp.full(4, 0.25), "var": jnp.full(4, 3.0)}
    y = norm.apply({**variables, "batch_stats": stats}, x, train=False)
    expected = by_paper(name, x, {"rho": 1.0, **params}, running=(1e4 + 1.25, 3.0))
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "loc, std, apart", [(0, 1, 0), (1e6, 1, 0), (1e6, 0.1, 3), (0, 0, 1e25), (0, 1e30, 0)]
)
def test_pooled_moments_are_those_of_all_values(loc, std, apart, masked, axis):
    """`apart`: the means of the parts differ by that much; their squares may overflow alone."""
    shape = (1, 5, 3, 2, 4)
    x = jnp.asarray(draw(shape, loc, std) + draw((1, 5, 1, 1, 4), 0, apart, seed=1))
    mask = np.random.default_rng(2).random(shape) < 0.6 if masked else np.ones(shape, bool)
    mask[:, 0] = mask[..., 0] = not masked  # parts without any value
    pooled = jax.jit(lambda x: pool(statistics(x, (2, 3), mask=mask), axis))(x)
    axes, groups = ((1, 2, 3), 0) if axis == 1 else ((2, 3), 1)
    whole = moments(x, axes, groups=groups, mask=mask)
    mean, direct = ((np.asarray(m.shift, np.float64) + m.delta) / m.shrink for m in (pooled, whole))
    spread = np.sqrt(np.asarray(whole.var, np.float64)) / whole.shrink
    assert np.isfinite(pooled.var).all()
    assert (np.abs(mean - direct) <= 1e-6 * spread).all()
    pooled_std = np.sqrt(np.asarray(pooled.var, np.float64)) / pooled.shrink
    np.testing.assert_allclose(pooled_std, np.broadcast_to(spread, pooled_std.shape), rtol=2e-6)
    np.testing.assert_array_equal(pooled.n, np.broadcast_to(whole.n, pooled.n.shape))


@pytest.mark.parametrize("power", [30, 70])
@pytest.mark.parametrize("shape", [DENSE, CONV])
def test_large_values_give_the_output_and_gradient_of_small_ones(shape, power):
    x, norm = draw(shape, 0, 2.0**20), layer("switchable")  # epsilon is nothing to it
    variables = start(norm, x)
    y, slopes, _ = outputs(norm, variables, x)
    large, of_large, _ = outputs(norm, variables, x * 2.0**power)
    np.testing.assert_allclose(large, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_large[1] * 2.0**power, slopes[1], rtol=1e-5, atol=1e-6)


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
    expected = by_paper(name, x, {"rho": 1.0, **variables["params"]})
    np.testing.assert_allclose(y, expected, rtol=5e-6, atol=5e-6)


def test_one_huge_example_leaves_the_others_finite():
    x, norm = draw(CONV), layer("switchable")
    x[1, ..., 2] *= 1e25
    variables = start(norm, x)
    y, slopes, moved = outputs(norm, variables, x)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, slopes, moved)))
    expected = by_paper("switchable", x, variables["params"])
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name, shape", [("switchable", DENSE)] + [(n, CONV) for n in BOTH])
def test_masked_values_reach_nothing_and_an_empty_batch_moves_nothing(name, shape):
    x, norm = draw(shape, 1e4), layer(name, stats_batch=2)
    variables = start(norm, x)
    mask = np.ones((*shape[:-1], 1), bool)
    mask[2:4] = mask[0, 1:] = False
    clean = outputs(norm, variables, x, mask)
    poisoned = outputs(norm, variables, np.where(mask, x, np.nan), mask)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(clean))
    poisoned = norm.apply(variables, np.where(mask, x, np.nan), train=False, mask=mask)
    np.testing.assert_array_equal(poisoned, norm.apply(variables, x, train=False, mask=mask))
    y, slopes, moved = outputs(norm, variables, np.full_like(x, np.nan), np.zeros_like(mask))
    assert not any(np.any(v) for v in jax.tree.leaves((y, slopes)))
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("name, shape", [("switchable", DENSE)] + [(n, CONV) for n in BOTH])
def test_an_axis_name_joins_the_parts_of_a_batch(name, shape):
    x, norm = draw((3, *shape), 1e4), layer(name, axis_name="parts")
    x[1] += 2
    variables = start(norm, x[0])

    def part(x):
        return norm.apply(variables, x, train=True, mutable=MUTABLE)

    y, moved = jax.jit(jax.vmap(part, axis_name="parts"))(x)
    whole, _, expected = outputs(layer(name), variables, x.reshape(-1, *shape[1:]))
    np.testing.assert_allclose(y.reshape(whole.shape), whole, rtol=1e-5, atol=1e-6)
    for leaf in ("mean", "var"):
        np.testing.assert_allclose(
            moved["batch_stats"][leaf][1], expected["batch_stats"][leaf], rtol=1e-6
        )


@pytest.mark.parametrize("name", BOTH)
def test_an_instance_of_one_value_is_refused(name):
    x = draw((4, 1, 1, 3))
    with pytest.raises(ValueError, match=r"norm_1: .*\(4, 1, 1, 3\).* 1 value, at least 2"):
        layer(name).init(jax.random.key(0), x, train=True)
    y, _ = layer(name, allow_degenerate=True).init_with_output(jax.random.key(0), x, train=True)
    assert np.isfinite(y).all()


def test_a_gate_of_1_is_batch_norm_and_of_0_instance_norm_also_beyond():
    x, norm = draw(CONV, 3.0), layer("batch_instance")
    assert (norm.init(jax.random.key(0), x)["params"]["rho"] == 1).all()
    for rho, beyond, other in ((1.0, 1.7, "batch"), (0.0, -0.4, "instance")):
        variables = start(norm, x, rho=jnp.full(4, rho))
        inside = outputs(norm, variables, x)
        outside = outputs(norm, start(norm, x, rho=jnp.full(4, beyond)), x)
        jax.tree.map(np.testing.assert_array_equal, outside, inside)
        assert np.all(inside[1][0]["rho"] != 0)
        affine = {k: variables["params"][k] for k in ("scale", "bias")}
        plain = layer(other)
        expected = outputs(plain, {**plain.init(jax.random.key(0), x), "params": affine}, x)
        np.testing.assert_allclose(inside[0], expected[0], rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(inside[1][1], expected[1][1], rtol=1e-5, atol=2e-6)


def test_dense_batch_instance_norm_is_batch_norm():
    x = draw(DENSE, 3.0)
    ours, batch = layer("batch_instance"), layer("batch")
    variables = start(ours, x)
    one, two = (outputs(norm, variables, x) for norm in (ours, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-6, 2e-6), one, two)
