"""`NORMS`: every normalization scheme as one row of metadata, readable without importing jax.

A scheme is its file plus its row. Models, tests, help texts, table labels and studies ask the row,
so no other place knows a scheme's name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Norm:
    """One scheme: where its module stands, what it averages over, which options it takes."""

    title: str
    family: str
    module: Any
    """Where the Linen module is found, "package.file:Class"; or the class itself."""
    over: tuple[str, ...]
    """Axis letters that one statistic averages over; () where there is no statistic."""
    options: tuple[str, ...] = ()
    """Settings `norm.*` that the scheme takes; the others are reset to their defaults."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Arguments of the module that make this row out of its family."""
    centered: bool = True
    affine: bool = True
    running_statistics: bool = False
    grouped: bool = False
    """Whether the channels are split into `groups`, which must divide them."""
    equals: str = ""
    """The row with the same arithmetic on dense inputs [N, C], if any."""
    source: str = ""
    version: int = 1

    @property
    def is_per_sample(self) -> bool:
        return bool(self.over) and "N" not in self.over

    @property
    def needs_space(self) -> bool:
        """Whether the scheme has nothing to average over in a dense input [N, C]."""
        return bool(self.over) and set(self.over) <= {"H", "W"}


NORMS: dict[str, Norm] = {
    "none": Norm(
        title="no normalization",
        family="none",
        module="normlab.norms.plain:Identity",
        over=(),
        affine=False,
    ),
    "affine": Norm(
        title="scale and bias only",
        family="none",
        module="normlab.norms.plain:Affine",
        over=(),
        source="control: the parameters of a norm without its statistics",
    ),
    "batch": Norm(
        title="batch norm",
        family="batch",
        module="normlab.norms.batch:BatchNorm",
        over=("N", "H", "W"),
        options=("epsilon", "momentum", "stats_batch"),
        running_statistics=True,
        source="arXiv:1502.03167",
    ),
    "layer": Norm(
        title="layer norm (H, W, C)",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("H", "W", "C"),
        options=("epsilon",),
        source="arXiv:1607.06450",
    ),
    "layer_channels": Norm(
        title="layer norm (C)",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("C",),
        options=("epsilon",),
        equals="layer",
        source="arXiv:1607.06450 as used in transformers and ConvNeXt",
    ),
    "instance": Norm(
        title="instance norm",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("H", "W"),
        options=("epsilon",),
        source="arXiv:1607.08022",
    ),
    "group": Norm(
        title="group norm",
        family="sample",
        module="normlab.norms.group:GroupNorm",
        over=("H", "W", "C/G"),
        options=("epsilon", "groups"),
        grouped=True,
        source="arXiv:1803.08494",
    ),
    "rms": Norm(
        title="RMS norm",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("C",),
        options=("epsilon",),
        fixed={"centered": False, "use_bias": False},
        centered=False,
        source="arXiv:1910.07467",
    ),
}


def find_norm(name: str) -> Norm:
    """Return the row of `name`; raises ValueError with the list and the nearest name."""
    if name not in NORMS:
        near = difflib.get_close_matches(name, NORMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown norm {name!r}{hint} (norms: {', '.join(NORMS)})")
    return NORMS[name]
