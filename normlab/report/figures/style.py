"""How figures look: one colour for each scheme, the same in every figure; axes and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from normlab.layers.table import KERNELS
from normlab.norms.table import NORMS
from normlab.settings import SETTINGS
from normlab.studies.setup import Arm, Setup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Drawing

PALETTE = (
    "#000000",
    "#8c8c8c",
    "#0072b2",
    "#d55e00",
    "#a67c00",
    "#b0508a",
    "#009e73",
    "#56b4e9",
)
"""Okabe and Ito's colours, yellow and orange darkened for white paper."""
OWN = ("none", "affine", "batch", "layer", "group", "rms", "instance", "layer_channels")
"""Schemes with a colour of their own, in the palette's order; the others share those of norms."""
MARKERS = "osD^vP<X"
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (10, 2)),
    (0, (6, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
FAR_APART = 30
"""Largest over smallest value from which on an axis of positive values is logarithmic."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LABEL_WIDTH = 30
"""Characters of a line of the legend."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a name with $ is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "normlab",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class LineStyle:
    color: str
    dash: Any
    marker: str


def scheme_of(setup: Setup, arm: Arm, settings: Mapping[str, Any] | None = None) -> str:
    """Return the scheme of an arm: what it sets, its name, what its setup sets, the default.

    Where a kernel scheme stands alone, it is the scheme. `settings` are further ones of its runs.
    """
    told = setup.settings | arm.settings | dict(settings or {})
    norm = told.get("norm.name", SETTINGS["norm.name"].default)
    if arm.name in NORMS and "norm.name" not in arm.settings:
        norm = arm.name
    kernel = told.get("norm.kernel", "none")
    return kernel if norm == "none" and kernel != "none" else norm


def place_of(scheme: str) -> tuple[int, int]:
    """Return where a scheme's colour and its first marker stand in PALETTE and MARKERS."""
    if scheme in OWN:
        at = OWN.index(scheme)
        return at, at
    norms = len(PALETTE) - 2  # black and grey stay with the networks without statistics
    others = [name for name in (*KERNELS, *NORMS) if name not in OWN]
    at = others.index(scheme) if scheme in others else len(others)
    color = 2 + at % norms
    return color, (color + 1 + at // norms) % len(MARKERS)


def styles_of(schemes: Mapping[str, str]) -> dict[str, LineStyle]:
    """Return how each line is drawn, given its scheme: the scheme's colour; a dash and a marker
    that no other line of that colour has."""
    seen: dict[int, list[str]] = {}
    out: dict[str, LineStyle] = {}
    for name, scheme in schemes.items():
        color, first = place_of(scheme)
        taken = seen.setdefault(color, [])
        turned = MARKERS[first:] + MARKERS[:first]
        marker = next((m for m in turned if m not in taken), turned[len(taken) % len(turned)])
        out[name] = LineStyle(PALETTE[color], DASHES[len(taken) % len(DASHES)], marker)
        taken.append(marker)
    return out


def line_styles(setup: Setup) -> dict[str, LineStyle]:
    """Return how each arm is drawn."""
    return styles_of({arm.name: scheme_of(setup, arm) for arm in setup.arms})


def follow_up_styles(setup: Setup) -> dict[str, LineStyle]:
    """Return how the runs that follow are drawn, each as its arm's scheme."""
    schemes = {}
    for follow_up in setup.follows:
        arm = setup.arm(follow_up.arm)
        schemes[follow_up.name] = (
            scheme_of(setup, arm, follow_up.settings) if arm else follow_up.arm
        )
    return styles_of(schemes)


def wrapped(text: str, width: int = LABEL_WIDTH) -> str:
    """Return a text in lines of at most `width` characters; its own line breaks stay."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def legend(drawing: Drawing, ax: Axes | None = None) -> None:
    """Put the legend beside the axes, where it covers no data."""
    handles, labels = (ax or drawing.axes[0]).get_legend_handles_labels()
    labels = [wrapped(label) for label in labels]
    drawing.legend(handles, labels, loc="outside right upper", handlelength=2.8)


def label_log_axis(ax: Axes, name: str) -> None:
    """Make the horizontal axis logarithmic: rates, steps."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0)))
    plain_numbers(ax.xaxis)
    ax.set_xlabel(name)


def scale_values(ax: Axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic where all values are positive and far apart."""
    from matplotlib.ticker import LogLocator

    known = values[np.isfinite(values)]
    if not known.size or known.min() <= 0 or known.max() <= FAR_APART * known.min():
        return
    ax.set_yscale("log")
    is_wide = known.max() > 1000 * known.min()
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0,) if is_wide else (1.0, 3.0)))
    plain_numbers(ax.yaxis)


def plain_numbers(axis: Axis) -> None:
    """Write a logarithmic axis without formulas, at its major ticks alone."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.set_minor_formatter(NullFormatter())


def tick_text(value: float) -> str:
    """Return a tick of a logarithmic axis.

    >>> tick_text(0.03), tick_text(1e-6), tick_text(3e5), tick_text(1000)
    ('0.03', '10⁻⁶', '3×10⁵', '1000')
    """
    if 0.001 <= value < 100_000 or value <= 0:
        return f"{value:g}"
    digits, _, exponent = f"{value:.0e}".partition("e")
    power = "10" + str(int(exponent)).translate(RAISED)
    return power if digits == "1" else f"{digits}×{power}"
