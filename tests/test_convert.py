"""`from_torch` and `to_torch`: what is taken, round trips, refusals, equal outputs in PyTorch."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.reference_libraries import Torch
from normlab.norms import build
from normlab.norms.convert import from_torch, to_torch

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "conventions.md"
PEERS = pytest.mark.peers("torch")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return (1 + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def state_dict() -> dict[str, np.ndarray]:
    """What a small model of PyTorch holds: two convolutions, three norms, a dense layer."""
    return {
        "stem.weight": draw(8, 3, 3, 3),
        "stem.bias": draw(8),
        "layer1.0.bn1.weight": draw(8, seed=1),
        "layer1.0.bn1.bias": draw(8, seed=2),
        "layer1.0.bn1.running_mean": draw(8, seed=3),
        "layer1.0.bn1.running_var": draw(8, seed=4) ** 2,
        "layer1.0.bn1.num_batches_tracked": np.array(7, np.int64),
        "plain.running_mean": draw(4, seed=5),
        "plain.running_var": draw(4, seed=6) ** 2,
        "plain.num_batches_tracked": np.array(0, np.int64),
        "norm.weight": draw(8, seed=7),
        "norm.bias": draw(8, seed=8),
        "bare.weight": draw(8, 8, 3, 3, seed=11),
        "head.weight": draw(10, 8, seed=9),
        "head.bias": draw(10, seed=10),
    }


NOT_NORMS = ("stem.", "bare.", "head.")


def test_only_norms_are_taken_and_go_to_nested_paths():
    state = state_dict()
    variables = from_torch(state)
    assert jax.tree.map(np.shape, variables) == {
        "params": {
            "layer1": {"0": {"bn1": {"scale": (8,), "bias": (8,)}}},
            "norm": {"scale": (8,), "bias": (8,)},
        },
        "batch_stats": {
            "layer1": {"0": {"bn1": {"mean": (8,), "mean_lo": (8,), "var": (8,)}}},
            "plain": {"mean": (4,), "mean_lo": (4,), "var": (4,)},
        },
        "norm_state": {"layer1": {"0": {"bn1": {"count": ()}}}, "plain": {"count": ()}},
    }
    bn = variables["params"]["layer1"]["0"]["bn1"], variables["batch_stats"]["layer1"]["0"]["bn1"]
    for leaves, ours, theirs in (
        (bn[0], "scale", "weight"),
        (bn[0], "bias", "bias"),
        (bn[1], "mean", "running_mean"),
        (bn[1], "var", "running_var"),
    ):
        np.testing.assert_array_equal(leaves[ours], state[f"layer1.0.bn1.{theirs}"])
    count: Any = variables["norm_state"]["layer1"]["0"]["bn1"]["count"]
    assert count.dtype == np.int32 and count == 7
    floats = jax.tree.leaves([variables["params"], variables["batch_stats"]])
    assert {leaf.dtype for leaf in floats} == {np.dtype("float32")}


@pytest.mark.parametrize("paths", [None, {"layer1.0.bn1": "block_0.norm_1", "norm": ""}])
def test_the_way_to_flax_and_back_changes_no_bit(paths):
    state = {k: v for k, v in state_dict().items() if not k.startswith(NOT_NORMS)}
    variables = from_torch(state, paths=paths)
    assert set(variables["params"]) == (
        {"block_0", "scale", "bias"} if paths else {"layer1", "norm"}
    )
    back = to_torch(variables, paths=paths)
    assert set(back) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype and back[name].shape == value.shape


def test_other_parameters_of_a_flax_model_do_not_go_to_torch():
    conv = {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4), "scale": np.ones(4)}
    frn = {"scale": np.ones(4), "bias": np.ones(4), "tau": np.ones(4)}
    params = {"conv": conv, "head": {"bias": np.ones(2)}, "norm_1": {"scale": np.ones(4)}}
    stats = {"frn": {"mean": np.ones(4), "var": np.ones(4)}, "mean_only": {"mean": np.ones(4)}}
    found = to_torch({"params": params | {"frn": frn}, "batch_stats": stats})
    assert set(found) == {"norm_1.weight"}
    assert to_torch({}) == {}


def test_a_wide_running_mean_is_kept_in_two_leaves():
    mean = np.array([1e6 + 1 / 3, -2e-3 / 7])
    stats = from_torch({"running_mean": mean, "running_var": np.ones(2)})["batch_stats"]
    pair = stats["mean"].astype(np.float64) + stats["mean_lo"]
    np.testing.assert_allclose(pair, mean, rtol=1e-14)
    assert stats["mean_lo"].any()
    back = to_torch({"batch_stats": stats})
    assert back["running_mean"].dtype == np.float32
    np.testing.assert_array_equal(back["running_mean"], mean.astype(np.float32))
    apart = {"mean": np.ones(2), "mean_lo": np.full(2, 0.5), "var": np.ones(2)}
    assert (to_torch({"batch_stats": apart})["running_mean"] == 1.5).all()


def test_arrays_that_come_back_are_copies_in_float32():
    half = np.ones(2, jax.numpy.bfloat16)
    assert to_torch({"params": {"scale": half}})["weight"].dtype == np.float32
    scale = np.ones(2, np.float32)
    to_torch({"params": {"scale": scale}})["weight"][:] = 5
    from_torch({"weight": scale, "bias": scale})["params"]["scale"][:] = 5
    assert (scale == 1).all()


@pytest.mark.parametrize("modules", [["norms.0", "norms.1"], ["norms.*"], "norms.*"])
def test_modules_are_chosen_by_name_or_pattern(modules):
    state = {"norms.0.weight": draw(4), "norms.1.weight": draw(4), "act.weight": draw(4)}
    assert from_torch(state, modules=modules)["params"]["norms"].keys() == {"0", "1"}


def refusal(run) -> str:
    with pytest.raises(ValueError) as error:
        run()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refusals_say_what_where_and_the_way_out():
    state = state_dict()
    plane = {"ln.weight": draw(8, 4, 4), "ln.bias": draw(8, 4, 4)}
    assert "ln: weight has shape (8, 4, 4)" in refusal(lambda: from_torch(plane))
    assert "stem: weight has shape (8, 3, 3, 3)" in refusal(
        lambda: from_torch(state, modules=["stem"])
    )
    uneven = {**state, "norm.running_mean": draw(3), "norm.running_var": draw(3)}
    assert "norm: weight has shape (8,)" in refusal(lambda: from_torch(uneven))
    alone = refusal(lambda: from_torch({"act.weight": draw(4)}))
    assert "act: a weight of shape (4,) without a bias" in alone and "modules=[" in alone
    assert "no module 'bn9' (modules: stem, layer1.0.bn1" in refusal(
        lambda: from_torch(state, modules=["norm", "bn9"])
    )
    assert "paths: no norm 'stem' (norms: layer1.0.bn1, plain, norm)" in refusal(
        lambda: from_torch(state, paths={"stem": "norm_0"})
    )
    assert "'layer1.0.bn1' and 'norm' both go to 'norm'" in refusal(
        lambda: from_torch(state, paths={"layer1.0.bn1": "norm"})
    )
    both = {"params": {name: {"scale": np.ones(8)} for name in ("norm_1", "a")}}
    assert "'norm_1' and 'a' both go to 'a'" in refusal(
        lambda: to_torch(both, paths={"a": "norm_1"})
    )
    members = {"params": {"norm_1": {"scale": np.ones((5, 8))}}}
    assert "norm_1: scale has shape (5, 8)" in refusal(lambda: to_torch(members))
    assert "paths: no norm 'norm_2' (norms: norm_1)" in refusal(
        lambda: to_torch({"params": {"norm_1": {"scale": np.ones(8)}}}, paths={"a": "norm_2"})
    )


LAYERS = {
    "BatchNorm1d(8)": ("batch", (16, 8), {}),
    "BatchNorm2d(8)": ("batch", (6, 4, 3, 8), {}),
    "BatchNorm2d(8, momentum=None)": ("batch", (6, 4, 3, 8), {"average": "cumulative"}),
    "BatchNorm2d(8, momentum=0.3, eps=1e-3)": (
        "batch",
        (6, 4, 3, 8),
        {"momentum": 0.7, "epsilon": 1e-3},
    ),
    "LayerNorm(8)": ("layer_channels", (6, 4, 3, 8), {}),
    "GroupNorm(4, 8)": ("group", (6, 4, 3, 8), {"groups": 4}),
    "GroupNorm(1, 8)": ("layer", (6, 4, 3, 8), {}),
    "InstanceNorm2d(8, affine=True)": ("instance", (6, 4, 3, 8), {}),
    "RMSNorm(8)": ("rms", (6, 4, 3, 8), {}),
}
"""PyTorch's layer -> our scheme, the shape of x, options beside the preset."""


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


@PEERS
@pytest.mark.parametrize("call", LAYERS)
def test_outputs_are_those_of_torch_on_the_way_in_and_out(call):
    """PyTorch trains, ours goes on from its state, PyTorch goes on from ours."""
    torch = importlib.import_module("torch")
    name, shape, options = LAYERS[call]
    theirs, fresh = (
        Torch(lambda: eval(f"torch.nn.{call}", {"torch": torch}), draw(*shape)) for _ in range(2)
    )
    for i, leaf in enumerate(theirs.layer.parameters()):
        leaf.data = torch.tensor(draw(8, seed=20 + i))
    for i in range(2):
        theirs(draw(*shape, seed=i))

    modules = [""] if name == "rms" else None
    variables = from_torch(theirs.layer.state_dict(), modules=modules)
    ours: Any = build(name, preset="torch", **options).norm()
    for seed, train in ((3, False), (4, True), (5, True), (6, False)):
        x = draw(*shape, seed=seed)
        y, moved = ours.apply(variables, x, train=train, mutable=["batch_stats", "norm_state"])
        variables |= moved
        close(y, theirs(x, train))

    arrays = to_torch(variables)
    fresh.layer.load_state_dict({k: torch.as_tensor(v) for k, v in arrays.items()})
    for key, value in theirs.layer.state_dict().items():
        close(value.numpy(), fresh.layer.state_dict()[key].numpy())
    x = draw(*shape, seed=7)
    close(fresh(x, train=False), theirs(x, train=False))


@PEERS
def test_tensors_of_any_type_are_read():
    torch = importlib.import_module("torch")
    layer = torch.nn.BatchNorm1d(4)
    half = from_torch({k: v.bfloat16() for k, v in layer.state_dict(keep_vars=True).items()})
    assert half["params"]["scale"].dtype == np.float32
    double = from_torch(layer.double().state_dict())
    assert double["norm_state"]["count"].dtype == np.int32


BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "code",
    [pytest.param(b, marks=[PEERS] if "import torch" in b else []) for b in BLOCKS],
    ids=[f"block {i}" for i in range(len(BLOCKS))],
)
def test_examples_of_the_document_run(code):
    exec(compile(code, str(DOCUMENT), "exec"), {})
