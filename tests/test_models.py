"""Convolutions, pools, the networks' shapes and order, and the equal footing of all arms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_runs import small

from normlab.data import DATASETS
from normlab.layers.convolutions import FORMS
from normlab.models.build import build_model
from normlab.models.cnn import CNN, max_pool
from normlab.models.mlp import MLP
from normlab.models.shapes import layer_widths, pool_after, vgg_layers
from normlab.models.table import MODELS
from normlab.norms import NORMS, Layers
from normlab.runs.config import ConfigError, resolve
from normlab.training.state import Hyper, TrainState, init_state

SHAPES = {"mlp": (4, 6), "cnn": (4, 8, 8, 1)}
WIDTHS = {"mlp": (8, 4, 4), "cnn": (4, 8)}
KERNELS = {"mlp": ("dense_1", "dense_2", "dense_3", "head"), "cnn": ("conv_1", "conv_2", "head")}
STAGES = (64, 128, 256, 512, 512)
"""Widths of the published VGGs."""


def draw(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("space", "channels", "size"),
    [
        ((8, 8), 1, 3),
        ((8, 8), 8, 3),
        ((7, 6), 3, 5),
        ((5, 9), 3, 3),
        ((5, 9), 8, 5),
        ((2, 2), 8, 3),
        ((1, 3), 8, 5),
    ],
)
def test_all_forms_of_the_convolution_agree_with_flax(space, channels, stride, size):
    x, kernel = draw((16, *space, channels)), draw((size, size, channels, 4), seed=1)
    side = (size - 1) // 2
    flax = nn.Conv(4, (size, size), strides=stride, padding=[(side, side)] * 2, use_bias=False)

    def both(convolve):
        def value(x, kernel):
            y = convolve(x, kernel, stride)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(x, kernel)

    reference = both(lambda x, kernel, stride: flax.apply({"params": {"kernel": kernel}}, x))
    for form in FORMS.values():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4),
            both(form),
            reference,
        )


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 6, 3), (1, 5, 9, 2)])
def test_max_pool_is_that_of_flax(shape):
    x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.float32)

    def both(pool):
        return jax.grad(lambda x: (jnp.sum(pool(x) ** 2), pool(x)), has_aux=True)(x)

    reference = both(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    jax.tree.map(np.testing.assert_array_equal, both(max_pool), reference)


def shapes_of(config, shape) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter."""
    net = build_model(config, 10, "patches")
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), draw(shape))
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in leaves}


def test_parameters_of_the_mlp():
    config = small(model__widths=(8, 4), norm__name="batch")
    assert shapes_of(config, (4, 6)) == {
        "dense_1/kernel": (6, 8),
        "dense_1/bias": (8,),
        "norm_1/scale": (8,),
        "norm_1/bias": (8,),
        "dense_2/kernel": (8, 4),
        "dense_2/bias": (4,),
        "norm_2/scale": (4,),
        "norm_2/bias": (4,),
        "head/kernel": (4, 10),
        "head/bias": (10,),
    }


def test_parameters_of_the_cnn():
    config = small(model__name="cnn", model__widths=(4, 8), model__depth=3, norm__name="none")
    assert shapes_of(config, (4, 8, 8, 1)) == {
        "conv_1/kernel": (3, 3, 1, 4),
        "conv_1/bias": (4,),
        "conv_2/kernel": (3, 3, 4, 4),
        "conv_2/bias": (4,),
        "conv_3/kernel": (3, 3, 4, 8),
        "conv_3/bias": (8,),
        "head/kernel": (8, 10),
        "head/bias": (10,),
    }


@pytest.mark.parametrize("depth", range(1, 8))
@pytest.mark.parametrize("widths", [(16,), (16, 32), (16, 32, 64)])
def test_depth_spreads_over_the_widths(widths, depth):
    layers, pools = layer_widths(widths, depth), pool_after(widths, depth)
    assert len(layers) == len(pools) == depth
    assert layers == sorted(layers) and set(layers) <= set(widths)
    assert pools == [a != b for a, b in zip(layers, layers[1:], strict=False)] + [False]
    if depth >= len(widths):
        counts = [layers.count(w) for w in widths]
        assert max(counts) - min(counts) <= 1


VGGS = {11: "1 1 2 2 2", 13: "2 2 2 2 2", 16: "2 2 3 3 3", 19: "2 2 4 4 4"}


@pytest.mark.parametrize("depth", VGGS)
def test_convolutions_and_pools_of_every_vgg(depth):
    """The paper's depth is that of its convolutions and three dense layers; ours ends in one."""
    layers, pools = vgg_layers(STAGES, depth)
    counts = [int(n) for n in VGGS[depth].split()]
    assert len(layers) + 3 == depth
    assert list(layers) == [w for w, n in zip(STAGES, counts, strict=True) for _ in range(n)]
    ends = np.cumsum(counts) - 1
    assert [i for i, pool in enumerate(pools) if pool] == list(ends)


def test_a_vgg_on_32x32_ends_in_one_pixel():
    config = small(model__name="vgg", model__widths=(2, 2, 4, 4, 8), model__depth=11)
    log: list = []
    net: Any = build_model(config, 10, "patches")
    net.clone(layers=record(log)).apply({}, draw((2, 32, 32, 3)), train=True)
    convolutions = [space[0] for name, space, _ in log if name.startswith("conv")]
    assert convolutions == [32, 16, 8, 8, 4, 4, 2, 2]
    assert [name for name, _, _ in log][-4:] == ["conv_8", "norm_8", "act_8", "head"]


def test_parameters_of_a_vgg():
    """VGG-16 with one dense layer: 14.71 M weights and biases of its convolutions."""
    config = small(model__name="vgg", model__widths=STAGES, model__depth=16)
    shapes = shapes_of(config, (1, 32, 32, 3))
    convolutions = {path: shape for path, shape in shapes.items() if path.startswith("conv")}
    assert sum(map(math.prod, convolutions.values())) == 14_714_688
    assert shapes["head/kernel"] == (512, 10) and len(convolutions) == 2 * 13


VGG_REFUSED = {
    "depth": ({"model.depth": 12}, "model.depth = 12 is not that of a vgg; use one of 11, 13, 16,"),
    "widths": (
        {"model.depth": 16},
        "model.widths = (100, 100, 100): a vgg of depth 16 has 5 stages; give 5 widths",
    ),
    "too many pools": (
        {"model.depth": 11, "model.widths": (8,) * 5},
        "nothing is left of the image before layer 7; use fewer stages",
    ),
    "one pool too many": (
        {"model.widths": (8, 8, 8, 8)},
        "nothing is left of the image before the global mean",
    ),
}


@pytest.mark.parametrize("case", VGG_REFUSED)
def test_what_is_no_vgg_is_refused_in_one_line(case):
    config, words = VGG_REFUSED[case]
    with pytest.raises(ConfigError) as refusal:
        resolve({"model.name": "vgg", **config})
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_pool_after_the_last_layer_lets_an_instance_norm_stand_there():
    config = {"model.name": "vgg", "model.placement": "post", "norm.name": "instance"}
    assert resolve(config).notes == []


def record(log: list) -> Layers:
    """Layers that note in which order they are called, on which shape, and whether in training."""

    def layer(kind, result):
        def make(*arguments, name, **options):
            def call(x, **flags):
                log.append((name, x.shape[1:-1], flags.get("train")))
                assert name.startswith(kind)
                return result(x, *arguments, **options)

            return call

        return make

    def convolved(x, features, kernel_init, stride):
        return jnp.zeros((*x[:, ::stride, ::stride].shape[:3], features))

    def multiplied(x, features, kernel_init):
        return jnp.zeros((len(x), features))

    def unchanged(x):
        return x

    return Layers(
        conv=layer("conv_", convolved),
        dense=layer("dense_", multiplied),
        head=layer("head", multiplied),
        norm=layer("norm_", unchanged),
        act=layer("act_", unchanged),
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("placement", "order"),
    [("pre", ("norm_{}", "act_{}")), ("post", ("act_{}", "norm_{}"))],
)
def test_placement_puts_the_norm_before_or_after_the_activation(placement, order, train):
    log: list = []
    common: Any = dict(layers=record(log), classes=10, kernel_init=None, placement=placement)
    MLP(widths=(8, 4), **common).apply({}, draw((4, 6)), train=train)
    names = [f.format(i) for i in (1, 2) for f in ("dense_{}", *order)]
    assert [name for name, _, _ in log] == [*names, "head"]
    assert all(flag is train for name, _, flag in log if name.startswith("norm"))
    log.clear()
    cnn = CNN(widths=(4, 8, 8), pools=(True, False, False), stride=2, **common)
    cnn.apply({}, draw((4, 12, 8, 1)), train=train)
    names = [f.format(i) for i in (1, 2, 3) for f in ("conv_{}", *order)]
    assert [name for name, _, _ in log] == [*names, "head"]
    assert [space for _, space, _ in log] == [(12, 8)] + [(6, 4)] * 2 + [(3, 2)] * 6 + [()]


def note_norms(log: list) -> Layers:
    """Layers that note the shape of what every norm receives."""
    layers = record([])

    def norm(*, name):
        def call(x, **flags):
            log.append(x.shape[1:])
            return x

        return call

    return dataclasses.replace(layers, norm=norm, act=lambda name: lambda x: x)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.name": "cnn", "model.depth": 5, "model.stride": 2},
        {"model.name": "vgg"},
        {"model.name": "resnet", "model.depth": 18, "model.widths": (4, 4, 8, 8)},
        {"model.name": "resnet", "model.depth": 14, "model.block": "pre"},
    ],
    ids=str,
)
def test_the_shapes_that_a_configuration_is_checked_by(changes):
    """Also with odd sizes on the way: 28, 14, 7, then 4 by strides or 3 by pools."""
    config = small({"data.name": "fashion_mnist", "model.widths": (4, 8, 12)} | changes)
    log: list = []
    net: Any = build_model(config, 10, "patches")
    shape = DATASETS["fashion_mnist"].shape
    net.clone(layers=note_norms(log)).apply({}, draw((1, *shape)), train=True)
    assert log == MODELS[config["model.name"]].shapes(config, shape)


def start(name: str, model: str, placement="pre", gain=1.0) -> TrainState:
    changes = {"norm.name": name, "norm.groups": 2, "model.name": model}
    config = small(changes, model__placement=placement, model__widths=WIDTHS[model])
    hyper = Hyper(seed=3, lr=0.1, momentum=0.9, weight_decay=0.0, gain=gain)
    net = build_model(config, 10, "patches")
    return init_state(net, "sgd", hyper, jnp.asarray(draw(SHAPES[model])))


def leaves_of(params) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("model", SHAPES)
def test_arms_share_the_bits_of_every_parameter_they_share(model):
    """Every pair of schemes and placements, by comparison with the first that has the parameter."""
    shared: dict[str, np.ndarray] = {}
    names = [n for n, row in NORMS.items() if not (row.needs_space and model == "mlp")]
    for placement in ("pre", "post"):
        for name in names:
            if placement == "post" and NORMS[name].act:
                continue
            leaves = leaves_of(start(name, model, placement).params)
            hidden = [p for p in leaves if p.endswith("kernel")]
            assert sorted(hidden) == [f"{m}/kernel" for m in KERNELS[model]]
            assert all(p.replace("kernel", "bias") in leaves for p in hidden)
            for path, leaf in leaves.items():
                np.testing.assert_array_equal(leaf, shared.setdefault(path, leaf), err_msg=path)
    kernels = [v for p, v in shared.items() if p.endswith("kernel")]
    assert all(np.std(v) > 0 for v in kernels)


@pytest.mark.parametrize("model", SHAPES)
def test_gain_multiplies_hidden_kernels_only(model):
    plain, scaled = (leaves_of(start("affine", model, gain=g).params) for g in (1.0, 4.0))
    for path, leaf in plain.items():
        is_hidden = path.endswith("kernel") and not path.startswith("head")
        np.testing.assert_array_equal(scaled[path], leaf * (4 if is_hidden else 1), err_msg=path)


@pytest.mark.parametrize(
    ("act", "variance"), [("relu", 2 / 400), ("tanh", 2 / 600), ("sigmoid", 2 / 600)]
)
def test_initial_weights_suit_the_activation(act, variance):
    """He: 2 / fan_in; Glorot: 2 / (fan_in + fan_out); the head is Glorot's in every arm."""
    net = build_model(small(model__act=act, model__widths=(200,)), 10, "patches")
    params: Any = net.init(jax.random.key(0), draw((2, 400)), train=True)["params"]
    assert np.var(params["dense_1"]["kernel"]) == pytest.approx(variance, rel=0.03)
    assert np.var(params["head"]["kernel"]) == pytest.approx(2 / 210, rel=0.1)
