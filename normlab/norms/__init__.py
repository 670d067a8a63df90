"""Every normalization scheme as a Flax Linen module with one signature.

    from normlab import norms
    norm = norms.build("group", groups=8).norm
    y = norm(name="norm_1")(x, train=True)

The table `NORMS` is readable without jax; everything else is imported when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normlab.norms.table import KERNELS, NORMS, Kernel, Norm, find_kernel, find_norm

if TYPE_CHECKING:
    from normlab.norms.batch import BatchNorm
    from normlab.norms.batch_instance import BatchInstanceNorm
    from normlab.norms.convert import from_torch, to_torch
    from normlab.norms.dynamic import DynamicErf, DynamicTanh
    from normlab.norms.evonorm import EvoNormB0, EvoNormS0
    from normlab.norms.frn import TLU, FilterResponseNorm
    from normlab.norms.group import GroupNorm
    from normlab.norms.kernels import Conv, Dense
    from normlab.norms.l1 import L1BatchNorm
    from normlab.norms.layers import Layers, adopt, build, release
    from normlab.norms.mean_only import MeanOnlyBatchNorm
    from normlab.norms.plain import Affine, Identity
    from normlab.norms.presets import PRESETS, preset_options
    from normlab.norms.renorm import BatchRenorm
    from normlab.norms.reparam import ScaledStandardize, Spectral, Standardize, WeightNorm
    from normlab.norms.response import GlobalResponseNorm, LocalResponseNorm, UnitNorm
    from normlab.norms.sample import SampleNorm
    from normlab.norms.switchable import SwitchNorm

_LAZY = {
    "PRESETS": "presets",
    "preset_options": "presets",
    "from_torch": "convert",
    "to_torch": "convert",
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
    "ScaledStandardize": "reparam",
    "Spectral": "reparam",
    "Standardize": "reparam",
    "WeightNorm": "reparam",
    "FilterResponseNorm": "frn",
    "TLU": "frn",
    "EvoNormB0": "evonorm",
    "EvoNormS0": "evonorm",
    "DynamicErf": "dynamic",
    "DynamicTanh": "dynamic",
    "GlobalResponseNorm": "response",
    "LocalResponseNorm": "response",
    "UnitNorm": "response",
    "BatchInstanceNorm": "batch_instance",
    "BatchRenorm": "renorm",
    "L1BatchNorm": "l1",
    "MeanOnlyBatchNorm": "mean_only",
    "SwitchNorm": "switchable",
}

__all__ = [
    "PRESETS",
    "preset_options",
    "from_torch",
    "to_torch",
    "KERNELS",
    "NORMS",
    "TLU",
    "Affine",
    "BatchNorm",
    "Conv",
    "Dense",
    "DynamicErf",
    "DynamicTanh",
    "EvoNormB0",
    "EvoNormS0",
    "FilterResponseNorm",
    "GlobalResponseNorm",
    "GroupNorm",
    "Identity",
    "Kernel",
    "Layers",
    "LocalResponseNorm",
    "Norm",
    "SampleNorm",
    "ScaledStandardize",
    "Spectral",
    "Standardize",
    "UnitNorm",
    "WeightNorm",
    "adopt",
    "build",
    "find_kernel",
    "find_norm",
    "release",
    "BatchInstanceNorm",
    "BatchRenorm",
    "L1BatchNorm",
    "MeanOnlyBatchNorm",
    "SwitchNorm",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'normlab.norms' has no attribute {name!r}")
    return getattr(importlib.import_module(f"normlab.norms.{_LAZY[name]}"), name)
