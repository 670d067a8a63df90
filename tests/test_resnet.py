"""ResNets: sizes, shortcuts, order, rivals that need no norm, and a step in float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_runs import draw, leaves_of, recorder, small

from normlab.models.build import build_model
from normlab.models.residual import resnet_blocks
from normlab.models.resnet import ResNet, shortcut
from normlab.norms import NORMS
from normlab.runs.config import resolve
from normlab.settings import SETTINGS, Config
from normlab.training.optim import mask_kernels
from normlab.training.state import Hyper, init_state, scale_hidden

ORDERS = SETTINGS["model.block"].choices
RESIDUALS = SETTINGS["model.residual"].choices
HYPER = Hyper(seed=3, lr=1.0, momentum=0.9, weight_decay=0.01, gain=1.0)
SCALARS = {"branch_scale", "before_conv_1", "before_act_1", "before_conv_2", "before_act_2"}


def resnet(changes: dict[str, Any] | None = None, **more: Any) -> Config:
    tiny = {"model.name": "resnet", "model.widths": (4, 6), "norm.groups": 2}
    return small(tiny | (changes or {}), **more)


X = draw((8, 6, 6, 2))


@functools.cache
def start(norm: str = "affine", order: str = "post", residual: str = "identity", n: int = 1) -> Any:
    """A net of two stages of n blocks and its state, drawn once for all tests."""
    changes = {"norm.name": norm, "model.block": order, "model.residual": residual}
    net = build_model(resnet(changes, model__depth=4 * n + 2), 10, "patches")
    return net, jax.jit(lambda x: init_state(net, "momentum", HYPER, x))(X)


@functools.cache
def logits_of(order: str, residual: str) -> Any:
    """Compiled parameters -> logits."""
    net, _ = start("affine", order, residual)
    return jax.jit(lambda params: net.apply({"params": params}, X, train=False))


def randomized(params: Any) -> Any:
    """Every parameter drawn anew, so that no branch is 0 and no scalar at its start."""
    leaves, tree = jax.tree.flatten(params)
    drawn = [0.3 * draw(v.shape, i) + (0.0 if v.ndim > 1 else 0.5) for i, v in enumerate(leaves)]
    return jax.tree.unflatten(tree, [jnp.asarray(leaf, jnp.float32) for leaf in drawn])


@pytest.mark.parametrize(("depth", "published"), [(20, 269_722), (56, 853_018)])
def test_parameters_are_those_of_the_paper_and_our_biases(depth, published):
    """Published: 0.27 and 0.85 M in table 6 of arXiv:1512.03385; here to the last one."""
    widths, n = (16, 32, 64), (depth - 2) // 6
    config = resnet({"model.widths": widths, "model.depth": depth, "norm.name": "affine"})
    net = build_model(config, 10, "patches")
    x = np.zeros((1, 32, 32, 3), np.float32)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    biases = widths[0] + 2 * n * sum(widths)
    assert count == published + biases
    convolutions = [p for p in leaves_of(params) if p.endswith("kernel") and "conv" in p]
    assert len(convolutions) + 1 == depth


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("space", [(8, 8), (7, 5)])
def test_the_shortcut_takes_every_other_pixel_and_pads_channels(space, stride):
    x = draw((2, *space, 3))
    rows, columns = -(-space[0] // stride), -(-space[1] // stride)
    expected = np.zeros((2, rows, columns, 5), np.float32)
    for i in range(rows):
        for j in range(columns):
            expected[:, i, j, :3] = x[:, i * stride, j * stride]
    np.testing.assert_array_equal(shortcut(jnp.asarray(x), 5, stride), expected)


ORDER = {
    "post": "conv_1 norm_1 act_1 conv_2 norm_2 act_2",
    "pre": "norm_1 act_1 conv_1 norm_2 act_2 conv_2",
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_order_and_strides_of_the_blocks(order, train):
    log: list = []
    net = ResNet(recorder(log), (4, 8, 8), 2, 10, kernel_init=None, order=order)  # type: ignore
    net.apply({}, draw((2, 12, 7, 1)), train=train, mask=jnp.array([True, False]))
    names = [name for name, _, _ in log]
    stem, last = (
        (["norm_stem", "act_stem"], []) if order == "post" else ([], ["norm_last", "act_last"])
    )
    assert names == ["conv_stem", *stem, *ORDER[order].split() * 6, *last, "head"]
    flags = [flags for name, _, flags in log if name.startswith("norm")]
    mask = [[[[True]]], [[[False]]]]
    assert all(f["train"] is train and f["mask"].tolist() == mask for f in flags)
    seen = [shape for name, shape, _ in log if name in ("conv_1", "conv_2")]
    wide, middle, small = (12, 7), (6, 4), (3, 2)
    assert [s[:2] for s in seen] == [wide] * 5 + [middle] * 4 + [small] * 3
    assert [s[2] for s in seen] == [4] * 5 + [8] * 7
    assert log[-1][1] == (8,)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("residual", ["skipinit", "fixup"])
def test_blocks_start_as_identities(residual, order):
    """Logits are those of the stem and the shortcuts alone, whatever lies in the branches."""
    _, state = start("affine", order, residual)
    params = dict(state.params)
    params["head"] = {"kernel": jnp.asarray(draw((6, 10))), "bias": jnp.asarray(draw((10,)))}
    x = np.asarray(conv(params["conv_stem"], jnp.asarray(X)))
    x = np.concatenate([x, np.zeros((8, 6, 6, 2))], -1)[:, ::2, ::2]
    mean = np.maximum(x, 0).mean((1, 2))
    expected = mean @ params["head"]["kernel"] + params["head"]["bias"]
    found = logits_of(order, residual)(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_fixup_starts_by_its_rules():
    """Two stages of two blocks: L = 4 branches."""
    plain, fixed = (leaves_of(start(residual=r, n=2)[1].params) for r in ("identity", "fixup"))
    own = {p for p in fixed if p.rsplit("/", 1)[-1] in SCALARS}
    assert len(own) == 4 * len(SCALARS)
    assert set(fixed) - set(plain) == own | {"before_act_stem", "before_head"}
    for path, leaf in fixed.items():
        if path.endswith("conv_2/kernel") or path == "head/kernel":
            expected = np.zeros_like(leaf)
        elif path.endswith("conv_1/kernel"):
            expected = plain[path] * 4**-0.5
        elif path in plain:
            expected = plain[path]
        else:
            expected = np.ones(()) if path.endswith("branch_scale") else np.zeros(())
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=path)


ARMS = [(norm, "pre", "identity") for norm in ("affine", "batch", "frn")]
ARMS += [("affine", "post", residual) for residual in ("identity", "none", "skipinit")]


def test_arms_share_the_bits_of_every_parameter_they_share():
    """Norms, orders and residuals; fixup alone starts some kernels elsewhere, by its own rules."""
    shared: dict[str, Any] = {}
    for arm in ARMS:
        leaves = leaves_of(start(*arm)[1].params)
        kernels = {p for p in leaves if p.endswith("kernel")}
        assert len(kernels) == 6 and all(p.replace("kernel", "bias") in leaves for p in kernels)
        for path, leaf in leaves.items():
            key = f"{path} {leaf.shape}"  # of norms, the channels depend on the order
            np.testing.assert_array_equal(leaf, shared.setdefault(key, leaf), err_msg=key)
    assert all(np.std(v) > 0 for key, v in shared.items() if "kernel" in key)


def test_the_gain_and_the_decay_leave_the_scalars_alone():
    params = randomized(start(residual="fixup")[1].params)
    one, four = leaves_of(params), leaves_of(scale_hidden(params, jnp.float32(4)))
    decays = leaves_of(mask_kernels(params))
    for path, leaf in one.items():
        is_kernel = path.endswith("kernel")
        factor = 4 if is_kernel and path != "head/kernel" else 1
        np.testing.assert_array_equal(four[path], leaf * factor, err_msg=path)
        assert decays[path] == is_kernel, path


def conv(p: Any, x: Any, stride: int = 1) -> Any:
    sides, space = [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    y = lax.conv_general_dilated(x, p["kernel"], strides, sides, dimension_numbers=space)
    return y + p["bias"]


def forward(p: Any, x: Any, order: str, residual: str) -> Any:
    """Logits of a net of two stages of one block, from nothing but lax."""
    zero = jnp.zeros(())

    def norm(p, x):
        return x * p["scale"] + p["bias"]

    def relu(x, bias=zero):
        return jnp.maximum(x + bias, 0)

    def block(p, x, stride):
        b = {name: p.get(name, zero) for name in SCALARS}
        if order == "post":
            y = conv(p["conv_1"], x + b["before_conv_1"], stride)
            y = relu(norm(p["norm_1"], y), b["before_act_1"])
            y = norm(p["norm_2"], conv(p["conv_2"], y + b["before_conv_2"]))
        else:
            y = relu(norm(p["norm_1"], x), b["before_act_1"]) + b["before_conv_1"]
            y = relu(norm(p["norm_2"], conv(p["conv_1"], y, stride)), b["before_act_2"])
            y = conv(p["conv_2"], y + b["before_conv_2"])
        y = y * p.get("branch_scale", 1.0)
        if residual != "none":
            y = y.at[..., : x.shape[-1]].add(x[:, ::stride, ::stride])
        return relu(y, b["before_act_2"]) if order == "post" else y

    x = conv(p["conv_stem"], x)
    x = relu(norm(p["norm_stem"], x), p.get("before_act_stem", zero)) if order == "post" else x
    for stage in (1, 2):
        x = block(p[f"stage_{stage}_block_1"], x, stage)
    x = relu(norm(p["norm_last"], x), p.get("before_act_last", zero)) if order == "pre" else x
    x = x.mean((1, 2)) + p.get("before_head", zero)
    return x @ p["head"]["kernel"] + p["head"]["bias"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_logits_are_those_of_plain_lax(residual, order):
    _, state = start("affine", order, residual)
    params = randomized(state.params)
    right = jax.jit(lambda params: forward(params, X, order, residual))(params)
    found = logits_of(order, residual)(params)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n, row in NORMS.items() if row.act])
def test_norms_that_replace_the_activation_run_in_order_pre(name):
    changes = {"norm.name": name, "model.name": "resnet", "model.block": "pre"}
    config = resolve(changes | {"model.placement": "post"})
    assert config.config["model.placement"] == "pre" and len(config.notes) == 1


@pytest.mark.parametrize("widths", [(8,), (8, 16), (16, 32, 64)])
def test_every_legal_depth_is_taken(widths):
    step = 2 * len(widths)
    assert [resnet_blocks(widths, 2 + n * step) for n in (1, 2, 18)] == [1, 2, 18]
    assert resnet_blocks(widths, 0) == 1
