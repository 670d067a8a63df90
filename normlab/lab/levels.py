"""The figure of error against the level of an arm, a batch size say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from normlab.lab.evidence import SetupEvidence
from normlab.lab.looks import legend, looks
from normlab.lab.measures import error_points
from normlab.lab.study import Arm, Setup
from normlab.lab.verdicts import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def draw_levels(drawing: Drawing, e: SetupEvidence) -> bool:
    ax, lines = drawing.subplots(), _lines_of_levels(e)
    if not lines:
        return False
    for i, (name, arms) in enumerate(lines.items()):
        _draw_line(ax, e, name, arms, shift=2.0 ** (0.06 * (i - (len(lines) - 1) / 2)))
    _draw_without_level(ax, e)
    levels = sorted({a.level for arms in lines.values() for a in arms if a.level})
    ax.set_xscale("log", base=2)
    ax.set_xticks(levels, [f"{level:g}" for level in levels])
    ax.xaxis.minorticks_off()
    ax.set_xlabel(_level_name(e.setup))
    ax.set_ylabel("test error, percentage points")
    _scale_errors(ax, [_level_point(e, a) for a in e.setup.arms if e.runs_of(a.name)])
    legend(drawing)
    return True


def _draw_line(ax: Axes, e: SetupEvidence, name: str, arms: list[Arm], shift: float) -> None:
    points = [_level_point(e, arm) for arm in arms]
    x, mean, low, high, sizes = map(np.array, zip(*points, strict=True))
    look = looks(e.setup)[arms[0].name]
    n = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    ax.errorbar(
        x * shift,
        mean,
        yerr=np.nan_to_num(np.abs(np.stack([mean - low, high - mean]))),
        color=look.color,
        linestyle=look.dash,
        marker=look.marker,
        capsize=2.5,
        elinewidth=1,
        label=f"{name or e.setup.title}, n = {n}",
    )


def _scale_errors(ax: Axes, points: Sequence[tuple[float, float, float, float, int]]) -> None:
    """Start the error axis at 0; make it logarithmic where errors differ more than eightfold."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    means = [mean for _, mean, *_ in points]
    highs = [max(mean, high) for _, mean, _, high, _ in points]
    if min(means) == 0 or max(means) <= 8 * min(means):
        ax.set_ylim(bottom=0)
        return
    ax.set_yscale("log")
    ax.set_ylim(0.7 * min(means), 1.2 * max(highs))
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_without_level(ax: Axes, e: SetupEvidence) -> None:
    """Draw the arms that no level changes as lines across the figure."""
    styles = looks(e.setup)
    for arm in e.setup.arms:
        runs = e.runs_of(arm.name)
        if arm.level is None and runs:
            mean = float(np.mean([error_points(run) for run in runs.values()]))
            label = f"{arm.name}, n = {len(runs)}"
            ax.axhline(mean, color=styles[arm.name].color, ls=(0, (5, 2)), lw=1.1, label=label)


def _lines_of_levels(e: SetupEvidence) -> dict[str, list[Arm]]:
    lines: dict[str, list[Arm]] = {}
    for arm in e.setup.arms:
        if arm.level is not None and e.runs_of(arm.name):
            lines.setdefault(arm.line, []).append(arm)
    return {name: sorted(arms, key=lambda a: a.level or 0.0) for name, arms in lines.items()}


def _level_point(e: SetupEvidence, arm: Arm) -> tuple[float, float, float, float, int]:
    errors = [error_points(run) for run in e.runs_of(arm.name).values()]
    return arm.level or 0.0, float(np.mean(errors)), *t_interval(errors), len(errors)


def _level_name(setup: Setup) -> str:
    """Return the setting whose value is the level, as the axis says it."""
    names = {n for a in setup.arms for n, v in a.settings.items() if v and v == a.level}
    said = {"norm.stats_batch": "examples that share statistics", "data.batch": "batch, examples"}
    chosen: Sequence[str] = sorted(names & said.keys(), reverse=True)
    return said[chosen[0]] if chosen else ", ".join(sorted(names)) or "level"
