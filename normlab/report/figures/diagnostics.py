"""Figures of what was measured inside networks: against steps, by layer, as percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from normlab.report.figures.axis_labels import quantity_text, scale_of
from normlab.report.figures.series import (
    Group,
    Quartiles,
    by_layer,
    groups_of,
    layer_names,
    quartiles,
    trace,
)
from normlab.report.figures.style import label_log_axis, legend, scale_values, wrapped
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PERCENTILES = (15, 50, 85)
TITLE_WIDTH, PANEL_HEIGHT = 26, 2.6
ACROSS = 3
"""Most panels side by side."""


def draw_probe(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    ax, shown = drawing.subplots(), []
    for group in groups_of(figure, e):
        steps, values = trace(group.runs, figure.key)
        found = quartiles(steps, values * scale_of(figure.key))
        if found.at.size:
            _draw_quartiles(ax, found, group, marked=len(found.at) // 8)
            shown.append(found)
    if not shown:
        return False
    _scale(ax, shown)
    label_log_axis(ax, "gradient steps")
    ax.set_ylabel(quantity_text(figure.key))
    legend(drawing)
    return True


def _draw_quartiles(ax: Axes, found: Quartiles, group: Group, marked: int = 1) -> None:
    """Draw a median with its band, and a marker at every `marked`-th point."""
    style = group.style
    line: dict[str, Any] = {"color": style.color, "linestyle": style.dash, "marker": style.marker}
    ax.plot(found.at, found.middle, label=group.label, markevery=max(1, marked), **line)
    if len(group.runs) > 1:
        ax.fill_between(found.at, found.low, found.high, color=style.color, alpha=0.15, lw=0)


def _scale(ax: Axes, shown: Sequence[Quartiles]) -> None:
    scale_values(ax, np.concatenate([values for q in shown for values in (q.low, q.high)]))


def draw_layers(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    from matplotlib.ticker import MaxNLocator

    panels, groups = drawing.subplots(1, 2, sharey=True), groups_of(figure, e)
    shown: list[Quartiles] = []
    for ax, place, name in zip(panels, (0, -1), ("first", "last"), strict=True):
        steps = set()
        for group in groups:
            step, values = by_layer(group.runs, figure.key, place)
            layers = 1.0 + np.arange(values.shape[1])
            found = quartiles(layers, scale_of(figure.key) * values)
            if found.at.size:
                _draw_quartiles(ax, found, group)
                shown.append(found)
                steps.add(step)
        most = " at most" if len(steps) > 1 else ""
        ax.set_title(f"{name} point, step {max(steps, default=0)}{most}")
        ax.set_xlabel(_order_text(groups, figure.key))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not shown:
        return False
    _scale(panels[0], shown)
    panels[0].set_ylabel(quantity_text(figure.key))
    legend(drawing, panels[0])
    return True


def _order_text(groups: Sequence[Group], prefix: str) -> str:
    """Return whether it is layers or norms that are numbered."""
    names = {name.split("/")[-1] for g in groups for name in layer_names(g.runs, prefix)}
    are_norms = all(name.startswith("norm") for name in names)
    return f"{'norm' if are_norms else 'layer'}, counted from the input"


def draw_percentiles(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    prefix = figure.key or "activations"
    found = [(group, percentiles_of(group, prefix)) for group in groups_of(figure, e)]
    found = [(group, lines) for group, lines in found if all(q.at.size for q in lines)]
    if not found:
        return False
    across = min(len(found), ACROSS)
    down = -(-len(found) // across)
    drawing.set_figheight(PANEL_HEIGHT * down + 0.4)
    panels = list(drawing.subplots(down, across, sharey=True, squeeze=False).flat)
    for ax, (group, lines) in zip(panels, found, strict=False):
        _draw_percentiles(ax, group, lines)
        ax.set_title(wrapped(group.label, TITLE_WIDTH))
        label_log_axis(ax, "gradient steps")
    for ax in panels[::across]:
        ax.set_ylabel(quantity_text(prefix))
    for ax in panels[len(found) :]:
        ax.set_axis_off()
    drawing.legend(*_percentile_signs(), loc="outside lower center", ncols=2)
    return True


def percentiles_of(group: Group, prefix: str) -> list[Quartiles]:
    """Return for each percentile its quartiles over the runs, at the same steps."""
    steps, found = np.empty(0), []
    for percentile in PERCENTILES:
        steps, values = trace(group.runs, f"{prefix}.p{percentile}")
        found.append(values)
    known = np.isfinite(found).all(axis=0)
    return [quartiles(steps, np.where(known, values, np.nan)) for values in found]


def _draw_percentiles(ax: Axes, group: Group, lines: Sequence[Quartiles]) -> None:
    low, middle, high = lines
    color = group.style.color
    ax.fill_between(low.at, low.middle, high.middle, color=color, alpha=0.2, lw=0)
    for line, width in ((low, 0.8), (middle, 1.8), (high, 0.8)):
        ax.plot(line.at, line.middle, color=color, lw=width)


def _percentile_signs() -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    line = Line2D([], [], color="#555555", lw=1.8)
    return [line, Patch(facecolor="#d6d6d6", edgecolor="#555555")], [
        "median of the values, median over seeds",
        "15th to 85th percentile",
    ]
