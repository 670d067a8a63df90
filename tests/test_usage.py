"""Ways in which people use a layer: every scheme works there, or refuses with the way out."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import EPSILON, MUTABLE, draw, make

from normlab import norms
from normlab.layers.table import KERNELS
from normlab.norms.table import NORMS
from normlab.statistics.moments import fit_mask

IMAGES, VECTORS = (8, 4, 2, 8), (16, 8)
every = pytest.mark.parametrize("name", NORMS)


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


def test_remat_by_name_says_how():
    with pytest.raises(TypeError, match=r"static_argnums=\(2,\)"):
        nn.remat(norms.BatchNorm)().init(jax.random.key(0), draw(VECTORS), train=True)


def test_evonorm_b0_of_vectors_has_the_deviation_of_each_channel():
    """The deviation within an example, of one value, is sqrt(epsilon)."""
    x = draw(VECTORS) * np.arange(1, 9, dtype=np.float32)
    layer = norms.EvoNormB0(allow_degenerate=True)
    y = layer.init_with_output(jax.random.key(0), x, train=True)[0]
    below = np.maximum(np.sqrt(x.var(0) + 1e-5), x + 1e-5**0.5)
    np.testing.assert_allclose(y, x / below, rtol=1e-5)


@pytest.mark.parametrize("name", ["switchable", "batch_instance", "evonorm_b0"])
def test_an_image_in_each_vmapped_call_is_refused(name):
    """[H, W, C] may be an image or sequences, which have other statistics."""
    variables = make(name).init(jax.random.key(0), draw(IMAGES))
    layer = make(name, axis_name="calls")
    with pytest.raises(ValueError, match=r"write x\[None\] for the image"):
        jax.vmap(
            lambda r: layer.apply(variables, r, train=True, mutable=MUTABLE), axis_name="calls"
        )(draw(IMAGES))


@pytest.mark.parametrize("name", ["batch", "group", "layer_channels", "global_response"])
def test_what_is_exported_computes_the_same(name):
    layer, x = make(name), draw(IMAGES)
    variables = layer.init(jax.random.key(0), x)

    def run(x):
        return layer.apply(variables, x, train=True, mutable=MUTABLE)[0]

    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b,h,w,8"), jnp.float32)
    np.testing.assert_allclose(jax.export.export(jax.jit(run))(shape).call(x), run(x), atol=1e-5)


def test_evaluation_by_running_statistics_takes_single_positions():
    layer, x = make("instance_running"), draw((4, 1, 1, 8))
    variables = layer.init(jax.random.key(0), draw(IMAGES))
    np.testing.assert_allclose(layer.apply(variables, x), x / (1 + EPSILON) ** 0.5, rtol=1e-6)
    with pytest.raises(ValueError, match=r"norm_1: each statistic .*\(4, 1, 1, 8\)"):
        layer.apply(variables, x, train=True, mutable=MUTABLE)


def test_running_statistics_of_batches_with_few_valid_values():
    """A quarter of the batches has 3 valid values of 64, a quarter has 1. The truth is 3 and 4.

    Against a simulation in NumPy, and against the truth: over 4,000 channels the running variance
    is right to 1 %. The batches of one value would make it 1.33 times too small.
    """
    rng, channels = np.random.default_rng(0), 4000
    layer = norms.BatchNorm(average="cumulative", running_var="unbiased")
    zeros = np.zeros((64, channels), np.float32)
    variables: Any = layer.init(jax.random.key(0), zeros)

    @jax.jit
    def step(variables, x, mask):
        return layer.apply(variables, x, train=True, mask=mask, mutable=MUTABLE)[1]

    kept = []
    for count in (1, 64, 3, 64) * 4:
        x = rng.normal(3, 2, (64, channels)).astype(np.float32)
        variables = {**variables, **step(variables, x, np.arange(64)[:, None] < count)}
        if count > 1:
            kept.append(x[:count].astype(np.float64))
    stats = variables["batch_stats"]
    right = [np.mean([part.mean(0) for part in kept], 0)]
    right.append(np.mean([part.var(0, ddof=1) for part in kept], 0))
    for leaf, mean, truth in zip(("mean", "var"), right, (3, 4), strict=True):
        np.testing.assert_allclose(stats[leaf], mean, rtol=1e-5)
        np.testing.assert_allclose(stats[leaf].mean(), truth, rtol=0.01)
    assert int(variables["norm_state"]["count"]) == len(kept)
