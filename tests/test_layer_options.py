"""Options that every scheme shares, and factors and terms that a call brings with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import MUTABLE, draw, make

from normlab import norms
from normlab.norms.table import NORMS
from normlab.testing.layer import compiled

IMAGES = (4, 3, 2, 8)
MASK = np.random.default_rng(5).random(IMAGES) < 0.8
every = pytest.mark.parametrize("name", NORMS)


OUTER = [(8,), (4, 8), (1, 8), (4, 1, 1, 8), (4, 3, 2, 1)]
"""Shapes of factors and terms that a call may bring with it."""


def trained(layer: Any, x: Any, **more: Any) -> tuple[Any, Any]:
    """The output in training and the variables, both at the start."""
    variables = layer.init(jax.random.key(0), x, train=True)
    return layer.apply(variables, x, train=True, mutable=MUTABLE, **more)[0], variables


@every
def test_scale_and_bias_may_be_left_out_or_start_elsewhere(name):
    x, row = draw(IMAGES), NORMS[name]
    own = {"scale", "bias"} & set(row.parameters)
    off = {f"use_{leaf}": False for leaf in own}
    starts = {"scale": nn.initializers.zeros, "bias": nn.initializers.constant(2.0)}
    elsewhere: dict[str, Any] = {f"{leaf}_init": starts[leaf] for leaf in own}
    elsewhere |= {"param_dtype": jnp.bfloat16} if row.parameters else {}

    @compiled
    def run(x):
        return [trained(make(name, **options), x) for options in ({}, off, elsewhere)]

    (plain, _), (bare, variables), (moved, others) = run(x)
    assert not own & set(variables.get("params", {}))
    np.testing.assert_allclose(bare, plain, rtol=1e-6, atol=1e-6)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(others.get("params", {}))}
    assert kinds == ({jnp.dtype("bfloat16")} if row.parameters else set())
    assert moved.dtype == jnp.float32
    if "scale" in own:
        np.testing.assert_array_equal(moved, np.full(IMAGES, 2.0 if "bias" in own else 0.0))
    else:
        with pytest.raises(ValueError, match="takes no option 'scale_init'"):
            make(name, scale_init=nn.initializers.zeros)


@pytest.mark.parametrize("name", ["batch", "group", "switchable"])
def test_channels_may_be_another_axis(name):
    x, outer = draw(IMAGES), draw((4, 8), seed=2)

    @compiled
    def run(x):
        out = []
        for axis in (-1, 1, -2):
            mask, given = (jnp.moveaxis(v, -1, axis) for v in (MASK, x))
            out.append(trained(make(name, axis=axis), given, mask=mask, scale=outer))
        return out

    (right, variables), *others = run(x)
    for axis, (y, found) in zip((1, -2), others, strict=True):
        np.testing.assert_allclose(np.moveaxis(y, axis, -1), right, atol=1e-6)
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("name", ["batch", "group", "none"])
def test_factors_and_terms_of_the_call_come_after_the_layer(name):
    x, given = draw(IMAGES), [(draw(shape, seed=1), draw(shape, seed=2)) for shape in OUTER]

    @compiled
    def run(x):
        layer, half = make(name), make(name, dtype=jnp.bfloat16)
        plain = trained(layer, x, mask=MASK)[0], trained(half, x, mask=MASK)
        return plain, [trained(layer, x, mask=MASK, scale=a, bias=b)[0] for a, b in given]

    (plain, (half, variables)), found = run(x)
    np.testing.assert_array_equal(half, plain.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype("float32")}
    for pair, y in zip(given, found, strict=True):
        scale, bias = (v.reshape(-1, 1, 1, 8) if v.ndim <= 2 else v for v in pair)
        right = np.where(MASK, np.asarray(plain, np.float64) * scale + bias, 0)
        np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)


def test_the_activation_of_a_scheme_has_the_same_axis():
    act = norms.build("frn", axis=1).act(name="act_1")
    x = draw((2, 8, 3, 3))
    y = act.apply({"params": {"tau": np.arange(8.0, dtype=np.float32)}}, x)
    np.testing.assert_array_equal(y, np.maximum(x, np.arange(8).reshape(1, 8, 1, 1)))


@pytest.mark.parametrize("axis", [0, 4, -4, -5])
def test_an_axis_that_holds_no_channels_is_refused(axis):
    with pytest.raises(ValueError, match=rf"norm_1: axis {axis} is no axis of channels"):
        trained(make("batch", axis=axis), draw(IMAGES))


@pytest.mark.parametrize("shape", [(4,), (3, 8), (8, 4), (3, 2, 8), (5, 1, 1, 8)])
def test_factors_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"norm_1: a scale or bias of shape .* does not fit"):
        trained(make("layer"), draw(IMAGES), scale=np.ones(shape, np.float32))


def test_adaptive_layer_norm_is_as_in_flax():
    """y = h * (1 + s) + b with s, b of each example: h from Flax, in float64."""
    x, s, b = draw((4, 6, 8), loc=3.0), draw((4, 8), seed=1), draw((4, 8), seed=2)
    layer = make("layer_channels", use_scale=False, use_bias=False)
    y, variables = trained(layer, x, scale=1 + s, bias=b)
    assert not variables.get("params")
    wide = x.astype(np.float64)
    h = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(y, h * (1 + s[:, None]) + b[:, None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8), (4, 6, 8), IMAGES])
def test_a_parameter_for_each_value_is_as_in_flax(shape):
    axes = tuple(range(1, len(shape)))
    theirs = nn.LayerNorm(
        epsilon=1e-3, reduction_axes=axes, feature_axes=axes, use_fast_variance=False
    )
    x, cotangent = draw(shape), draw(shape, seed=1)
    params = {"scale": draw(shape[1:], seed=2), "bias": draw(shape[1:], seed=3)}
    ours = make("layer", per_element=True)
    shapes = jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)["params"])
    assert shapes == jax.tree.map(jnp.shape, params)

    def slopes(layer):
        def total(params, x):
            return jnp.vdot(cotangent, layer.apply({"params": params}, x))

        return jax.jit(jax.value_and_grad(total, (0, 1)))(params, x)

    for one, two in zip(
        jax.tree.leaves(slopes(ours)), jax.tree.leaves(slopes(theirs)), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def split(x: np.ndarray, parts: int, axis: int) -> np.ndarray:
    return np.stack(np.split(x, parts, axis))


@pytest.mark.parametrize(
    ("name", "options", "parts", "spread"),
    [
        ("layer", {}, 4, 1e25),
        ("layer_channels", {}, 2, 1),
        ("rms", {}, 4, 1),
        ("group", {"groups": 4}, 2, 1),  # whole groups in each part
        ("group", {"groups": 2}, 4, 1e25),  # a group goes over two parts
    ],
)
def test_statistics_of_channels_that_are_split_along_an_axis(name, options, parts, spread):
    x, cotangent = draw(IMAGES, loc=2.0, std=spread), draw(IMAGES, seed=1)
    whole, part = (make(name, **options, **more) for more in ({}, {"channels_along": "parts"}))
    params = {leaf: draw((8,), seed=5) for leaf in NORMS[name].parameters}

    def step(layer, params, x, cotangent):
        y, back = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
        return y, back(cotangent)

    right = compiled(lambda *given: step(whole, *given))(params, x, cotangent)
    pieces = [split(v, parts, 3) for v in (x, cotangent)]
    of_parts = {leaf: split(value, parts, 0) for leaf, value in params.items()}
    mapped = compiled(jax.vmap(lambda p, x, c: step(part, p, x, c), axis_name="parts"))
    y, (dp, dx) = mapped(of_parts, *pieces)
    found = (
        np.concatenate(y, -1),
        ({leaf: np.concatenate(value) for leaf, value in dp.items()}, np.concatenate(dx, -1)),
    )
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        size = np.abs(two).max()
        np.testing.assert_allclose(one / size, two / size, atol=2e-6)
    part.init(jax.random.key(0), pieces[0][0])  # outside of the axis


def test_groups_that_do_not_fit_the_parts_are_refused():
    layer = make("group", groups=3, channels_along="parts")
    variables = make("group", groups=3).init(jax.random.key(0), draw((4, 6)))
    with pytest.raises(ValueError, match="3 groups and 2 parts of the channels"):
        jax.vmap(lambda x: layer.apply(variables, x), axis_name="parts")(draw((2, 4, 6)))


RUNNING = [name for name, row in NORMS.items() if "axis_index_groups" in row.arguments]


@pytest.mark.parametrize("name", RUNNING)
def test_statistics_within_groups_of_an_axis(name):
    """Calls 0 and 2 share statistics, and so do 1 and 3; one group overflows on the way."""
    x = draw((4, *IMAGES)) * np.array([1, 1e25, 1, 1e25], np.float32).reshape(-1, 1, 1, 1, 1)
    layer = make(name, axis_name="calls", axis_index_groups=((0, 2), (1, 3)))
    whole = make(name)
    variables = whole.init(jax.random.key(0), x[0])

    def step(layer, x):
        return layer.apply(variables, x, train=True, mutable=MUTABLE)

    y, state = compiled(jax.vmap(lambda x: step(layer, x), axis_name="calls"))(x)
    for group in ([0, 2], [1, 3]):
        right, moved = compiled(lambda x: step(whole, x))(np.concatenate(x[group]))
        size = np.abs(right).max()
        np.testing.assert_allclose(
            np.concatenate(y[np.array(group)]) / size, right / size, atol=1e-5
        )
        stats = moved["batch_stats"]
        for leaf in set(stats) - {"mean_lo"}:
            size = np.abs(stats[leaf]).max()
            shared = state["batch_stats"][leaf][np.array(group)]
            np.testing.assert_allclose(shared / size, [stats[leaf] / size] * 2, atol=5e-6)


@pytest.mark.parametrize("groups", [((0, 1), (2,)), ((0, 1), (1, 2)), ((1, 2), (3, 4))])
def test_groups_that_share_or_leave_out_an_index_are_refused(groups):
    layer = make("batch", axis_name="calls", axis_index_groups=groups)
    variables = make("batch").init(jax.random.key(0), draw(IMAGES))
    with pytest.raises(ValueError, match="norm_1: axis_index_groups .* are no groups of one size"):
        jax.vmap(
            lambda x: layer.apply(variables, x, train=True, mutable=MUTABLE), axis_name="calls"
        )(draw((4, *IMAGES)))
