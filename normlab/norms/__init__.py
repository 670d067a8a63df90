"""Every normalization scheme as a Flax Linen module with one signature.

    from normlab import norms
    norm = norms.build("group", groups=8).norm
    y = norm(name="norm_1")(x, train=True)

The table `NORMS` is readable without jax; everything else is imported when first asked for.
"""

# ruff: noqa: F401 (the names are exported by `__getattr__`)

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from normlab.layers.table import KERNELS, Kernel, find_kernel
from normlab.norms.table import NORMS, Norm, find_norm

if TYPE_CHECKING:  # for editors; at run time `_PLACES` says where a name is found
    from normlab.layers.kernel_norm import KernelNorm
    from normlab.layers.linear import Conv, Dense
    from normlab.layers.reparam import ScaledStandardize, Spectral, Standardize, WeightNorm
    from normlab.norms import nnx
    from normlab.norms.batch import BatchNorm
    from normlab.norms.batch_instance import BatchInstanceNorm
    from normlab.norms.builder import Layers, adopt, build, release
    from normlab.norms.convert import (
        from_equinox,
        from_haiku,
        from_keras,
        from_torch,
        options_of,
        to_torch,
    )
    from normlab.norms.dynamic import DynamicErf, DynamicTanh
    from normlab.norms.evonorm import EvoNormB0, EvoNormS0
    from normlab.norms.frn import TLU, FilterResponseNorm
    from normlab.norms.group import GroupNorm
    from normlab.norms.instance import RunningInstanceNorm
    from normlab.norms.l1 import L1BatchNorm
    from normlab.norms.mean_only import MeanOnlyBatchNorm
    from normlab.norms.plain import Affine, Identity, Scheme, finish
    from normlab.norms.power import PowerNorm
    from normlab.norms.presets import PRESETS, preset_options
    from normlab.norms.renorm import BatchRenorm
    from normlab.norms.response import GlobalResponseNorm, LocalResponseNorm, UnitNorm
    from normlab.norms.sample import SampleNorm
    from normlab.norms.serving import fold, fold_kernels
    from normlab.norms.switchable import SwitchNorm
    from normlab.norms.updates import Branches, average_states, frozen, reestimate

_OTHERS = {
    "layers.kernel_norm": ("KernelNorm",),
    "layers.linear": ("Conv", "Dense"),
    "norms.builder": ("Layers", "adopt", "build", "release"),
    "norms.convert": (
        "from_equinox",
        "from_haiku",
        "from_keras",
        "from_torch",
        "options_of",
        "to_torch",
    ),
    "norms.plain": ("Scheme", "finish"),
    "norms.presets": ("PRESETS", "preset_options"),
    "norms.serving": ("fold", "fold_kernels"),
    "norms.updates": ("Branches", "average_states", "frozen", "reestimate"),
}
_PLACES = [f"normlab.{file}:{name}" for file, names in _OTHERS.items() for name in names]
_PLACES += [row.module for row in (*NORMS.values(), *KERNELS.values()) if row.module]
_PLACES += [row.act for row in NORMS.values() if row.act]
_LAZY = {place.partition(":")[2]: place for place in _PLACES} | {"nnx": "normlab.norms.nnx"}

__all__ = ["KERNELS", "Kernel", "NORMS", "Norm", "find_kernel", "find_norm"]
__all__ += sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'normlab.norms' has no attribute {name!r}")
    return pkgutil.resolve_name(_LAZY[name])
