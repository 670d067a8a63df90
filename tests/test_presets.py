"""`PRESETS`: our layer with a preset is the library's default layer, in training and evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from peer_layers import make_layer

from normlab.norms import NORMS, build
from normlab.norms.presets import PRESETS, preset_options

DEFAULTS = {
    "flax": {
        "batch": "flax.linen.BatchNorm()",
        "layer": "flax.linen.LayerNorm(reduction_axes=(1, 2, 3))",
        "layer_channels": "flax.linen.LayerNorm()",
        "instance": "flax.linen.InstanceNorm()",
        "group": "flax.linen.GroupNorm()",
        "rms": "flax.linen.RMSNorm()",
    },
    "torch": {
        "batch": "torch.nn.BatchNorm2d(C)",
        "layer": "torch.nn.GroupNorm(1, C)",
        "layer_channels": "torch.nn.LayerNorm(C)",
        "instance": "torch.nn.InstanceNorm2d(C)",
        "group": "torch.nn.GroupNorm(4, C)",
        "rms": "torch.nn.RMSNorm(C)",
        "local_response": "torch.nn.LocalResponseNorm(5)",
    },
    "keras": {
        "batch": "keras.layers.BatchNormalization()",
        "layer": "keras.layers.LayerNormalization(axis=[1, 2, 3])",
        "layer_channels": "keras.layers.LayerNormalization()",
        "instance": "keras.layers.GroupNormalization(groups=-1)",
        "group": "keras.layers.GroupNormalization()",
        "rms": "keras.layers.RMSNormalization()",
    },
}
"""The layers that the presets stand for, with the options that have no default there."""

AVERAGES = {
    "haiku.BatchNorm(True, True, decay_rate=0.8)": "average='debiased', momentum=0.8",
    "torch.nn.BatchNorm2d(C, momentum=None)": "average='cumulative', running_var='unbiased'",
}
"""Batch norms that no preset stands for -> our options."""


def peers(call: str) -> list[pytest.MarkDecorator]:
    root = call.split(".")[0]
    return [] if root == "flax" else [pytest.mark.peers(root)]


CASES = [
    pytest.param(call, f"norms.build({name!r}, preset={preset!r}).norm()", marks=peers(call))
    for preset, calls in DEFAULTS.items()
    for name, call in calls.items()
] + [
    pytest.param(call, f"norms.BatchNorm({options})", marks=peers(call))
    for call, options in AVERAGES.items()
]


@pytest.mark.parametrize(("theirs", "ours"), CASES)
def test_ours_does_what_theirs_does(theirs, ours):
    """Three steps of training, then an evaluation; the first on values so small that epsilon counts
    (or so large that alpha does), the third so large that the running variance moves."""
    size = 100 if "Response" in theirs else 0.01
    steps = np.random.default_rng(0).standard_normal((4, 3, 2, 2, 64)).astype(np.float32)
    pair = [make_layer(call, steps[0]) for call in (theirs, ours)]
    for i, x in enumerate(steps):
        train, x = i < 3, size * 10**i * (x + i)
        one, two = (np.asarray(layer(x, train)) for layer in pair)
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_presets_set_options_that_the_rows_take():
    assert {preset: list(calls) for preset, calls in DEFAULTS.items()} == {
        preset: list(layers) for preset, layers in PRESETS.items()
    }
    for layers in PRESETS.values():
        for name, options in layers.items():
            assert set(options) <= {*NORMS[name].options, *NORMS[name].arguments}
            assert NORMS[name].running_statistics == ("running_var" in options)


def test_options_beside_a_preset_win():
    norm = build("batch", preset="torch", momentum=0.5).norm()
    assert (norm.momentum, norm.running_var, norm.epsilon) == (0.5, "unbiased", 1e-5)


def test_a_preset_cannot_be_changed_by_its_caller():
    preset_options("keras", "batch")["epsilon"] = 1.0
    assert preset_options("keras", "batch")["epsilon"] == 1e-3


@pytest.mark.parametrize(
    ("preset", "name", "message"),
    [
        ("mxnet", "batch", r"unknown preset 'mxnet' \(presets: flax, torch, keras\)"),
        ("torch", "bathc", "unknown norm 'bathc'; did you mean 'batch'"),
        ("torch", "made_up", r"preset 'torch' has no layer for norm 'made_up' \(it has: batch, "),
    ],
)
def test_refusals_are_one_line(monkeypatch, preset, name, message):
    monkeypatch.setitem(NORMS, "made_up", NORMS["batch"])
    with pytest.raises(ValueError, match=message) as error:
        preset_options(preset, name)
    assert "\n" not in str(error.value)


def test_a_scheme_without_options_has_none_to_set():
    assert preset_options("torch", "none") == {} == preset_options("keras", "affine")
