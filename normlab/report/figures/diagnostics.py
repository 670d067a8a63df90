"""Figures of what was measured inside networks: against steps, by layer, as percentiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from normlab.report.figures.series import (
    Group,
    Quartiles,
    by_layer,
    groups_of,
    layer_names,
    quartiles,
    trace,
)
from normlab.report.figures.style import (
    STEPS,
    apart,
    draw_band,
    label_log_axis,
    legend,
    marks,
    panels_of,
    quantity_text,
    scale_of,
    scale_values,
    wrapped,
)
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Figure

PERCENTILES = (15, 50, 85)
TITLE_WIDTH, PANEL_HEIGHT = 20, 2.4
APART = 0.12
"""Layers between two arms at one layer."""
ACROSS = 3
"""Most panels side by side."""


def draw_probe(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    ax, shown = drawing.subplots(), []
    for i, group in enumerate(groups_of(figure, e)):
        steps, values = trace(group.runs, figure.key)
        found = quartiles(steps, values * scale_of(figure.key))
        shown += _draw_quartiles(ax, found, group, marks(i, len(found.at)))
    if not shown:
        return False
    scale_values(ax, np.concatenate(shown))
    label_log_axis(ax, STEPS)
    ax.set_ylabel(quantity_text(figure.key))
    legend(drawing)
    return True


def _draw_quartiles(
    ax: Axes, found: Quartiles, group: Group, marked: Any = None
) -> list[np.ndarray]:
    """Draw a median with its band, and markers at the `marked` points; return the band."""
    if not found.at.size:
        return []
    ax.plot(found.at, found.middle, label=group.label, markevery=marked, **group.style)
    if len(group.runs) > 1:
        draw_band(ax, found.at, found.low, found.high, group.style)
    return [found.low, found.high]


def draw_layers(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    panels, groups = drawing.subplots(1, 2, sharey=True), groups_of(figure, e)
    names = {name for g in groups for name in layer_names(g.runs, figure.key)}
    are_norms = all(name.split("/")[-1].startswith("norm") for name in names)
    shown: list[np.ndarray] = []
    for ax, place, point in zip(panels, (0, -1), ("first", "last"), strict=True):
        steps = set()
        for i, group in enumerate(groups):
            step, values = by_layer(group.runs, figure.key, place)
            at = 1.0 + np.arange(values.shape[1]) + apart(i, len(groups), APART)
            found = quartiles(at, scale_of(figure.key) * values)
            shown += _draw_quartiles(ax, found, group)
            if found.at.size:
                steps.add(step)
        most = " at most" if len(steps) > 1 else ""
        ax.set_title(f"{point} point, step {max(steps, default=0)}{most}")
        ax.set_xlabel(f"{'norm' if are_norms else 'layer'}, counted from the input")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not shown:
        return False
    scale_values(panels[0], np.concatenate(shown))
    panels[0].set_ylabel(quantity_text(figure.key))
    legend(drawing, panels[0])
    return True


def draw_percentiles(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    prefix = figure.key or "activations"
    found = [(group, percentiles_of(group, prefix)) for group in groups_of(figure, e)]
    found = [(group, lines) for group, lines in found if all(q.at.size for q in lines)]
    if not found:
        return False
    drawing.set_figheight(PANEL_HEIGHT * -(-len(found) // ACROSS) + 0.4)
    panels = panels_of(drawing, len(found), ACROSS, sharey=True)
    for ax, (group, lines) in zip(panels, found, strict=True):
        low, _, high = lines
        draw_band(ax, low.at, low.middle, high.middle, group.style, alpha=0.2)
        for line, width in zip(lines, (0.8, 1.8, 0.8), strict=True):
            ax.plot(line.at, line.middle, color=group.style["color"], lw=width)
        ax.set_title(wrapped(group.label, TITLE_WIDTH))
        label_log_axis(ax, STEPS)
    for ax in panels[::ACROSS]:
        ax.set_ylabel(quantity_text(prefix))
    signs = {
        "median of the values, median over seeds": Line2D([], [], color="#555555", lw=1.8),
        "15th to 85th percentile": Patch(facecolor="#d6d6d6", edgecolor="#555555"),
    }
    drawing.legend(signs.values(), signs, loc="outside lower center", ncols=2)
    return True


def percentiles_of(group: Group, prefix: str) -> list[Quartiles]:
    """Return for each percentile its quartiles over the runs, at the same steps."""
    traces = [trace(group.runs, f"{prefix}.p{percentile}") for percentile in PERCENTILES]
    known = np.isfinite([values for _, values in traces]).all(axis=0)
    return [quartiles(steps, np.where(known, values, np.nan)) for steps, values in traces]
