"""How figures look: one colour, dash and marker for each scheme, the same in every figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normlab.lab.study import Arm, Setup
from normlab.norms.table import NORMS
from normlab.settings import SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
"""Okabe and Ito's colours, yellow and orange darkened for white paper, in the order of NORMS."""
MARKERS = "osD^vP<X"
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "normlab",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    color: str
    dash: Any
    marker: str


def scheme_of(setup: Setup, arm: Arm) -> str:
    """Return the scheme of an arm: its name, what it sets, what its setup sets, the default."""
    if arm.name in NORMS:
        return arm.name
    told = setup.settings | arm.settings
    return told.get("norm.name", SETTINGS["norm.name"].default)


def looks(setup: Setup) -> dict[str, Look]:
    """Return how each arm is drawn: colour and marker of its scheme, a dash of its own."""
    names = list(NORMS)
    seen: dict[int, int] = {}
    out: dict[str, Look] = {}
    for arm in setup.arms:
        norm = scheme_of(setup, arm)
        at = names.index(norm) if norm in NORMS else len(names) + len(seen)
        place = at % len(PALETTE)
        dash = DASHES[seen.get(place, 0) % len(DASHES)]
        out[arm.name] = Look(PALETTE[place], dash, MARKERS[at % len(MARKERS)])
        seen[place] = seen.get(place, 0) + 1
    return out


def legend(drawing: Drawing, ax: Axes | None = None) -> None:
    """Put the legend beside the axes, where it covers no data."""
    handles, labels = (ax or drawing.axes[0]).get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right upper", handlelength=2.4)
