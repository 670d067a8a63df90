"""Every normalization scheme as a Flax Linen module with one signature.

    from normlab import norms
    norm = norms.build("group", groups=8).norm
    y = norm(name="norm_1")(x, train=True)

The table `NORMS` is readable without jax; everything else is imported when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normlab.norms.table import NORMS, Norm, find_norm

if TYPE_CHECKING:
    from normlab.norms.batch import BatchNorm
    from normlab.norms.group import GroupNorm
    from normlab.norms.kernels import Conv, Dense
    from normlab.norms.layers import Layers, adopt, build, release
    from normlab.norms.plain import Affine, Identity
    from normlab.norms.sample import SampleNorm

_LAZY = {
    "Layers": "layers",
    "build": "layers",
    "adopt": "layers",
    "release": "layers",
    "BatchNorm": "batch",
    "GroupNorm": "group",
    "SampleNorm": "sample",
    "Identity": "plain",
    "Affine": "plain",
    "Conv": "kernels",
    "Dense": "kernels",
}

__all__ = [
    "NORMS",
    "Affine",
    "BatchNorm",
    "Conv",
    "Dense",
    "GroupNorm",
    "Identity",
    "Layers",
    "Norm",
    "SampleNorm",
    "adopt",
    "build",
    "find_norm",
    "release",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'normlab.norms' has no attribute {name!r}")
    return getattr(importlib.import_module(f"normlab.norms.{_LAZY[name]}"), name)
