"""`fold` and `fold_kernels`: the network before and after them computes the same."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import draw, relative_error

from normlab import norms
from normlab.models.cnn import CNN
from normlab.models.mlp import MLP
from normlab.models.resnet import ResNet
from normlab.norms.table import NORMS

EPSILON, LIMIT = 1e-3, 1e-6
"""Largest relative error of the outputs; measured: 1.4e-7."""
IMAGES, VECTORS = (3, 8, 8, 2), (32, 6)
START = nn.initializers.lecun_normal()


class Plain(nn.Module):
    """Layers of Flax: 1-D, dilated, grouped and transposed, some without a bias."""

    normed: bool = True

    @nn.compact
    def __call__(self, x):
        layers = {
            "conv": nn.Conv(4, (3, 3), strides=2, use_bias=not self.normed, name="conv"),
            "group": nn.Conv(6, (3, 3), feature_group_count=2, kernel_dilation=2, name="group"),
            "up": nn.ConvTranspose(4, (2, 2), strides=(2, 2), name="up"),
            "turned": nn.ConvTranspose(3, (2, 2), transpose_kernel=True, name="turned"),
            "dense": nn.Dense(5, use_bias=not self.normed, name="dense"),
        }
        for name, layer in layers.items():
            x = layer(x)
            if self.normed:
                scale = name != "group"
                norm = nn.BatchNorm(True, epsilon=EPSILON, use_scale=scale, name=f"{name}_norm")
                x = norm(x)
            x = jnp.tanh(x)
        return x


def drawn(net: Any, x: Any) -> Any:
    """Variables of a network, every leaf away from its start."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x))
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    values = []
    for i, (path, leaf) in enumerate(leaves):
        name, value = path[-1].key, draw(leaf.shape, seed=i)
        fan_in = value.size // leaf.shape[-1] if leaf.shape else 1
        value = {"var": np.exp(value), "mean_lo": 1e-2 * value}.get(name, value / fan_in**0.5)
        value = value / np.linalg.norm(value) if name == "u" else value
        values.append(np.asarray(value, leaf.dtype))
    return jax.tree.unflatten(tree, values)


def same(before: Any, variables: Any, after: Any, folded: Any, x: Any) -> None:
    wanted = jax.eval_shape(lambda: after.init(jax.random.key(0), x))
    assert jax.tree.map(np.shape, folded) == jax.tree.map(np.shape, wanted)
    y, right = (jax.jit(net.apply)(v, x) for net, v in ((after, folded), (before, variables)))
    assert relative_error(y, right) < LIMIT


class Evaluated(nn.Module):
    """A network of ours without its switch."""

    net: Any

    def setup(self):
        nn.share_scope(self, self.net)

    def __call__(self, x):
        return self.net(x, train=False)


def networks(name: str, kernel: str = "none") -> dict[str, Any]:
    def layers(norm: str, kernel: str) -> Any:
        taken: Any = {"epsilon": EPSILON} if norm != "none" else {}
        return norms.build(norm, act=jnp.tanh, kernel=kernel, **taken)

    def build(norm: str, kernel: str = "none") -> dict[str, Any]:
        common: Any = {"layers": layers(norm, kernel), "classes": 3, "kernel_init": START}
        return {
            "cnn": CNN(widths=(4, 6), pools=(True, False), **common),
            "mlp": MLP(widths=(6, 4), **common),
            "resnet": ResNet(widths=(4, 8), blocks=1, **common),
            "resnet pre": ResNet(widths=(4, 8), blocks=1, order="pre", **common),
        }

    before, after = build(name, kernel), build("none")
    return {net: (Evaluated(before[net]), Evaluated(after[net])) for net in before}


PAIRS = {
    "cnn": {"conv_1": "norm_1", "conv_2": "norm_2"},
    "mlp": {"dense_1": "norm_1", "dense_2": "norm_2"},
    "resnet": {"conv_stem": "norm_stem"}
    | {
        f"stage_{s}_block_1.conv_{i}": f"stage_{s}_block_1.norm_{i}" for s in (1, 2) for i in (1, 2)
    },
}
RUNNING = {name: row for name, row in NORMS.items() if row.running_statistics}
FOLDED = [name for name, row in RUNNING.items() if {"scale", "bias"} >= set(row.parameters)]


@pytest.mark.parametrize(
    ("net", "name"), [("mlp", "batch"), ("resnet", "batch"), *(("cnn", n) for n in FOLDED)]
)
def test_folded_norms_of_our_networks(net, name):
    before, after = networks(name)[net]
    x = draw(VECTORS if net == "mlp" else IMAGES)
    variables = drawn(before, x)
    folded = norms.fold(variables, PAIRS[net], epsilon=EPSILON)
    same(before, variables, after, folded, x)


def test_folded_norms_of_flax():
    before, after, x = Plain(), Plain(normed=False), draw(IMAGES)
    variables = drawn(before, x)
    pairs = {name: f"{name}_norm" for name in ("conv", "group", "up", "dense")}
    folded = norms.fold(variables, pairs, epsilon=EPSILON)
    folded = norms.fold(folded, {"turned": "turned_norm"}, epsilon=EPSILON, axis=-2)
    same(before, variables, after, folded, x)


def test_the_other_leaves_are_kept_and_types_too():
    half = {"kernel": jnp.ones((2, 3), jnp.bfloat16)}
    params = {"a": half, "n": {"scale": np.ones(3)}, "b": {"c": {"kernel": np.ones((1, 3))}}}
    stats = {"n": {"mean": np.ones(3), "var": np.ones(3)}, "m": {"mean": np.ones(3)}}
    variables = {
        "params": params,
        "batch_stats": stats,
        "norm_state": {"n": {"count": np.array(3)}},
    }
    folded = norms.fold(variables, {"a": "n"}, epsilon=0.0)
    assert set(folded) == {"params", "batch_stats"} and set(folded["batch_stats"]) == {"m"}
    assert set(folded["params"]) == {"a", "b"}
    assert {leaf.dtype for leaf in folded["params"]["a"].values()} == {jnp.dtype("bfloat16")}
    assert (folded["params"]["a"]["bias"] == -1).all()


SCHEMES = ["weight_norm", "standardize", "scaled_standardize", "spectral"]


@pytest.mark.parametrize(
    ("net", "kernel"),
    [*((net, kernel) for net in ("cnn", "mlp") for kernel in SCHEMES), ("resnet pre", "spectral")],
)
def test_folded_kernels(net, kernel):
    before, after = networks("none", kernel)[net]
    x = draw(VECTORS if net == "mlp" else IMAGES)
    variables = drawn(before, x)
    layers = ["dense_*" if net == "mlp" else "conv_*"] if kernel == "standardize" else None
    folded = norms.fold_kernels(variables, kernel, act=jnp.tanh, layers=layers)
    same(before, variables, after, folded, x)


def test_kernels_first_and_norms_after_them():
    before, after = networks("batch", "weight_norm")["cnn"]
    x = draw(IMAGES)
    variables = drawn(before, x)
    with pytest.raises(ValueError, match="conv_1: its kernel has a scheme; call .*fold_kernels"):
        norms.fold(variables, PAIRS["cnn"], epsilon=EPSILON)
    folded = norms.fold_kernels(variables, "weight_norm")
    folded = norms.fold(folded, PAIRS["cnn"], epsilon=EPSILON)
    same(before, variables, after, folded, x)


def refused(words: str, run: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=words) as error:
        run(*arguments, **options)
    assert "\n" not in str(error.value)


def test_refusals_name_the_layer():
    before, _ = networks("batch")["cnn"]
    variables = drawn(before, draw(IMAGES))
    for words, pairs in (
        (
            r"'conv_9': no layer with a kernel \(layers: conv_1, conv_2, head\)",
            {"conv_9": "norm_1"},
        ),
        (
            r"'norm_9': has no running statistics \(norms .*: norm_1, norm_2\)",
            {"conv_1": "norm_9"},
        ),
        ("conv_1: different numbers of channels, .*'norm_2': 6", {"conv_1": "norm_2"}),
    ):
        refused(words, norms.fold, variables, pairs, epsilon=1e-5)
    for name in set(RUNNING) - set(FOLDED):
        leaves = drawn(norms.build(name).norm(), draw(IMAGES))
        tree: Any = {c: {"norm_1": v} for c, v in leaves.items()}
        tree["params"]["conv"] = {"kernel": np.ones((1, 1, 2, 2))}
        refused("'norm_1': has .* and is no", norms.fold, tree, {"conv": "norm_1"}, epsilon=1e-5)
    refused("no layer has a kernel scheme", norms.fold_kernels, variables, "weight_norm")
    refused("no layer has a kernel scheme", norms.fold_kernels, {}, "spectral")
    refused("'conv': no layer with a kernel", norms.fold, {}, {"conv": "norm"}, epsilon=1e-5)
    refused(
        "conv_1: its leaves are not", norms.fold_kernels, variables, "spectral", layers="conv_1"
    )
    refused("no module 'dense'", norms.fold_kernels, variables, "standardize", layers="dense")
    refused("'standardize' leaves no trace", norms.fold_kernels, variables, "standardize")
    refused("'none' leaves no trace", norms.fold_kernels, variables, "none")
