"""`from_torch` of modules, checkpoints and reparametrized kernels: no key is dropped silently."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import draw, relative_error

from normlab import norms
from normlab.layers.linear import Conv, Dense, kernel_scheme

PEERS = pytest.mark.peers("torch")
BATCH = {
    f"bn.{leaf}": draw(3, seed=i) ** 2
    for i, leaf in enumerate(("weight", "bias", "running_mean", "running_var"))
}
LIMIT = 1e-5


def torch() -> Any:
    return importlib.import_module("torch")


def refused(words: str, source: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=words) as error:
        norms.from_torch(source, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": BATCH, "epoch": 3, "optimizer": {"state": {}}},
        {"model": {"model_state_dict": BATCH}},
        {f"module.{k}": v for k, v in BATCH.items()} | {"n_averaged": np.array(2)},
        {f"module._orig_mod.module.{k}": v for k, v in BATCH.items()},
        {k.replace("bn", "bn._orig_mod"): v for k, v in BATCH.items()},
    ],
)
def test_wrappers_are_taken_off(wrapped):
    jax.tree.map(np.testing.assert_array_equal, norms.from_torch(wrapped), norms.from_torch(BATCH))


def test_what_has_no_place_is_refused_by_name():
    refused("has 'state_dict' and 'model'", {"state_dict": BATCH, "model": BATCH})
    refused("'ema' is no tensor", {**BATCH, "ema": BATCH})
    refused("bn: no place in a norm of ours for v", {**BATCH, "bn.v": draw(3)})
    refused("bn: running_mean and running_var go", {"bn.running_mean": draw(3)})
    refused("ln: no place .* for gamma, beta", {"ln.gamma": draw(3), "ln.beta": draw(3)})
    for leaves in (
        ("parametrizations.weight.original", "parametrizations.weight.0.base"),
        ("parametrizations.weight.original",),
        ("parametrizations.bias.original0", "parametrizations.bias.original1"),
        ("weight_hh_l0_g", "weight_hh_l0_v"),
        ("weight_g",),
        ("weight_orig",),
        ("weight_orig", "weight_u"),
    ):
        refused("layer: .* is no part of a weight", {f"layer.{n}": draw((3, 3)) for n in leaves})
        assert norms.from_torch(
            {f"layer.{n}": draw((3, 3)) for n in leaves} | BATCH, modules="bn"
        ).keys() == {"params", "batch_stats"}
    pruned = {"conv.weight_orig": draw((3, 3)), "conv.weight_mask": draw((3, 3))}
    assert norms.from_torch(pruned) == {}


def test_the_vectors_of_a_spectral_norm_must_have_converged():
    weight, u = draw((3, 4)), draw(3) / np.linalg.norm(draw(3))
    v = u @ weight + draw(4, std=0.1)
    state = {"d.weight_orig": weight, "d.weight_u": u, "d.weight_v": v / np.linalg.norm(v)}
    refused("d: the vectors of its spectral norm give .* run some forward passes", state)
    gains = {"d.weight_g": draw((1, 4)), "d.weight_v": draw((3, 4))}
    refused(r"d: a weight norm with gains of shape \(1, 4\), .* \(3, 1\)", gains)
    turned = {"d.weight_g": draw((3, 1)), "d.weight_v": draw((3, 4)), "d.bias": draw(4)}
    refused(r"d: the first axis of its weight \(3, 4\)", turned)


def reparametrized(kind: str) -> Any:
    """A network of PyTorch: two convolutions and a dense layer, each under weight or spectral
    norm, after a step of training."""
    lib = torch()
    new, old = lib.nn.utils.parametrizations, lib.nn.utils
    wrap = {
        "weight_norm": new.weight_norm,
        "old weight_norm": old.weight_norm,
        "spectral": new.spectral_norm,
        "old spectral": lambda layer: old.spectral_norm(layer, n_power_iterations=200),
    }[kind]
    lib.manual_seed(0)
    layers = [
        lib.nn.Conv2d(2, 5, 3, padding=1),
        lib.nn.Conv2d(5, 4, 3, padding=1, bias=False),
        lib.nn.Flatten(),
        lib.nn.Linear(4 * 4 * 6, 7),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        net = lib.nn.Sequential(*(m if isinstance(m, lib.nn.Flatten) else wrap(m) for m in layers))
    net(lib.tensor(draw((3, 2, 4, 6)))).square().sum().backward()
    with lib.no_grad():
        for leaf in net.parameters():
            leaf += 1e-4 * lib.sign(leaf.grad)
    return net.eval()


class Ours(nn.Module):
    """The same network, images [N, H, W, C]."""

    reparam: Any

    @nn.compact
    def __call__(self, x):
        common: Any = {"kernel_init": nn.initializers.zeros, "reparam": self.reparam}
        x = Conv(5, name="0", **common)(x)
        x = Conv(4, name="1", **common)(x)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # PyTorch flattens [C, H, W]
        return Dense(7, name="3", **common)(x)


@PEERS
@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "spectral", "old spectral"])
def test_kernels_under_a_scheme_compute_the_same(kind):
    theirs, x = reparametrized(kind), draw((3, 2, 4, 6), seed=1)
    kernel = kind.removeprefix("old ")
    variables = norms.from_torch(theirs.state_dict())
    net = Ours(kernel_scheme(kernel, jax.nn.relu))
    y = net.apply(variables, x.transpose(0, 2, 3, 1))
    right = theirs(torch().tensor(x)).detach().numpy()
    assert relative_error(y, right) < LIMIT
    options = norms.options_of(theirs)
    assert options == {name: {"name": "none", "kernel": kernel} for name in "013"}
    assert jax.tree.map(np.shape, norms.from_torch(theirs)) == jax.tree.map(np.shape, variables)


MODULES = {
    "BatchNorm2d(8)": {},
    "BatchNorm2d(8, eps=1e-3, momentum=None)": {"average": "cumulative"},
    "BatchNorm2d(8, track_running_stats=False)": {"use_running": False, "update_running": False},
    "SyncBatchNorm(8, momentum=0.3)": {"momentum": 0.7},
    "InstanceNorm2d(8, affine=True, eps=1e-2)": {"epsilon": 1e-2},
    "InstanceNorm2d(8, affine=True, track_running_stats=True)": {
        "name": "instance_running",
        "momentum": 0.9,
    },
    "BatchNorm2d(8, affine=False)": {"use_scale": False, "use_bias": False},
    "InstanceNorm2d(8)": {"use_scale": False, "use_bias": False},
    "InstanceNorm2d(8, track_running_stats=True, momentum=None)": {"momentum": 1.0},
    "LayerNorm(8, eps=1e-3, bias=False)": {"use_bias": False, "epsilon": 1e-3},
    "LayerNorm([8, 5, 6])": {"name": "layer", "per_element": True},
    "LayerNorm([8, 5, 6], elementwise_affine=False)": {"use_scale": False, "use_bias": False},
    "GroupNorm(2, 8, affine=False)": {"use_scale": False, "use_bias": False},
    "GroupNorm(2, 8)": {"groups": 2},
    "RMSNorm(8)": {"epsilon": 2.0**-23},
    "LocalResponseNorm(3, alpha=0.1, k=2.0)": {"size": 3, "k": 2.0},
}
"""Layers of PyTorch, and some of the options of ours."""


@PEERS
@pytest.mark.parametrize("call", MODULES)
def test_a_module_tells_the_options(call):
    lib = torch()
    inner = eval(f"lib.nn.{call}", {"lib": lib})
    for i, leaf in enumerate(inner.parameters()):
        leaf.data = lib.tensor(draw(leaf.shape, seed=i))
    model = lib.nn.DataParallel(lib.nn.Sequential(lib.nn.PReLU(8), inner))
    axes = (0, 1, 2, 3) if call.startswith(("LayerNorm(8", "RMS")) else (0, 3, 1, 2)
    back = np.argsort(axes)

    def theirs(x):
        return inner(lib.tensor(x.transpose(axes).copy())).detach().numpy().transpose(back)

    if not call.startswith("Sync"):
        theirs(draw((4, 5, 6, 8), 1.0, seed=9))
    options = norms.options_of(model)["1"]
    assert MODULES[call].items() <= options.items()
    layer = norms.build(**options).norm()
    variables = {c: tree["1"] for c, tree in norms.from_torch(model).items()}
    x = draw((4, 5, 6, 8), 1.0, seed=8)
    if not call.startswith("Sync"):
        y, moved = layer.apply(variables, x, train=True, mutable=["batch_stats", "norm_state"])
        assert relative_error(y, theirs(x)) < LIMIT
        variables |= moved
    model.eval()
    assert relative_error(layer.apply(variables, x), theirs(x)) < LIMIT


@PEERS
def test_norms_of_other_classes_are_refused_unless_named():
    lib = torch()

    class Own(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = lib.nn.Parameter(lib.ones(3))

    model = lib.nn.Sequential(lib.nn.PReLU(3), Own(), lib.nn.LayerNorm(3))
    refused("1: Own has the leaves of a norm but is none of torch.nn", model)
    assert norms.from_torch(model, modules=["1", "2"])["params"].keys() == {"1", "2"}
    refused(r"the module: weight has shape \(3, 4\)", lib.nn.LayerNorm([3, 4]))
    turned = lib.nn.utils.parametrizations.weight_norm(lib.nn.ConvTranspose2d(3, 3, 2))
    refused("0: ParametrizedConvTranspose2d is no linear layer", lib.nn.Sequential(turned))
