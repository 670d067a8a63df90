"""Convolutions, pools, the networks' shapes and order, and the equal footing of all arms."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_runs import draw, leaves_of, record, small

from normlab.data import DATASETS
from normlab.layers.convolutions import FORMS
from normlab.models.build import build_model
from normlab.models.cnn import CNN, max_pool
from normlab.models.mlp import MLP
from normlab.models.table import MODELS, spread_layers, vgg_layers
from normlab.norms import NORMS
from normlab.runs.config import ConfigError, resolve
from normlab.training.state import Hyper, init_state

SHAPES = {"mlp": (4, 6), "cnn": (4, 8, 8, 1)}
WIDTHS = {"mlp": (8, 4), "cnn": (4, 8)}
KERNELS = {"mlp": ("dense_1", "dense_2", "head"), "cnn": ("conv_1", "conv_2", "head")}
STAGES = (64, 128, 256, 512, 512)
"""Widths of the published VGGs."""


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
        return jax.jit(jax.grad(lambda x: (jnp.sum(pool(x) ** 2), pool(x)), has_aux=True))(x)

    reference = both(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    jax.tree.map(np.testing.assert_array_equal, both(max_pool), reference)


def shapes_of(config, shape) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter."""
    net = build_model(config, 10, "patches")
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=True), draw(shape))
    return {path: leaf.shape for path, leaf in leaves_of(variables["params"]).items()}


def test_parameters_of_a_dense_and_a_plain_convolutional_network():
    mlp = small(model__widths=(8, 4), norm__name="batch")
    dense = {"dense_1": (6, 8), "dense_2": (8, 4), "head": (4, 10)}
    norms = {"norm_1": (8,), "norm_2": (4,)}
    expected = {f"{n}/kernel": shape for n, shape in dense.items()}
    expected |= {f"{n}/bias": shape[-1:] for n, shape in (dense | norms).items()}
    expected |= {f"{n}/scale": shape for n, shape in norms.items()}
    assert shapes_of(mlp, (4, 6)) == expected
    cnn = small(model__name="cnn", model__widths=(4, 8), model__depth=3, norm__name="none")
    convs = {"conv_1": (3, 3, 1, 4), "conv_2": (3, 3, 4, 4), "conv_3": (3, 3, 4, 8)}
    layers = convs | {"head": (8, 10)}
    expected = {f"{n}/kernel": shape for n, shape in layers.items()}
    expected |= {f"{n}/bias": shape[-1:] for n, shape in layers.items()}
    assert shapes_of(cnn, (4, 8, 8, 1)) == expected


@pytest.mark.parametrize("depth", range(1, 8))
@pytest.mark.parametrize("widths", [(16,), (16, 32), (16, 32, 64)])
def test_depth_spreads_over_the_widths(widths, depth):
    layers, pools = spread_layers(widths, depth)
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
    log = record(build_model(config, 10, "patches"), (2, 32, 32, 3))
    convolutions = [shape[0] for name, shape, _ in log if name.startswith("conv")]
    assert convolutions == [32, 16, 8, 8, 4, 4, 2, 2]
    assert [name for name, _, _ in log][-4:] == ["conv_8", "norm_8", "act_8", "head"]


def test_parameters_of_a_vgg():
    """VGG-16 with one dense layer: 14.71 M weights and biases of its convolutions."""
    config = small(model__name="vgg", model__widths=STAGES, model__depth=16)
    shapes = shapes_of(config, (1, 32, 32, 3))
    convolutions = {path: shape for path, shape in shapes.items() if path.startswith("conv")}
    assert sum(map(math.prod, convolutions.values())) == 14_714_688
    assert shapes["head/kernel"] == (512, 10) and len(convolutions) == 2 * 13


VGG, RESNET = {"model.name": "vgg"}, {"model.name": "resnet"}
REFUSED = {
    "depth of a vgg": (
        VGG | {"model.depth": 12},
        "model.depth = 12 is not that of a vgg; use one of 11, 13, 16,",
    ),
    "widths of a vgg": (
        VGG | {"model.depth": 16},
        "model.widths = (100, 100, 100): a vgg of depth 16 has 5 stages; give 5 widths",
    ),
    "too many pools": (
        VGG | {"model.depth": 11, "model.widths": (8,) * 5},
        "nothing is left of the image before layer 7; use fewer stages",
    ),
    "one pool too many": (
        VGG | {"model.widths": (8, 8, 8, 8)},
        "nothing is left of the image before the global mean",
    ),
    "depth of a resnet": (
        RESNET | {"model.depth": 21},
        "model.depth = 21 is not 6 n + 2, the depth of a resnet of 3 stages; use 20 or 26",
    ),
    "depth below the least": (RESNET | {"model.depth": 3}, "use 8"),
    "depth of two stages": (RESNET | {"model.widths": (8, 16), "model.depth": 8}, "use 6 or 10"),
    "falling widths": (RESNET | {"model.widths": (8, 16, 8)}, "use widths that do not fall"),
    "groups of a later stage": (
        RESNET | {"model.widths": (4, 8, 18), "norm.name": "group"},
        "norm.groups = 4 does not divide the 18 channels of layer 6",
    ),
    "image of one pixel": (
        RESNET | {"model.widths": (4, 4, 4, 4), "norm.name": "instance"},
        "a statistic of layer 8 would be made of 1 value (H, W, C = 1, 1, 4)",
    ),
    "norm and activation in one": (
        RESNET | {"norm.name": "frn"},
        "model.block = 'post': norm 'frn' replaces the activation right after it too, and a "
        "block's second norm has none; use model.block=pre",
    ),
    "kernels of zeros": (
        RESNET | {"model.residual": "fixup", "norm.kernel": "weight_norm"},
        "norm.kernel = 'weight_norm': model.residual = 'fixup' starts kernels at 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_network_is_refused_in_one_line(case):
    config, words = REFUSED[case]
    with pytest.raises(ConfigError) as refusal:
        resolve(config)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_pool_after_the_last_layer_lets_an_instance_norm_stand_there():
    config = {"model.name": "vgg", "model.placement": "post", "norm.name": "instance"}
    assert resolve(config).notes == []


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("placement", "order"),
    [("pre", ("norm_{}", "act_{}")), ("post", ("act_{}", "norm_{}"))],
)
def test_placement_puts_the_norm_before_or_after_the_activation(placement, order, train):
    common: Any = dict(layers=None, classes=10, kernel_init=None, placement=placement)
    log = record(MLP(widths=(8, 4), **common), (4, 6), train)
    names = [f.format(i) for i in (1, 2) for f in ("dense_{}", *order)]
    assert [name for name, _, _ in log] == [*names, "head"]
    assert all(f["train"] is train for name, _, f in log if name.startswith("norm"))
    cnn = CNN(widths=(4, 8, 8), pools=(True, False, False), stride=2, **common)
    log = record(cnn, (4, 12, 8, 1), train)
    names = [f.format(i) for i in (1, 2, 3) for f in ("conv_{}", *order)]
    assert [name for name, _, _ in log] == [*names, "head"]
    assert [shape[:-1] for _, shape, _ in log] == [(12, 8)] + [(6, 4)] * 2 + [(3, 2)] * 6 + [()]


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
    shape = DATASETS["fashion_mnist"].shape
    log = record(build_model(config, 10, "patches"), (1, *shape))
    received = [shape for name, shape, _ in log if "norm_" in name]
    assert received == MODELS[config["model.name"]].shapes(config, shape)


def start(model: str, arms: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the first parameters of every arm (norm, placement), in one program."""

    @jax.jit
    def draw_all(x):
        found = []
        for name, placement in arms:
            changes = {"norm.name": name, "norm.groups": 2, "model.name": model}
            config = small(changes, model__placement=placement, model__widths=WIDTHS[model])
            hyper = Hyper(seed=3, lr=0.1, momentum=0.9, weight_decay=0.0, gain=1.0)
            net = build_model(config, 10, "patches")
            found.append(init_state(net, "sgd", hyper, x).params)
        return found

    return [leaves_of(params) for params in draw_all(draw(SHAPES[model]))]


@pytest.mark.parametrize("model", SHAPES)
def test_arms_share_the_bits_of_every_parameter_they_share(model):
    """Every pair of schemes, and both placements, by comparison with the first that has it."""
    shared: dict[str, np.ndarray] = {}
    names = [n for n, row in NORMS.items() if not (row.needs_space and model == "mlp")]
    for leaves in start(model, [*((n, "pre") for n in names), ("batch", "post")]):
        hidden = [p for p in leaves if p.endswith("kernel")]
        assert sorted(hidden) == [f"{m}/kernel" for m in KERNELS[model]]
        assert all(p.replace("kernel", "bias") in leaves for p in hidden)
        for path, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, shared.setdefault(path, leaf), err_msg=path)
    kernels = [v for p, v in shared.items() if p.endswith("kernel")]
    assert all(np.std(v) > 0 for v in kernels)


@pytest.mark.parametrize(
    ("act", "variance"), [("relu", 2 / 400), ("tanh", 2 / 600), ("sigmoid", 2 / 600)]
)
def test_initial_weights_suit_the_activation(act, variance):
    """He: 2 / fan_in; Glorot: 2 / (fan_in + fan_out); the head is Glorot's in every arm."""
    net = build_model(small(model__act=act, model__widths=(200,)), 10, "patches")
    params: Any = net.init(jax.random.key(0), draw((2, 400)), train=True)["params"]
    assert np.var(params["dense_1"]["kernel"]) == pytest.approx(variance, rel=0.03)
    assert np.var(params["head"]["kernel"]) == pytest.approx(2 / 210, rel=0.1)
