"""How figures look: one colour for each scheme, the same in every figure; axes and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, NullFormatter

from normlab.layers.table import KERNELS
from normlab.norms.table import NORMS
from normlab.settings import defaults
from normlab.studies.setup import Arm, Setup

OWN = {
    "none": "#000000",
    "affine": "#8c8c8c",
    "batch": "#0072b2",
    "layer": "#d55e00",
    "group": "#a67c00",
    "rms": "#b0508a",
    "instance": "#009e73",
    "layer_channels": "#56b4e9",
}
"""Schemes with a colour of their own: Okabe and Ito's, yellow and orange darkened for white paper.
The other schemes share the colours of these norms."""
PALETTE = tuple(OWN.values())
MARKERS = "osD^vP<X"
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (10, 2)),
    (0, (6, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
QUANTITIES = {
    "train_loss": "loss of the training batches, nats",
    "loss": "validation loss, nats",
    "accuracy": "validation accuracy, %",
    "train_set_accuracy": "training accuracy, %",
    "train_set_loss": "loss on training images, nats",
    "replaced_accuracy": "accuracy on replaced labels, %",
    "validation_accuracy": "validation accuracy, %",
    "test_accuracy": "test accuracy, %",
    "activations": "input of one unit's activation",
    "drift.step": "distribution moved since the last measurement, standard deviations",
    "gradients.input": "gradient at a layer's input, L2 norm",
    "landscape.relative": "relative change of the gradient after a step along it of 1 % of |w|",
    "moments.scaled": "channels with mean 0 and deviation 1, scaled, %",
    "shift.cosine": "cosine of the gradients before and after the earlier layers' step",
}
"""Key of a curve or of a run's finals, or a key without its layer -> name and unit."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
STEPS = "gradient steps"
"""Name of an axis of steps."""
WIDTH, LINE = 5.4, 0.18
"""Inches of a figure, which a telephone still shows at 9 pixels a letter, and of a line of text."""
LABEL_WIDTH, SHORT = 30, 18
"""Characters of a line of the legend: at most, and where three of them fit side by side."""
STYLE: dict[Any, Any] = {name: v for name, v in rcParamsDefault.items() if name != "backend"} | {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a name with $ is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "normlab",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
"""Every parameter of matplotlib, so that a style file of the user changes nothing."""
LineStyle = dict[str, Any]
"""Color, linestyle and marker, as matplotlib takes them."""


def scheme_of(setup: Setup, arm: Arm) -> str:
    """Return the scheme of an arm: what it sets, its name, what its setup sets, the default.

    Where a kernel scheme is the only one, it is the scheme.
    """
    settings = defaults() | setup.settings | arm.settings
    norm, kernel = settings["norm.name"], settings["norm.kernel"]
    if arm.name in NORMS and "norm.name" not in arm.settings:
        norm = arm.name
    return kernel if norm == "none" and kernel != "none" else norm


def place_of(scheme: str) -> tuple[int, int]:
    """Return the places of a scheme's colour and of its first marker in PALETTE and MARKERS."""
    if scheme in OWN:
        at = list(OWN).index(scheme)
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
    styles: dict[str, LineStyle] = {}
    for name, scheme in schemes.items():
        color, first = place_of(scheme)
        taken = seen.setdefault(color, [])
        turned = MARKERS[first:] + MARKERS[:first]
        marker = next((m for m in turned if m not in taken), turned[len(taken) % len(turned)])
        dash = DASHES[len(taken) % len(DASHES)]
        styles[name] = {"color": PALETTE[color], "linestyle": dash, "marker": marker}
        taken.append(marker)
    return styles


def line_styles(setup: Setup) -> dict[str, LineStyle]:
    """Return how each arm is drawn, and how the runs that follow are, each as its arm's scheme."""
    followed = {
        follow_up.name: replace(arm, settings=arm.settings | follow_up.settings)
        for follow_up in setup.follows
        if (arm := setup.arm(follow_up.arm))
    }
    return styles_of({arm.name: scheme_of(setup, arm) for arm in setup.arms}) | styles_of(
        {name: scheme_of(setup, arm) for name, arm in followed.items()}
    )


def draw_band(ax: Axes, at: Any, low: Any, high: Any, style: LineStyle, alpha: float = 0.15):
    ax.fill_between(at, low, high, color=style["color"], alpha=alpha, lw=0)


def panels_of(drawing: Drawing, count: int, most: int, **options: Any) -> list[Axes]:
    """Return `count` panels, at most `most` side by side; the places that are left are empty."""
    across = min(count, most)
    axes = list(drawing.subplots(-(-count // across), across, squeeze=False, **options).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return axes[:count]


def wrapped(text: str, width: int = LABEL_WIDTH) -> str:
    """Return a text in lines of at most `width` characters; its own line breaks stay."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def quantity_text(key: str) -> str:
    """Return what an axis says of a key, the key itself where no name is known."""
    return wrapped(QUANTITIES.get(key, key), 40)


def scale_of(key: str) -> float:
    """Return what the values of a key are multiplied by: shares are drawn in %."""
    return 100.0 if QUANTITIES.get(key, "").endswith(", %") else 1.0


def apart(i: int, count: int, step: float) -> float:
    """Return how far line `i` of `count` is moved, so that no line hides another."""
    return step * (i - (count - 1) / 2)


def marks(i: int, points: int) -> tuple[int, int]:
    """Return the first marked point of line `i`, and from how many points one is marked.

    The marks of equal lines do not hide each other.
    """
    step = max(1, points // 8)
    return i % step, step


def legend(drawing: Drawing, ax: Axes | None = None) -> None:
    """Put the legend below the axes, where it covers no data; the figure grows by it."""
    handles, labels = (ax or drawing.axes[0]).get_legend_handles_labels()
    labels = [wrapped(label) for label in labels]
    lines = [line for label in labels for line in label.split("\n")]
    columns = 3 if max(map(len, lines)) <= SHORT else 2
    down = -(-len(labels) // columns) * max(label.count("\n") + 1 for label in labels)
    drawing.set_figheight(drawing.get_figheight() + LINE * down)
    drawing.legend(handles, labels, loc="outside lower center", handlelength=2.8, ncols=columns)


def label_log_axis(ax: Axes, name: str) -> None:
    """Make the horizontal axis logarithmic: rates, steps."""
    ax.set_xscale("log")
    mark_numbers(ax.xaxis, 1.0, 3.0)
    ax.set_xlabel(name)


def scale_values(ax: Axes, values: np.ndarray, far_apart: float = 30) -> bool:
    """Make the vertical axis logarithmic where all values are positive and far apart: the largest
    more than `far_apart` times the smallest. Return whether it is."""
    known = values[np.isfinite(values)]
    if not known.size or known.min() <= 0 or known.max() <= far_apart * known.min():
        return False
    ax.set_yscale("log")
    mark_numbers(ax.yaxis, *(1.0,) if known.max() > 1000 * known.min() else (1.0, 3.0))
    return True


def mark_numbers(axis: Axis, *digits: float) -> None:
    """Write these digits times powers of ten on a logarithmic axis, without formulas."""
    axis.set_major_locator(LogLocator(10, subs=digits))
    axis.set_major_formatter(lambda value, _: tick_text(value))
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
