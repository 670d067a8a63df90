"""`NORMS`: every normalization scheme as one row of metadata, readable without importing jax.

A scheme is its file plus its row. Models, tests, help texts, table labels and studies ask the row,
so no other place has a scheme's name. `normlab/layers/table.py` has the schemes that act on
kernels; each can be combined with any row of `NORMS`.
"""

from __future__ import annotations

import re
from typing import Any

from normlab.layers.table import KERNELS
from normlab.lookup import did_you_mean, find_row
from normlab.norms.row import Norm

COMMON = ("kernel", "noise")
"""Settings `norm.*` that go with every scheme."""
EXACT: dict[str, Any] = {"invariant": ("shift", "scale"), "standard": True, "exact": True}
EXACT_SCALE = {**EXACT, "invariant": ("scale",)}
RUNNING: dict[str, Any] = {
    "over": ("N", "H", "W"),
    "options": ("epsilon", "momentum", "stats_batch", "average", "running_var"),
    "arguments": (
        "axis_name",
        "axis_index_groups",
        "use_running",
        "update_running",
        "allow_degenerate",
    ),
    "running_statistics": True,
}
"""What the schemes on `RunningNorm` have in common."""
OWN: dict[str, Any] = {"options": ("epsilon",), "arguments": ("allow_degenerate",)}
"""What schemes take whose statistics never leave an example."""
GROUPED: dict[str, Any] = {
    "over": ("H", "W", "C/G"),
    "options": ("epsilon", "groups"),
    "arguments": ("group_size", "allow_degenerate"),
    "grouped": True,
}
SAMPLE: dict[str, Any] = {**OWN, "family": "sample", "module": "normlab.norms.sample:SampleNorm"}
LAYER = {**SAMPLE, "arguments": ("allow_degenerate", "per_element", "channels_along")}
ELEMENT: dict[str, Any] = {
    "family": "element",
    "over": (),
    "arguments": ("alpha",),
    "centered": False,
    "cost": "output",
}

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
        cost="moments; output",
        source="arXiv:1502.03167",
        **RUNNING,
        **EXACT,
    ),
    "batch_renorm": Norm(
        title="batch renormalization",
        family="batch",
        module="normlab.norms.renorm:BatchRenorm",
        exact=True,
        cost="moments; output",
        source="arXiv:1702.03275",
        trains_on_averages=True,
        **{**RUNNING, "options": (*RUNNING["options"], "renorm_steps", "r_max", "d_max")},
    ),
    "mean_only_batch": Norm(
        title="mean-only batch norm",
        family="batch",
        module="normlab.norms.mean_only:MeanOnlyBatchNorm",
        parameters=("bias",),
        invariant=("shift",),
        cost="moments; output",
        source="arXiv:1602.07868",
        **RUNNING,
    ),
    "l1_batch": Norm(
        title="L1 batch norm",
        family="batch",
        module="normlab.norms.l1:L1BatchNorm",
        invariant=("shift", "scale"),
        cost="moments; mean absolute deviation; output",
        source="arXiv:1802.09769, arXiv:1803.01814, arXiv:1805.11604",
        **RUNNING,
    ),
    "power": Norm(
        title="power norm",
        family="batch",
        module="normlab.norms.power:PowerNorm",
        centered=False,
        approximate_gradient=True,
        cost="output; mean square",
        source="arXiv:2003.07845",
        trains_on_averages=True,
        **RUNNING,
    ),
    "switchable": Norm(
        title="switchable norm",
        family="mixed",
        module="normlab.norms.switchable:SwitchNorm",
        parameters=("scale", "bias", "mean_weight", "var_weight"),
        cost="moments over H, W; output",
        source="arXiv:1806.10779",
        **{**RUNNING, "over": ("N", "H", "W", "C")},
    ),
    "batch_instance": Norm(
        title="batch-instance norm",
        family="mixed",
        module="normlab.norms.batch_instance:BatchInstanceNorm",
        parameters=("scale", "bias", "rho"),
        cost="moments over N, H, W; moments over H, W; output",
        source="arXiv:1805.07925",
        **RUNNING,
        **EXACT,
    ),
    "layer": Norm(
        title="layer norm (H, W, C)",
        over=("H", "W", "C"),
        cost="moments; output",
        source="arXiv:1607.06450",
        **LAYER,
        **EXACT,
    ),
    "layer_channels": Norm(
        title="layer norm (C)",
        over=("C",),
        equals="layer",
        cost="moments; output",
        source="arXiv:1607.06450 as used in transformers and ConvNeXt",
        **LAYER,
        **EXACT,
    ),
    "instance": Norm(
        title="instance norm",
        over=("H", "W"),
        cost="moments; output",
        source="arXiv:1607.08022",
        **SAMPLE,
        **EXACT,
    ),
    "instance_running": Norm(
        title="instance norm with running statistics",
        family="sample",
        module="normlab.norms.instance:RunningInstanceNorm",
        cost="moments; output",
        source="arXiv:1607.08022 as in PyTorch",
        **{
            **RUNNING,
            "over": ("H", "W"),
            "arguments": ("use_running", "update_running", "allow_degenerate"),
        },
        **EXACT,
    ),
    "group": Norm(
        title="group norm",
        family="sample",
        module="normlab.norms.group:GroupNorm",
        cost="moments; output",
        source="arXiv:1803.08494",
        **{**GROUPED, "arguments": (*GROUPED["arguments"], "channels_along")},
        **EXACT,
    ),
    "rms": Norm(
        title="RMS norm",
        over=("C",),
        fixed={"centered": False, "use_bias": False},
        parameters=("scale",),
        centered=False,
        cost="mean square; output",
        source="arXiv:1910.07467",
        **{**LAYER, "arguments": (*LAYER["arguments"], "use_bias", "bias_init")},
        **EXACT_SCALE,
    ),
    "frn": Norm(
        title="filter response norm",
        family="response",
        module="normlab.norms.frn:FilterResponseNorm",
        over=("H", "W"),
        act="normlab.norms.frn:TLU",
        centered=False,
        cost="mean square; output",
        source="arXiv:1911.09737",
        **OWN,
        **EXACT_SCALE,
    ),
    "evonorm_b0": Norm(
        title="EvoNorm-B0",
        family="evonorm",
        module="normlab.norms.evonorm:EvoNormB0",
        spatial=True,
        parameters=("scale", "bias", "v"),
        act="normlab.norms.plain:Identity",
        centered=False,
        invariant=("scale",),
        cost="moments over N, H, W; moments over H, W; output",
        source="arXiv:2004.02967",
        **RUNNING,
    ),
    "evonorm_s0": Norm(
        title="EvoNorm-S0",
        family="evonorm",
        module="normlab.norms.evonorm:EvoNormS0",
        parameters=("scale", "bias", "v"),
        act="normlab.norms.plain:Identity",
        centered=False,
        cost="moments; output",
        source="arXiv:2004.02967",
        **GROUPED,
    ),
    "dynamic_tanh": Norm(
        title="dynamic tanh",
        module="normlab.norms.dynamic:DynamicTanh",
        parameters=("scale", "bias", "alpha"),
        source="arXiv:2503.10622",
        **ELEMENT,
    ),
    "dynamic_erf": Norm(
        title="dynamic erf",
        module="normlab.norms.dynamic:DynamicErf",
        parameters=("scale", "bias", "alpha", "shift"),
        source="arXiv:2512.10938",
        **ELEMENT,
    ),
    "global_response": Norm(
        title="global response norm",
        family="response",
        module="normlab.norms.response:GlobalResponseNorm",
        over=("H", "W", "C"),
        parameters=("response", "bias"),
        centered=False,
        cost="mean square; output",
        source="arXiv:2301.00808",
        **OWN,
    ),
    "unit": Norm(
        title="unit length (C)",
        family="response",
        module="normlab.norms.response:UnitNorm",
        over=("C",),
        parameters=("scale",),
        centered=False,
        invariant=("scale",),
        exact=True,
        cost="mean square; output",
        source="arXiv:1506.04579",
        **OWN,
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


def find_norm(name: str) -> Norm:
    """Return the row of `name`; raises ValueError with the list and the nearest name."""
    return NORMS.get(name) or find_row("norm", NORMS, name, meant_by(name))


def meant_by(name: str) -> str:
    """Return "; did you mean 'x'?" for a scheme by its title, its class or its initials.

    >>> meant_by("BatchNorm2d"), meant_by("GN"), meant_by("new")
    ("; did you mean 'batch'?", "; did you mean 'group'?", '')
    >>> meant_by("WeightNorm"), meant_by("gruop")
    ('; did you mean norm.kernel=weight_norm?', "; did you mean 'group'?")
    """
    names: dict[str, str] = {}
    for scheme, row in NORMS.items():
        title = row.title.partition(" (")[0]
        initials = "".join(word[0] for word in title.replace("-", " ").split())
        for known in (scheme, title, row.module.partition(":")[2], initials):
            names.setdefault(_plain(known), scheme)
    kernels = {_plain(kernel): kernel for kernel in KERNELS}
    if _plain(name) in names:
        return f"; did you mean {names[_plain(name)]!r}?"
    if _plain(name) in kernels:
        return f"; did you mean norm.kernel={kernels[_plain(name)]}?"
    return did_you_mean(_plain(name), NORMS)


def _plain(name: str) -> str:
    """Return a name in small letters, without "norm" and signs."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"norm(ali[sz]ation)?", "", letters)
