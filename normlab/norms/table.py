"""`NORMS`: every normalization scheme as one row of metadata, readable without importing jax.

A scheme is its file plus its row. Models, tests, help texts, table labels and studies ask the row,
so no other place knows a scheme's name. `KERNELS` are the schemes that act on kernels; each can be
combined with any row of `NORMS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from normlab.norms.row import Kernel, Norm

COMMON = ("kernel", "noise")
"""Settings `norm.*` that go with every scheme."""
RUNNING = ("epsilon", "momentum", "stats_batch", "average", "running_var")
RUNNING_ARGUMENTS = ("axis_name", "use_running", "update_running", "allow_degenerate")
EXACT: dict[str, Any] = {"invariant": ("shift", "scale"), "standard": True, "exact": True}

NORMS: dict[str, Norm] = {
    "none": Norm(
        title="no normalization",
        family="none",
        module="normlab.norms.plain:Identity",
        over=(),
        parameters=(),
    ),
    "affine": Norm(
        title="scale and bias only",
        family="none",
        module="normlab.norms.plain:Affine",
        over=(),
        cost="output",
        source="control: the parameters of a norm without its statistics",
    ),
    "batch": Norm(
        title="batch norm",
        family="batch",
        module="normlab.norms.batch:BatchNorm",
        over=("N", "H", "W"),
        options=RUNNING,
        arguments=RUNNING_ARGUMENTS,
        running_statistics=True,
        cost="moments; output",
        source="arXiv:1502.03167",
        **EXACT,
    ),
    "batch_renorm": Norm(
        title="batch renormalization",
        family="batch",
        module="normlab.norms.renorm:BatchRenorm",
        over=("N", "H", "W"),
        options=(*RUNNING, "renorm_steps", "r_max", "d_max"),
        arguments=RUNNING_ARGUMENTS,
        running_statistics=True,
        exact=True,
        cost="moments; output",
        source="arXiv:1702.03275",
    ),
    "mean_only_batch": Norm(
        title="mean-only batch norm",
        family="batch",
        module="normlab.norms.mean_only:MeanOnlyBatchNorm",
        over=("N", "H", "W"),
        options=RUNNING,
        arguments=RUNNING_ARGUMENTS,
        parameters=("bias",),
        running_statistics=True,
        invariant=("shift",),
        cost="moments; output",
        source="arXiv:1602.07868",
    ),
    "l1_batch": Norm(
        title="L1 batch norm",
        family="batch",
        module="normlab.norms.l1:L1BatchNorm",
        over=("N", "H", "W"),
        options=RUNNING,
        arguments=RUNNING_ARGUMENTS,
        running_statistics=True,
        invariant=("shift", "scale"),
        cost="moments; mean absolute deviation; output",
        source="arXiv:1802.09769, arXiv:1803.01814, arXiv:1805.11604",
    ),
    "switchable": Norm(
        title="switchable norm",
        family="mixed",
        module="normlab.norms.switchable:SwitchNorm",
        over=("N", "H", "W", "C"),
        options=RUNNING,
        arguments=RUNNING_ARGUMENTS,
        parameters=("scale", "bias", "mean_weight", "var_weight"),
        running_statistics=True,
        cost="moments over H, W; output",
        source="arXiv:1806.10779",
    ),
    "batch_instance": Norm(
        title="batch-instance norm",
        family="mixed",
        module="normlab.norms.batch_instance:BatchInstanceNorm",
        over=("N", "H", "W"),
        options=RUNNING,
        arguments=RUNNING_ARGUMENTS,
        parameters=("scale", "bias", "rho"),
        running_statistics=True,
        cost="moments over N, H, W; moments over H, W; output",
        source="arXiv:1805.07925",
        **EXACT,
    ),
    "layer": Norm(
        title="layer norm (H, W, C)",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("H", "W", "C"),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        cost="moments; output",
        source="arXiv:1607.06450",
        **EXACT,
    ),
    "layer_channels": Norm(
        title="layer norm (C)",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("C",),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        equals="layer",
        cost="moments; output",
        source="arXiv:1607.06450 as used in transformers and ConvNeXt",
        **EXACT,
    ),
    "instance": Norm(
        title="instance norm",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("H", "W"),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        cost="moments; output",
        source="arXiv:1607.08022",
        **EXACT,
    ),
    "group": Norm(
        title="group norm",
        family="sample",
        module="normlab.norms.group:GroupNorm",
        over=("H", "W", "C/G"),
        options=("epsilon", "groups"),
        arguments=("group_size", "allow_degenerate"),
        grouped=True,
        cost="moments; output",
        source="arXiv:1803.08494",
        **EXACT,
    ),
    "rms": Norm(
        title="RMS norm",
        family="sample",
        module="normlab.norms.sample:SampleNorm",
        over=("C",),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        fixed={"centered": False, "use_bias": False},
        parameters=("scale",),
        centered=False,
        cost="mean square; output",
        source="arXiv:1910.07467",
        **{**EXACT, "invariant": ("scale",)},
    ),
    "frn": Norm(
        title="filter response norm",
        family="response",
        module="normlab.norms.frn:FilterResponseNorm",
        over=("H", "W"),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        act="normlab.norms.frn:TLU",
        centered=False,
        cost="mean square; output",
        source="arXiv:1911.09737",
        **{**EXACT, "invariant": ("scale",)},
    ),
    "evonorm_b0": Norm(
        title="EvoNorm-B0",
        family="evonorm",
        module="normlab.norms.evonorm:EvoNormB0",
        over=("N", "H", "W"),
        spatial=True,
        options=RUNNING,
        arguments=RUNNING_ARGUMENTS,
        parameters=("scale", "bias", "v"),
        act="normlab.norms.plain:Identity",
        centered=False,
        running_statistics=True,
        invariant=("scale",),
        cost="moments over N, H, W; moments over H, W; output",
        source="arXiv:2004.02967",
    ),
    "evonorm_s0": Norm(
        title="EvoNorm-S0",
        family="evonorm",
        module="normlab.norms.evonorm:EvoNormS0",
        over=("H", "W", "C/G"),
        options=("epsilon", "groups"),
        arguments=("group_size", "allow_degenerate"),
        parameters=("scale", "bias", "v"),
        act="normlab.norms.plain:Identity",
        centered=False,
        grouped=True,
        cost="moments; output",
        source="arXiv:2004.02967",
    ),
    "dynamic_tanh": Norm(
        title="dynamic tanh",
        family="element",
        module="normlab.norms.dynamic:DynamicTanh",
        over=(),
        arguments=("alpha",),
        parameters=("scale", "bias", "alpha"),
        centered=False,
        cost="output",
        source="arXiv:2503.10622",
    ),
    "dynamic_erf": Norm(
        title="dynamic erf",
        family="element",
        module="normlab.norms.dynamic:DynamicErf",
        over=(),
        arguments=("alpha",),
        parameters=("scale", "bias", "alpha", "shift"),
        centered=False,
        cost="output",
        source="arXiv:2512.10938",
    ),
    "global_response": Norm(
        title="global response norm",
        family="response",
        module="normlab.norms.response:GlobalResponseNorm",
        over=("H", "W", "C"),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        parameters=("response", "bias"),
        centered=False,
        cost="mean square; output",
        source="arXiv:2301.00808",
    ),
    "unit": Norm(
        title="unit length (C)",
        family="response",
        module="normlab.norms.response:UnitNorm",
        over=("C",),
        options=("epsilon",),
        arguments=("allow_degenerate",),
        parameters=("scale",),
        centered=False,
        invariant=("scale",),
        exact=True,
        cost="mean square; output",
        source="arXiv:1506.04579",
    ),
    "local_response": Norm(
        title="local response norm",
        family="response",
        module="normlab.norms.response:LocalResponseNorm",
        over=(),
        arguments=("size", "alpha", "beta", "k"),
        parameters=(),
        centered=False,
        cost="squares of neighbouring channels; output",
        source="Krizhevsky et al., NIPS 2012",
    ),
}

KERNELS: dict[str, Kernel] = {
    "none": Kernel(title="kernels as they are", module=""),
    "weight_norm": Kernel(
        title="weight norm, started from the first batch",
        module="normlab.norms.reparam:WeightNorm",
        parameters=("gain",),
        moved=("bias",),  # the paper's initialization is one of gain and bias together
        invariant=("scale", "size"),
        source="arXiv:1602.07868",
    ),
    "standardize": Kernel(
        title="weight standardization",
        module="normlab.norms.reparam:Standardize",
        invariant=("shift", "scale", "size"),
        source="arXiv:1903.10520",
    ),
    "scaled_standardize": Kernel(
        title="scaled weight standardization",
        module="normlab.norms.reparam:ScaledStandardize",
        parameters=("gain",),
        invariant=("shift", "scale", "size"),
        source="arXiv:2101.08692 with the gain of arXiv:2102.06171",
    ),
    "spectral": Kernel(
        title="spectral norm",
        module="normlab.norms.reparam:Spectral",
        invariant=("size",),
        has_state=True,
        source="arXiv:1802.05957",
    ),
}

Row = TypeVar("Row")


def _find(kind: str, table: Mapping[str, Row], name: str) -> Row:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {kind} {name!r}{hint} ({kind}s: {', '.join(table)})")
    return table[name]


def find_norm(name: str) -> Norm:
    """Return the row of `name`; raises ValueError with the list and the nearest name."""
    return _find("norm", NORMS, name)


def find_kernel(name: str) -> Kernel:
    """Return the kernel scheme `name`; raises ValueError with the list and the nearest name."""
    return _find("norm.kernel", KERNELS, name)
