"""Batch renormalization: its equation, its schedule, and where it is batch norm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained_layers import MUTABLE, draw, outputs

from normlab.models.build import build_model
from normlab.norms import BatchNorm, BatchRenorm, build
from normlab.settings import defaults
from normlab.training.evaluate import reestimate

EPSILON = 1e-3
DENSE, CONV = (6, 4), (4, 3, 2, 4)
OPEN = {"renorm_steps": 0, "r_max": 1e30, "d_max": 1e30}


def layer(**options) -> Any:
    return BatchRenorm(name="norm_1", **{"epsilon": EPSILON, **options})


def start(norm, x, mean=0.0, var=1.0, count=0) -> dict[str, Any]:
    """Variables with scale and bias away from 1 and 0, and these running statistics."""
    variables = norm.clone(axis_name=None).init(jax.random.key(0), jnp.asarray(x), train=True)
    channels = x.shape[-1]
    stats = {"mean": jnp.full(channels, mean), "mean_lo": jnp.zeros(channels)}
    return {
        "params": {"scale": draw(channels, 1, seed=3), "bias": draw(channels, seed=4)},
        "batch_stats": {**stats, "var": jnp.full(channels, var)},
        "norm_state": jax.tree.map(lambda _: jnp.int32(count), variables.get("norm_state", {})),
    }


def corrections(x, mean, var, r_max, d_max, size=0):
    """r and d of each group of `size` examples, from the paper, in float64; and x_hat."""
    x = x.astype(np.float64).reshape(-1, size or len(x), *x.shape[1:])
    axes = tuple(range(1, x.ndim - 1))
    batch_mean = x.mean(axes, keepdims=True)
    batch_std = np.sqrt(EPSILON + ((x - batch_mean) ** 2).mean(axes, keepdims=True))
    std = np.sqrt(EPSILON + var)
    r = np.clip(batch_std / std, 1 / r_max, r_max)
    d = np.clip((batch_mean - mean) / std, -d_max, d_max)
    return r, d, (x - batch_mean) / batch_std


@pytest.mark.parametrize("options", [{}, {"renorm_steps": 0, "r_max": 1.0, "d_max": 0.0}])
@pytest.mark.parametrize("shape", [DENSE, CONV])
@pytest.mark.parametrize("size", [0, 2])
def test_without_room_it_is_batch_norm(shape, size, options):
    """At the start of the schedule, and for r_max = 1, d_max = 0, wherever the statistics stand."""
    x, mask = draw(shape, 3), np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) != 1
    norm, batch = layer(stats_batch=size, **options), BatchNorm(epsilon=EPSILON, stats_batch=size)
    y, slopes, moved = outputs(norm, start(norm, x, -2.0, 5.0), x, mask)
    expected, of_batch, after = outputs(batch, start(batch, x, -2.0, 5.0), x, mask)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-6, 2e-6), slopes, of_batch)
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], after["batch_stats"])


@pytest.mark.parametrize("mean, var", [(0.0, 1.0), (0.5, 0.7), (1e6, 0.01), (1e6 - 2, 400.0)])
@pytest.mark.parametrize("shape, size", [(DENSE, 0), (CONV, 2)])
def test_equation_of_the_paper_with_gradients_that_leave_r_and_d_alone(shape, size, mean, var):
    limits = {"r_max": 1.5, "d_max": 0.4}
    x, norm = draw(shape, mean), layer(renorm_steps=0, stats_batch=size, **limits)
    variables = start(norm, x, mean, var)
    y, (of_params, of_x), _ = outputs(norm, variables, x)
    params = {k: v.astype(np.float64) for k, v in variables["params"].items()}
    r, d, hat = corrections(x, mean, var, size=size, **limits)
    expected = ((hat * r + d) * params["scale"] + params["bias"]).reshape(shape)
    np.testing.assert_allclose(y, expected, rtol=3e-6, atol=3e-6)
    cotangent = draw(shape, seed=9).astype(np.float64)
    summed = (cotangent.reshape(hat.shape) * (hat * r + d)).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_allclose(of_params["scale"], summed, rtol=1e-5, atol=1e-5)

    def value(x):  # mean 1e6 in float64 is no problem, differences of x there are
        hat = corrections(x, 0, 1, 1, 0, size)[2]
        return (cotangent * (hat * r * params["scale"]).reshape(shape)).sum()

    near = x.astype(np.float64) - mean
    units = 1e-5 * np.eye(x.size).reshape(-1, *shape)
    differences = [(value(near + u) - value(near - u)) / 2e-5 for u in units]
    np.testing.assert_allclose(of_x, np.reshape(differences, shape), rtol=1e-4, atol=2e-6)


def test_between_the_limits_training_gives_what_evaluation_gives():
    x, norm = draw(CONV, 1e6), layer(**OPEN)
    variables = start(norm, x, 1e6 + 1, 4.0)
    y, _, _ = outputs(norm, variables, x)
    np.testing.assert_allclose(y, norm.apply(variables, x, train=False), rtol=1e-5, atol=1e-5)
    batch = BatchNorm(epsilon=EPSILON)
    np.testing.assert_array_equal(
        norm.apply(variables, x, train=False), batch.apply(variables, x, train=False)
    )


@pytest.mark.parametrize(
    "count, r_max, d_max",
    [(0, 1, 0), (5000, 1, 0), (15000, 1 + 2 * 2 / 7, 2.5), (25000, 1 + 2 * 4 / 7, 5)]
    + [(40000, 3, 5), (10**6, 3, 5)],
)
def test_schedule_is_that_of_the_paper(count, r_max, d_max):
    x, norm = draw(DENSE), layer(renorm_steps=40000)
    limits = norm.apply(start(norm, x, count=count), method="limits")
    np.testing.assert_allclose(limits, (r_max, d_max), rtol=1e-6, atol=1e-6)
    far = 100 + 100 * x  # both corrections stand at their limits
    y, _, _ = outputs(norm, start(norm, x, count=count), far)
    r, d, hat = corrections(far, 0, 1, r_max, d_max)
    params = start(norm, x)["params"]
    expected = ((hat * r + d) * params["scale"] + params["bias"]).reshape(y.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("average", ["moving", "debiased", "cumulative"])
def test_every_update_is_counted_once(average):
    x, norm = draw(DENSE), layer(average=average)
    variables = dict(norm.init(jax.random.key(0), x, train=True))
    assert variables["norm_state"]["count"] == 0
    for step in range(1, 4):
        _, moved = norm.apply(variables, x, train=True, mutable=MUTABLE)
        variables |= moved
        assert variables["norm_state"]["count"] == step
    frozen = layer(average=average, use_running=True, update_running=False)
    for other, train in ((norm, False), (frozen, True)):
        _, moved = other.apply(variables, x, train=train, mutable=MUTABLE)
        assert moved["norm_state"]["count"] == 3
    with pytest.raises(ValueError, match="norm_1: counts its updates .* pass mutable="):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])
    assert norm.init(jax.random.key(0), x, train=False)["norm_state"]["count"] == 0
    assert "norm_state" not in BatchNorm().init(jax.random.key(0), x, train=True)


def test_reestimated_statistics_are_those_of_the_batch_and_evaluate_to_its_output():
    x = draw((32, 6), 2.0, 3.0)
    config = defaults() | {"norm.name": "batch_renorm", "norm.average": "debiased"}
    config |= {"norm.renorm_steps": 0, "model.widths": (5, 4), "norm.epsilon": EPSILON}
    last = {"momentum": 0.0, "average": "moving", "stats_batch": 0, "noise": 0.0}
    net = build_model(config, 3, "lax")
    whole = build_model(config, 3, "lax", **last, r_max=1.0, d_max=0.0)
    variables: Any = net.init(jax.random.key(0), x, train=True)
    variables |= net.apply(variables, x + 1, train=True, mutable=MUTABLE)[1]
    data = SimpleNamespace(gather=lambda rows: x[rows])
    state: Any = SimpleNamespace(variables=variables)
    stats = reestimate(whole, state, data, jnp.arange(len(x)))
    assert jax.tree.leaves(variables["norm_state"]) == [1, 1]
    logits, _ = whole.apply(variables, x, train=True, mutable=MUTABLE)
    evaluated: Any = net.apply({**variables, "batch_stats": stats}, x, train=False)
    np.testing.assert_allclose(evaluated, logits, rtol=1e-5, atol=1e-5)
    first, kernel = stats["norm_1"], variables["params"]["dense_1"]["kernel"]
    hidden = x.astype(np.float64) @ np.asarray(kernel, np.float64)
    mean = np.asarray(first["mean"], np.float64) + np.asarray(first["mean_lo"])
    np.testing.assert_allclose(mean, hidden.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first["var"], hidden.var(0), rtol=1e-5)


@pytest.mark.parametrize("shape, mean, var", [(DENSE, 0.0, 1.0), (CONV, -1e38, 3.4e38)])
@pytest.mark.parametrize("std", [1e20, 1e30, 0.0])
def test_values_whose_squares_overflow(shape, mean, var, std):
    x = draw(shape, 0, std) if std else np.random.default_rng(0).uniform(-3e38, 3e38, shape)
    x, norm = x.astype(np.float32), layer(renorm_steps=0)
    y, slopes, moved = outputs(norm, start(norm, x, mean, var), x)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, slopes, moved)))
    params = start(norm, x)["params"]
    hat = (np.asarray(y, np.float64) - params["bias"]) / params["scale"]
    assert 0.1 < np.abs(hat).max() < 30


def test_masked_values_reach_nothing_and_an_empty_batch_moves_nothing():
    x, norm = draw(CONV, 2), layer(renorm_steps=0, stats_batch=2)
    variables = start(norm, x, 1.0, 2.0)
    mask = np.ones((*CONV[:-1], 1), bool)
    mask[2:] = mask[0, 1:] = False
    poisoned = outputs(norm, variables, np.where(mask, x, np.nan), mask)
    clean = outputs(norm, variables, x, mask)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(clean))
    y, slopes, moved = outputs(norm, variables, np.full_like(x, np.nan), np.zeros_like(mask))
    assert not any(np.any(v) for v in jax.tree.leaves((y, slopes)))
    jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


def test_an_axis_name_joins_the_parts_of_a_batch():
    x, norm = draw((4, 3, 5), 2), layer(renorm_steps=0, axis_name="parts")
    variables = start(norm, x[0], 1.0, 2.0)

    def part(x):
        return norm.apply(variables, x, train=True, mutable=MUTABLE)[0]

    y = jax.jit(jax.vmap(part, axis_name="parts"))(x)
    whole, _, _ = outputs(layer(renorm_steps=0), variables, x.reshape(12, 5))
    np.testing.assert_allclose(y.reshape(12, 5), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [({"r_max": 0.5}, "r_max 0.5 is below 1"), ({"d_max": -1.0}, "d_max -1.0 is below 0")]
    + [({"renorm_steps": -1}, "renorm_steps -1 is below 0")],
)
def test_limits_without_meaning_are_refused(options, message):
    norm = build("batch_renorm", **options).norm(name="norm_1")
    with pytest.raises(ValueError, match=f"norm_1: {message}"):
        norm.init(jax.random.key(0), draw(DENSE), train=True)
