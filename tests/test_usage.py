"""Ways in which people use a layer: every scheme works there, or refuses with the way out."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import MUTABLE, draw, make

from normlab import norms
from normlab.layers.table import KERNELS
from normlab.norms.table import NORMS
from normlab.statistics.moments import fit_mask

IMAGES, VECTORS = (8, 4, 2, 8), (16, 8)
RUNNING = [name for name, row in NORMS.items() if row.running_statistics]
ALONG = [name for name in RUNNING if "axis_name" in NORMS[name].arguments]
every = pytest.mark.parametrize("name", NORMS)


def inputs(name: str) -> list[np.ndarray]:
    return [draw(shape) for shape in ((IMAGES,) if NORMS[name].needs_space else (IMAGES, VECTORS))]


def shapes(layer: Any, x: Any, **options: Any) -> Any:
    """The shapes and dtypes of initializing a layer and applying it to x, nothing compiled."""

    def run(x):
        variables = layer.init(jax.random.key(0), x, train=True)
        return layer.apply(variables, x, mutable=MUTABLE, **options)

    return jax.eval_shape(run, x)


@every
def test_no_two_leaves_share_an_array(name):
    """A step whose variables are donated would give one piece of memory away twice."""
    leaves = jax.tree.leaves(make(name).init(jax.random.key(0), inputs(name)[0], train=True))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@every
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integers_are_read_as_float32(name, dtype):
    x = np.abs(20 * inputs(name)[0]).astype(dtype)
    assert shapes(make(name), x, train=True)[0].dtype == jnp.float32
    if dtype == "uint8":
        layer = make(name)
        variables = layer.init(jax.random.key(0), x)
        right = layer.apply(variables, x.astype(np.float32))
        np.testing.assert_array_equal(layer.apply(variables, x), right)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32", "complex64"])
def test_conv_and_dense_read_integers_and_promote_no_rank(kernel, dtype):
    layers = norms.build("none", kernel=kernel)
    start = nn.initializers.lecun_normal()
    for make_layer, x in ((layers.conv, draw(IMAGES)), (layers.dense, draw((32, 8)))):
        layer = make_layer(features=3, kernel_init=start, name="layer_1")
        given = (100 * np.abs(x)).astype(dtype)

        def total(params, x, layer=layer):
            return layer.apply(params, x, mutable=MUTABLE)[0]

        with jax.numpy_rank_promotion("raise"):
            if dtype == "complex64":
                with pytest.raises(ValueError, match="layer_1: an input of complex64"):
                    layer.init(jax.random.key(0), given)
                return
            variables = jax.jit(layer.init)(jax.random.key(0), given)
            y, right = (total(variables, v) for v in (given, given.astype(np.float32)))
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, right)


@every
def test_complex_numbers_are_refused_by_name(name):
    with pytest.raises(ValueError, match="norm_1: an input of complex64"):
        shapes(make(name), inputs(name)[0].astype(np.complex64))


@every
def test_a_network_may_be_initialized_with_one_example(name):
    for x in inputs(name):
        make(name).init(jax.random.key(0), x[:1], train=True)
        if name in ALONG:
            make(name, axis_name="devices").init(jax.random.key(0), x[:1], train=True)


@pytest.mark.parametrize("name", RUNNING)
def test_training_without_mutable_statistics_is_refused(name):
    layer, x = make(name), inputs(name)[0]
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="norm_1: training moves .* pass mutable="):
        layer.apply(variables, x, train=True)


@every
def test_no_rank_is_promoted(name):
    def total(x):
        layer = make(name)
        variables = layer.init(jax.random.key(0), x)
        y, state = layer.apply(variables, x, train=True, mutable=MUTABLE)
        return (y + layer.apply({**variables, **state}, x)).sum()

    with jax.numpy_rank_promotion("raise"):
        for x in inputs(name):
            jax.eval_shape(jax.grad(total), x)


@pytest.mark.parametrize("name", RUNNING)
def test_the_state_keeps_its_type_for_inputs_in_float64(name):
    with jax.enable_x64(True):
        layer, x = make(name), inputs(name)[0].astype(np.float64)
        before = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
        _, after = shapes(layer, x, train=True)
    for kind in after:
        same = jax.tree.map(lambda a, b: a.dtype == b.dtype, dict(before)[kind], after[kind])
        assert all(jax.tree.leaves(same))


@every
@pytest.mark.parametrize("train", [True, False])
def test_symbolic_shapes_are_exported(name, train):
    layer = make(name)
    for x in inputs(name):
        variables = layer.init(jax.random.key(0), x)

        def run(x, variables=variables):
            return layer.apply(variables, x, train=train, mutable=MUTABLE)[0]

        shape = jax.export.symbolic_shape("b,h,w,8" if x.ndim == 4 else "b,8")
        exported = jax.export.export(jax.jit(run))(jax.ShapeDtypeStruct(shape, jnp.float32))
        if train and name in ("batch", "group", "layer_channels", "global_response"):
            np.testing.assert_allclose(exported.call(x), run(x), atol=1e-5)


@every
def test_an_empty_batch_is_empty_in_evaluation_and_moves_nothing(name):
    layer, x = make(name), inputs(name)[0]
    variables = layer.init(jax.random.key(0), x)
    assert layer.apply(variables, x[:0]).shape == x[:0].shape
    if "N" in NORMS[name].over:
        with pytest.raises(ValueError, match="norm_1: each statistic"):
            layer.apply(variables, x[:0], train=True, mutable=MUTABLE)


@every
@pytest.mark.parametrize("option", ["epsilon", "momentum"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 1.5])
def test_options_out_of_range_are_refused_at_construction(name, option, value):
    if option in NORMS[name].options and (option, value) != ("epsilon", 1.5):
        with pytest.raises(ValueError, match=f"{option} {value} is not a number from 0 to"):
            make(name, **{option: value})


@every
@pytest.mark.parametrize("options", [{}, {"noise": 0.5}, {"kernel": "scaled_standardize"}])
def test_equal_builds_are_equal_and_can_be_pickled(name, options):
    one, two = (norms.build(name, **options) for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one  # written two lines above
    assert one != norms.build(name, conv_form="lax", **options)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((8, 8), np.float32), "a mask of float32 can be"),
        (np.full((8, 1), -1e9), "a mask of float"),
        (np.ones((8, 8), np.int32), "a mask of int32"),
        (np.ones(8, bool), r"write it as \(8, 1\) or \(1, 8\)"),
    ],
)
def test_masks_that_can_be_read_in_two_ways_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        fit_mask(mask, (8, 8))


@pytest.mark.parametrize("name", ALONG)
def test_an_example_in_each_vmapped_call(name):
    """Vectors [C] are what a batch [N, C] is; where [H, W, C] has two meanings, it is refused."""
    images = draw(IMAGES)
    x = images if NORMS[name].spatial else draw(VECTORS)
    layer, whole = make(name, axis_name="calls"), make(name)
    variables = whole.init(jax.random.key(0), x)

    def mapped(x):
        return jax.vmap(
            lambda r: layer.apply(variables, r, train=True, mutable=MUTABLE), axis_name="calls"
        )(x)

    if not NORMS[name].spatial:
        y, state = whole.apply(variables, x, train=True, mutable=MUTABLE)
        found, moved = mapped(x)
        np.testing.assert_allclose(found, y, atol=1e-5)
        for one, many in zip(jax.tree.leaves(state), jax.tree.leaves(moved), strict=True):
            np.testing.assert_allclose(many[0], one, atol=1e-5)
    if name in ("switchable", "batch_instance", "evonorm_b0"):
        variables = whole.init(jax.random.key(0), images)
        with pytest.raises(ValueError, match=r"write x\[None\] for the image"):
            jax.eval_shape(mapped, images)


@every
def test_remat_by_position(name):
    built: Any = norms.build(name).norm
    layer = nn.remat(built.make, static_argnums=(2,))(**dict(built.arguments))
    x = inputs(name)[0]
    variables = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, True))

    def total(variables, x):
        return layer.apply(variables, x, True, mutable=MUTABLE)[0].sum()

    assert jax.eval_shape(jax.grad(total, 1), variables, x).shape == x.shape


def test_remat_by_name_says_how():
    with pytest.raises(TypeError, match=r"static_argnums=\(2,\)"):
        nn.remat(norms.BatchNorm)().init(jax.random.key(0), draw(VECTORS), train=True)


@pytest.mark.parametrize("name", RUNNING)
def test_one_valid_value_moves_nothing(name):
    """Its variance is 0: one such batch in an epoch would pull the running variance down."""
    layer, x = make(name), draw(IMAGES)
    variables, mask = layer.init(jax.random.key(0), x), np.zeros((*IMAGES[:3], 1), bool)
    for valid, moves in ((1, False), (2, True)):
        mask[0, 0, :valid] = True
        _, state = layer.apply(variables, x, train=True, mask=mask, mutable=MUTABLE)
        kept = [
            bool((np.asarray(state["batch_stats"][leaf]) == old).all())
            for leaf, old in variables["batch_stats"].items()
        ]
        assert all(kept) is not moves


def test_evonorm_b0_of_vectors_has_the_deviation_of_each_channel():
    """The deviation within an example, of one value, is sqrt(epsilon)."""
    x = draw(VECTORS) * np.arange(1, 9, dtype=np.float32)
    layer = norms.EvoNormB0(allow_degenerate=True)
    y = layer.init_with_output(jax.random.key(0), x, train=True)[0]
    below = np.maximum(np.sqrt(x.var(0) + 1e-5), x + 1e-5**0.5)
    np.testing.assert_allclose(y, x / below, rtol=1e-5)
