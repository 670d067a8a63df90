"""What single schemes promise beyond their equation, which test_norms_equations.py checks."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Input, differences, local_response
from trained_layers import (
    CONV,
    DENSE,
    EPSILON,
    MUTABLE,
    draw,
    first,
    make,
    outputs,
    relative_error,
    start,
)

from normlab.models.build import build_model
from normlab.norms import LocalResponseNorm, build
from normlab.norms.switchable import pool, statistics
from normlab.settings import defaults
from normlab.statistics.moments import moments
from normlab.training.evaluate import reestimate

LARGEST = float(np.finfo(np.float32).max)


def renorm_start(norm: Any, x: Any, mean=0.0, var=1.0, count=0) -> dict[str, Any]:
    """Variables with these running statistics, after `count` updates."""
    stats = {"mean": jnp.full(4, mean), "mean_lo": jnp.zeros(4), "var": jnp.full(4, var)}
    state = {"batch_stats": stats, "norm_state": {"count": jnp.int32(count)}}
    return start(norm, x) | state


def corrections(x: Any, mean, var, r_max, d_max, size=0) -> tuple[Any, Any, Any]:
    """r, d and x_hat of each group of `size` examples, from the paper, in float64."""
    x = x.astype(np.float64).reshape(-1, size or len(x), *x.shape[1:])
    axes = tuple(range(1, x.ndim - 1))
    batch_mean = x.mean(axes, keepdims=True)
    batch_std = np.sqrt(EPSILON + ((x - batch_mean) ** 2).mean(axes, keepdims=True))
    std = np.sqrt(EPSILON + var)
    r = np.clip(batch_std / std, 1 / r_max, r_max)
    d = np.clip((batch_mean - mean) / std, -d_max, d_max)
    return r, d, (x - batch_mean) / batch_std


@pytest.mark.parametrize("mean, var", [(0.5, 0.7), (1e6, 0.01), (1e6 - 2, 400.0)])
@pytest.mark.parametrize(
    "shape, size, limits", [(DENSE, 0, (1.5, 0.4)), (CONV, 2, (1.5, 0.4)), (CONV, 0, (1.0, 0.0))]
)
def test_renorm_is_the_papers_with_gradients_that_leave_r_and_d_alone(
    shape, size, limits, mean, var
):
    r_max, d_max = limits
    options = {"renorm_steps": 0, "stats_batch": size, "r_max": r_max, "d_max": d_max}
    x, norm = draw(shape, mean), make("batch_renorm", **options)
    variables = renorm_start(norm, x, mean, var)
    y, (of_params, of_x), _ = outputs(norm, variables, x)
    params = {k: v.astype(np.float64) for k, v in variables["params"].items()}
    r, d, hat = corrections(x, mean, var, r_max, d_max, size)
    expected = ((hat * r + d) * params["scale"] + params["bias"]).reshape(shape)
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=3e-6)
    cotangent = draw(shape, seed=9).astype(np.float64)
    summed = (cotangent.reshape(hat.shape) * (hat * r + d)).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_allclose(of_params["scale"], summed, rtol=1e-5, atol=1e-5)

    def value(x):  # about 0: at 1e6 differences of x are rounded
        hat = corrections(x, 0, 1, 1, 0, size)[2]
        return (cotangent * (hat * r * params["scale"]).reshape(shape)).sum()

    by_x = differences(value, x.astype(np.float64) - mean)
    np.testing.assert_allclose(of_x, by_x, rtol=1e-4, atol=2e-6)


def test_renorm_between_its_limits_gives_in_training_what_evaluation_gives():
    x, norm = draw(CONV, 1e6), make("batch_renorm", renorm_steps=0, r_max=1e30, d_max=1e30)
    variables = renorm_start(norm, x, 1e6 + 1, 4.0)
    variables["batch_stats"]["mean_lo"] = jnp.full(4, 0.03)
    y, _, _ = outputs(norm, variables, x)
    np.testing.assert_allclose(y, norm.apply(variables, x, train=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "count, r_max, d_max",
    [(0, 1, 0), (5000, 1, 0), (15000, 1 + 2 * 2 / 7, 2.5), (25000, 1 + 2 * 4 / 7, 5)]
    + [(40000, 3, 5), (10**6, 3, 5)],
)
def test_renorm_opens_its_limits_as_the_paper_does(count, r_max, d_max):
    x, norm = draw(DENSE), make("batch_renorm", renorm_steps=40000)
    variables = renorm_start(norm, x, count=count)
    limits = norm.apply(variables, method="limits")
    np.testing.assert_allclose(limits, (r_max, d_max), rtol=1e-6, atol=1e-6)
    far = 100 + 100 * x  # r and d are at their limits
    y, _, _ = outputs(norm, variables, far)
    r, d, hat = corrections(far, 0, 1, r_max, d_max)
    params = variables["params"]
    expected = ((hat * r + d) * params["scale"] + params["bias"]).reshape(y.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("average", ["moving", "debiased", "cumulative"])
def test_every_update_is_counted_once(average):
    x, norm = draw(DENSE), make("batch_renorm", average=average)
    variables = dict(norm.init(jax.random.key(0), x, train=True))
    assert variables["norm_state"]["count"] == 0
    for step in range(1, 4):
        _, moved = norm.apply(variables, x, train=True, mutable=MUTABLE)
        variables |= moved
        assert variables["norm_state"]["count"] == step
    frozen = make("batch_renorm", average=average, use_running=True, update_running=False)
    for other, train in ((norm, False), (frozen, True)):
        _, moved = other.apply(variables, x, train=train, mutable=MUTABLE)
        assert moved["norm_state"]["count"] == 3
    with pytest.raises(ValueError, match="norm_1: counts its updates .* pass mutable="):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])
    assert norm.init(jax.random.key(0), x, train=False)["norm_state"]["count"] == 0
    assert "norm_state" not in make("batch").init(jax.random.key(0), x, train=True)


def test_reestimated_statistics_are_those_of_the_batch_and_evaluate_to_its_output():
    x = draw((32, 6), 2.0, 3.0)
    config = defaults() | {"norm.name": "batch_renorm", "norm.average": "debiased"}
    config |= {"norm.renorm_steps": 0, "model.widths": (5, 4), "norm.epsilon": EPSILON}
    last = {"momentum": 0.0, "average": "moving", "stats_batch": 0, "noise": 0.0}
    net = build_model(config, 3, "lax")
    whole = build_model(config, 3, "lax", **last, r_max=1.0, d_max=0.0)

    @jax.jit
    def run(x):
        variables: Any = net.init(jax.random.key(0), x, train=True)
        variables |= net.apply(variables, x + 1, train=True, mutable=MUTABLE)[1]
        data, state = SimpleNamespace(gather=lambda rows: x[rows]), SimpleNamespace()
        state.variables = variables
        stats = reestimate(whole, cast(Any, state), data, jnp.arange(len(x)))
        logits, _ = whole.apply(variables, x, train=True, mutable=MUTABLE)
        evaluated = net.apply({**variables, "batch_stats": stats}, x, train=False)
        return variables, stats, logits, evaluated

    variables, stats, logits, evaluated = run(x)
    assert jax.tree.leaves(variables["norm_state"]) == [1, 1]
    np.testing.assert_allclose(evaluated, logits, rtol=1e-5, atol=1e-5)
    hidden = Input(x.astype(np.float64) @ np.float64(variables["params"]["dense_1"]["kernel"]))
    mean, var = (v.reshape(-1) for v in hidden.moments("NS"))
    first = stats["norm_1"]
    np.testing.assert_allclose(np.float64(first["mean"]) + first["mean_lo"], mean, atol=1e-5)
    np.testing.assert_allclose(first["var"], var, rtol=1e-5)


@pytest.mark.parametrize("mean, var", [(0.0, 1.0), (-1e38, 3.4e38)])
@pytest.mark.parametrize("std", [1e20, 1e30, 1e38])
def test_renorm_of_values_whose_squares_overflow(std, mean, var):
    x, norm = np.clip(draw(CONV, 0, std), -3e38, 3e38), make("batch_renorm", renorm_steps=0)
    variables = renorm_start(norm, x, mean, var)
    y, slopes, moved = outputs(norm, variables, x)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, slopes, moved)))
    params = variables["params"]
    hat = (np.asarray(y, np.float64) - params["bias"]) / params["scale"]
    assert 0.1 < np.abs(hat).max() < 30


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("batch_renorm", {"r_max": 0.5}, "r_max 0.5 is below 1"),
        ("batch_renorm", {"d_max": -1.0}, "d_max -1.0 is below 0"),
        ("batch_renorm", {"renorm_steps": -1}, "renorm_steps -1 is below 0"),
        ("local_response", {"size": 0}, "size 0 and k 1.0 must be above 0"),
        ("local_response", {"k": 0.0}, "size 5 and k 0.0 must be above 0"),
        ("batch", {"average": "mean"}, "average 'mean' is not one of moving, debiased, cumu"),
        ("batch", {"running_var": "no"}, "running_var 'no' is not one of biased, unbiased"),
    ],
)
def test_options_without_meaning_are_refused(name, options, message):
    norm = build(name, **options).norm(name="norm_1")
    with pytest.raises(ValueError, match=f"norm_1: {message}"):
        norm.init(jax.random.key(0), draw(DENSE), train=True)


@functools.cache
def pooled_and_direct(axis: int) -> Any:
    """Compiled (x, mask) -> moments pooled over `axis`, and those of all values at once."""
    axes, groups = ((1, 2, 3), 0) if axis == 1 else ((2, 3), 1)

    def run(x, mask):
        parts = statistics(x, (2, 3), mask=mask)
        return pool(parts, axis), moments(x, axes, groups=groups, mask=mask)

    return jax.jit(run)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "loc, std, apart", [(0, 1, 0), (1e6, 1, 0), (1e6, 0.1, 3), (0, 0, 1e25), (0, 1e30, 0)]
)
def test_pooled_moments_are_those_of_all_values(loc, std, apart, masked, axis):
    """`apart`: the means of the parts differ by that much; their squares may overflow alone."""
    shape = (1, 5, 3, 2, 4)
    x = draw(shape, loc, std) + draw((1, 5, 1, 1, 4), 0, apart, seed=1)
    mask = np.random.default_rng(2).random(shape) < 0.6 if masked else np.ones(shape, bool)
    mask[:, 0] = mask[..., 0] = not masked  # parts without any value
    pooled, whole = pooled_and_direct(axis)(x, mask)
    mean, direct = ((np.asarray(m.shift, np.float64) + m.delta) / m.shrink for m in (pooled, whole))
    spread = np.sqrt(np.asarray(whole.var, np.float64)) / whole.shrink
    assert np.isfinite(pooled.var).all()
    assert (np.abs(mean - direct) <= 1e-6 * spread).all()
    pooled_std = np.sqrt(np.asarray(pooled.var, np.float64)) / pooled.shrink
    np.testing.assert_allclose(pooled_std, np.broadcast_to(spread, pooled_std.shape), rtol=2e-6)
    np.testing.assert_array_equal(pooled.n, np.broadcast_to(whole.n, pooled.n.shape))


def test_a_gate_beyond_0_or_1_is_the_nearest_and_its_gradient_brings_it_back():
    x, norm = draw(CONV, 3.0), make("batch_instance")
    for rho, beyond in ((1.0, 1.7), (0.0, -0.4)):
        inside = outputs(norm, start(norm, x, rho=jnp.full(4, rho)), x)
        outside = outputs(norm, start(norm, x, rho=jnp.full(4, beyond)), x)
        jax.tree.map(np.testing.assert_array_equal, outside, inside)
        assert np.all(inside[1][0]["rho"] != 0)


@pytest.mark.parametrize("name", ["switchable", "batch_instance"])
def test_an_instance_of_one_value_is_refused(name):
    x = draw((4, 1, 1, 3))
    with pytest.raises(ValueError, match=r"norm_1: .*\(4, 1, 1, 3\).* 1 value, at least 2"):
        make(name).init(jax.random.key(0), x, train=True)
    assert np.isfinite(first(make(name, allow_degenerate=True), x)).all()


def test_l1_scale_whose_square_overflows_where_the_variance_does_not():
    x, norm = np.array([[1.7e19], [-1.7e19]] * 3, np.float32), make("l1_batch")
    variables = start(norm, x, scale=jnp.ones(1), bias=jnp.zeros(1))
    y, _, moved = outputs(norm, variables, x)
    np.testing.assert_allclose(np.abs(y), np.sqrt(2 / np.pi), rtol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], LARGEST, rtol=1e-6)


def test_mean_only_output_that_a_dtype_cannot_hold_is_its_largest_number():
    x = jnp.asarray([[60000.0], [-60000.0], [-60000.0], [-60000.0]], jnp.float16)
    norm = make("mean_only_batch")
    y, variables = norm.init_with_output(jax.random.key(0), x, train=True)
    assert y.dtype == jnp.float16
    assert y[0, 0] == jnp.finfo(jnp.float16).max and (y[1:] == -30000).all()
    far = {"mean": jnp.full(1, -6e4), "mean_lo": jnp.zeros(1)}
    y = norm.apply({**variables, "batch_stats": far}, x, train=False)
    assert y[0, 0] == jnp.finfo(jnp.float16).max


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_threshold_of_frn_is_a_bias_before_and_after_a_relu(dtype):
    x, tau = jnp.asarray(draw(CONV)).astype(dtype), draw((4,), seed=3).astype(dtype)
    act = build("frn").act(name="act_1")

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


@pytest.mark.parametrize("factor", [1, 2e38])
def test_global_response_starts_as_the_identity(factor):
    """Also of values so large that the response itself would overflow."""
    x = np.clip(draw(CONV).astype(np.float64) * factor, -3.3e38, 3.3e38).astype(np.float32)
    np.testing.assert_array_equal(first(make("global_response"), x), x)


def test_global_response_of_dead_channels_has_derivatives():
    """Second ones too: a root at 0 has none, which made every one NaN."""
    norm, x = make("global_response"), draw(CONV)
    x[0], x[..., 2] = 0, 0
    variables = start(norm, x)

    def value(x):
        y: Any = norm.apply(variables, x)
        return jnp.sum(y**2)

    slopes = jax.jit(lambda x, t: jax.jvp(jax.grad(value), (x,), (t,)))(x, np.ones_like(x))
    assert all(np.isfinite(v).all() for v in slopes)


LOCAL: list[dict[str, Any]] = [
    {},
    {"size": 1},
    {"size": 4, "alpha": 1.0, "beta": 0.5},
    {"size": 9, "alpha": 2.0, "beta": 1.0, "k": 2.0},
]


@pytest.mark.parametrize("options", LOCAL)
def test_local_response_is_that_of_the_equation(options):
    norm, x = make("local_response", **options), draw((2, 2, 3, 7), std=3)
    y, (_, of_x), _ = outputs(norm, {}, x)
    assert relative_error(y, local_response(Input(x), **options)) < 1e-6
    g = draw(x.shape, seed=9).astype(np.float64)
    by_x = differences(lambda x: float((g * local_response(Input(x), **options)).sum()), x)
    np.testing.assert_allclose(of_x, by_x, rtol=1e-5, atol=1e-5)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("options", LOCAL)
def test_local_response_is_that_of_torch(options):
    torch = pytest.importorskip("torch")
    x = draw((2, 3, 3, 7), std=3)
    ours: Any = LocalResponseNorm(**options).apply({}, x)
    theirs = torch.nn.LocalResponseNorm(**{"size": 5} | options)
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(ours, expected.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [1e4, 1e15, 1e18, 1e20, 1e30, 5e37])
def test_local_response_of_large_values(factor):
    """Far from k it is x / (alpha / n * sum)^beta, also next to channels of any other size; the
    part of the gradient that comes from the squares is as large as the other."""
    norm, x = make("local_response", alpha=1.0), draw((2, 3, 9), 2.0)
    large = np.clip(x * factor, -3.3e38, 3.3e38).astype(np.float32)
    y, (_, of_x), _ = outputs(norm, {}, large)
    expected = local_response(Input(large), alpha=1.0)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-38)
    g = draw(x.shape, seed=9).astype(np.float64)
    limit = functools.partial(local_response, alpha=1.0, k=0.0)
    if 1e4 < factor < 1e21:
        by_x = differences(lambda x: float((g * limit(Input(x))).sum()), x)
        np.testing.assert_allclose(of_x * factor**1.5, by_x, rtol=1e-4, atol=1e-5)
    large[0, 0, :6] = draw((6,))
    y, (_, of_x), _ = outputs(norm, {}, large)
    np.testing.assert_allclose(y, local_response(Input(large), alpha=1.0), rtol=2e-6, atol=1e-38)
    assert np.isfinite(of_x).all() and (of_x != 0).any()
