"""Figures of accuracy against steps and against learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from normlab.report.figures.series import arms_of, n_range
from normlab.report.figures.style import LineStyle, label_log_axis, legend, line_styles
from normlab.runs.record import Record
from normlab.studies.metrics import FAILED_ERROR, accuracy, is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import Arm, rate_of
from normlab.studies.study import Figure
from normlab.studies.units import rate_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

RESAMPLES = 2000


def bootstrap_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5th and 97.5th percentile of resampled means over axis 0 of [n, points]."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(values), size=(RESAMPLES, len(values)))
    means = np.stack([values[pick].mean(axis=0) for pick in picks])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def accuracy_curves(runs: Mapping[int, Record]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [points] and validation accuracy [n, points] in %.

    From its divergence on a run stands at chance; one that was stopped early stays where it was.
    """
    longest = max((run.curve for run in runs.values()), key=len)
    steps = np.array([row["step"] for row in longest])
    chance = 100 * (1 - FAILED_ERROR)
    values = np.full((len(runs), len(steps)), chance)
    for line, run in zip(values, runs.values(), strict=True):
        known = [100 * row["accuracy"] for row in run.curve]
        line[: len(known)] = known
        if known and run.status == "trained":
            line[len(known) :] = known[-1]
    return steps, np.nan_to_num(values, nan=chance)


def draw_curves(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    ax, styles = drawing.subplots(), line_styles(e.setup)
    for arm in arms_of(figure, e):
        runs = e.runs_of(arm.name)
        if not any(run.curve for run in runs.values()):
            continue
        steps, values = accuracy_curves(runs)
        style = styles[arm.name]
        label = f"{arm.name}\nrate {_rate(runs)}, n = {len(runs)}{_failures(runs)}"
        ax.plot(steps, values.mean(axis=0), label=label, **_line_style(style, arm))
        if len(runs) > 1:
            ax.fill_between(steps, *bootstrap_band(values), color=style.color, alpha=0.15, lw=0)
    if not ax.lines:
        return False
    if e.times_steps:
        _draw_target(ax, e.setup.target)
    label_log_axis(ax, "gradient steps")
    ax.set_ylabel("validation accuracy, %")
    legend(drawing)
    return True


def _draw_target(ax: Axes, target: float) -> None:
    """Draw the target; its name stands in the legend, where no curve can cross it."""
    goal = 100 * target
    ax.axhline(goal, color="#555555", lw=0.9, ls=(0, (2, 2)), zorder=1, label=f"target {goal:g} %")
    ax.set_ylim(top=max(101.5, goal + 1.5))


def _line_style(style: LineStyle, arm: Arm) -> dict[str, Any]:
    """Draw primary arms wider and on top of the others."""
    width, order = (2.0, 3) if arm.is_primary else (1.3, 2)
    return {"color": style.color, "linestyle": style.dash, "linewidth": width, "zorder": order}


def _rate(runs: Mapping[int, Record]) -> str:
    rates = sorted({run.config["optim.lr"] for run in runs.values()})
    return rate_text(rates[0]) if len(rates) == 1 else "varies"


def _failures(runs: Mapping[int, Record]) -> str:
    failed = sum(map(is_failed, runs.values()))
    return f", {failed} failed" if failed else ""


def draw_rates(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    top, bottom = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    styles = line_styles(e.setup)
    for arm in arms_of(figure, e):
        grid = {x: list(r.values()) for x, r in sorted(e.grids.get(arm.name, {}).items()) if r}
        if not grid:
            continue
        style, rates = styles[arm.name], [rate_of(x) for x in grid]
        values = [[100 * accuracy(run, "validation") for run in runs] for runs in grid.values()]
        failed = [100 * float(np.mean([*map(is_failed, runs)])) for runs in grid.values()]
        line = _line_style(style, arm) | {"marker": style.marker}
        label = f"{arm.name}, n = {n_range(values)}"
        top.plot(rates, [np.mean(v) for v in values], label=label, **line)
        low, high = [min(v) for v in values], [max(v) for v in values]
        top.fill_between(rates, low, high, color=style.color, alpha=0.12, lw=0)
        bottom.plot(rates, failed, **line)
    if not top.lines:
        return False
    _draw_target(top, e.setup.target)
    top.set_ylabel("final validation accuracy, %")
    bottom.set_ylabel("failed, %")
    bottom.set_ylim(-8, 108)
    bottom.set_yticks([0, 50, 100])
    label_log_axis(bottom, "learning rate")
    legend(drawing, top)
    drawing.align_ylabels([top, bottom])
    return True
