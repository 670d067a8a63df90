"""`PRESETS`: the options with which our layers are another library's default layers."""

from __future__ import annotations

from typing import Any

from normlab.norms.table import find_norm

_TORCH_RMS = 2.0**-23  # eps=None: the machine epsilon of float32

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "flax": {
        "batch": {"epsilon": 1e-5, "momentum": 0.99, "running_var": "biased"},
        "layer": {"epsilon": 1e-6},
        "layer_channels": {"epsilon": 1e-6},
        "instance": {"epsilon": 1e-6},
        "group": {"epsilon": 1e-6, "groups": 32},
        "rms": {"epsilon": 1e-6},
    },
    "torch": {
        "batch": {"epsilon": 1e-5, "momentum": 0.9, "running_var": "unbiased"},
        "layer": {"epsilon": 1e-5},
        "layer_channels": {"epsilon": 1e-5},
        "instance": {"epsilon": 1e-5},
        "group": {"epsilon": 1e-5},  # no default number of groups
        "rms": {"epsilon": _TORCH_RMS},
        "local_response": {"alpha": 1e-4, "beta": 0.75, "k": 1.0},  # no default size
    },
    "keras": {
        "batch": {"epsilon": 1e-3, "momentum": 0.99, "running_var": "biased"},
        "layer": {"epsilon": 1e-3},
        "layer_channels": {"epsilon": 1e-3},
        "instance": {"epsilon": 1e-3},  # GroupNormalization(groups=-1)
        "group": {"epsilon": 1e-3, "groups": 32},
        "rms": {"epsilon": 1e-6},
    },
}
"""Library -> scheme -> options of `norms.build`; what is left out has no default there."""


def preset_options(preset: str, name: str) -> dict[str, Any]:
    """Return the options with which the scheme `name` is the default layer of the library `preset`.

    A scheme that takes no options has none to set: {}. The dict is the caller's to change.
    Raises ValueError for an unknown preset or scheme, and where the library has no such layer.

    >>> preset_options("torch", "batch")
    {'epsilon': 1e-05, 'momentum': 0.9, 'running_var': 'unbiased'}
    """
    row = find_norm(name)
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r} (presets: {', '.join(PRESETS)})")
    layers = PRESETS[preset]
    if name not in layers and (row.options or row.arguments):
        raise ValueError(
            f"preset {preset!r} has no layer for norm {name!r} (it has: {', '.join(layers)}); "
            "leave the preset out and give the options"
        )
    return dict(layers.get(name, {}))
