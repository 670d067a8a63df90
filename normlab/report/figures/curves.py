"""Figures of accuracy against steps and against learning rates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from scipy.stats import bootstrap

from normlab.report.figures.series import arms_of, n_range, trace
from normlab.report.figures.style import (
    STEPS,
    LineStyle,
    apart,
    draw_band,
    label_log_axis,
    legend,
    line_styles,
    marks,
)
from normlab.runs.record import Record
from normlab.studies.metrics import accuracy, chance, is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import rate_of
from normlab.studies.setup import Arm
from normlab.studies.study import Figure
from normlab.studies.units import rate_text

RESAMPLES = 2000
APART = 0.035
"""Decades between two arms at one rate."""
EDGE: LineStyle = {"linestyle": (0, (1, 1.4)), "linewidth": 1.3, "zorder": 1}
"""How the median of the highest rates that pass is drawn."""


def accuracy_curves(runs: Mapping[int, Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [points] and validation accuracy [n, points] in %.

    A run that diverged is at chance from then on; one that was stopped early keeps its last value.
    """
    steps, values = trace(runs, "accuracy")
    for line, run in zip(values, runs.values(), strict=True):
        is_known = np.isfinite(line)
        keeps = run.status == "trained" and is_known.any()
        line[~is_known] = line[is_known][-1] if keeps else chance(run)
    return steps, 100 * values


def draw_curves(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    ax, styles = drawing.subplots(), line_styles(e.setup)
    for i, arm in enumerate(arms_of(figure, e)):
        runs = e.runs_of(arm.name)
        if not any(run.curve for run in runs.values()):
            continue
        steps, values = accuracy_curves(runs)
        rates = sorted({run.config["optim.lr"] for run in runs.values()})
        rate = rate_text(rates[0]) if len(rates) == 1 else "varies"
        failed = sum(map(is_failed, runs.values()))
        label = f"{arm.name}\nrate {rate}, n = {len(runs)}{f', {failed} failed' if failed else ''}"
        style: LineStyle = _weighted(styles[arm.name], arm) | {"markevery": marks(i, len(steps))}
        ax.plot(steps, values.mean(axis=0), label=label, **style)
        if len(runs) > 1:
            found = bootstrap(
                [values], np.mean, n_resamples=RESAMPLES, method="percentile", rng=0
            ).confidence_interval
            draw_band(ax, steps, found.low, found.high, style)
    if not ax.lines:
        return False
    if e.times_steps:
        _draw_target(ax, e.setup.target)
    label_log_axis(ax, STEPS)
    ax.set_ylabel("validation accuracy, %")
    legend(drawing)
    return True


def _draw_target(ax: Axes, target: float) -> None:
    """Draw the target; its name is in the legend, where no curve can cross it."""
    goal = 100 * target
    ax.axhline(goal, color="#555555", lw=0.9, ls=(0, (2, 2)), zorder=1, label=f"target {goal:g} %")
    ax.set_ylim(top=max(101.5, goal + 1.5))


def _weighted(style: LineStyle, arm: Arm) -> LineStyle:
    """Draw primary arms wider and on top of the others."""
    width, order = (2.0, 3) if arm.is_primary else (1.3, 2)
    return style | {"linewidth": width, "zorder": order}


def draw_rates(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    top, bottom = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    styles, arms = line_styles(e.setup), arms_of(figure, e)
    for i, arm in enumerate(arms):
        grid = {x: list(r.values()) for x, r in sorted(e.grids.get(arm.name, {}).items()) if r}
        if not grid:
            continue
        style = _weighted(styles[arm.name], arm)
        rates = [rate_of(x) * 10 ** apart(i, len(arms), APART) for x in grid]
        values = [[100 * accuracy(run, "validation") for run in runs] for runs in grid.values()]
        failed = [100 * float(np.mean([*map(is_failed, runs)])) for runs in grid.values()]
        label = f"{arm.name}, n = {n_range(values)}"
        top.plot(rates, [np.mean(v) for v in values], label=label, **style)
        draw_band(top, rates, [*map(min, values)], [*map(max, values)], style, alpha=0.12)
        bottom.plot(rates, failed, **style)
        edges = [rate_of(edge) for edge in e.edges.get(arm.name, {}).values()]
        if edges:
            top.axvline(float(np.median(edges)), **EDGE, color=style["color"])
    if not top.lines:
        return False
    if e.edges:
        top.plot([], [], **EDGE, color="#555555", label="median edge")
    elif e.times_steps:
        _draw_target(top, e.setup.target)
    top.set_ylabel("final validation accuracy, %")
    bottom.set_ylabel("failed, %")
    bottom.set_ylim(-8, 108)
    bottom.set_yticks([0, 50, 100])
    label_log_axis(bottom, "learning rate")
    legend(drawing, top)
    drawing.align_ylabels([top, bottom])
    return True
