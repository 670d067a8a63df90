"""The figure of error against the level of an arm: a batch size, an initial gain, a depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normlab.report.figures.axis_labels import quantity_text, scale_of
from normlab.report.figures.series import arms_of, n_range
from normlab.report.figures.style import (
    DASHES,
    LineStyle,
    legend,
    plain_numbers,
    scheme_of,
    styles_of,
)
from normlab.runs.record import Record
from normlab.settings import SETTINGS
from normlab.studies.hypothesis_tests import t_interval
from normlab.studies.metrics import FAILED_ERROR, error_points
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import Arm, Setup
from normlab.studies.study import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LEVELS = {
    "norm.stats_batch": "examples that share statistics",
    "init.gain": "initial gain, times He's",
    "model.depth": "hidden layers",
    "data.batch": "batch, examples",
}
"""Setting whose value is the level -> what the axis says."""


@dataclass(frozen=True)
class Point:
    """What an arm shows: one value of each of its runs."""

    arm: Arm
    values: Sequence[float]

    @property
    def level(self) -> float:
        return self.arm.level or 0.0

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        return t_interval(self.values)


def draw_levels(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    """Draw test error against levels, or the final accuracy that the figure's key names."""
    found = [Point(arm, values_of(e, arm, figure.key)) for arm in arms_of(figure, e)]
    points = [point for point in found if point.values]
    lines = _lines_of(points)
    if not lines:
        return False
    across = [point for point in points if point.arm.level is None]
    schemes = {f"line {name}": scheme_of(e.setup, line[0].arm) for name, line in lines.items()}
    schemes |= {f"across {p.arm.name}": scheme_of(e.setup, p.arm) for p in across}
    styles, ax = styles_of(schemes), drawing.subplots()
    for i, (name, line) in enumerate(lines.items()):
        shift = 2.0 ** (0.06 * (i - (len(lines) - 1) / 2))
        _draw_line(ax, line, styles[f"line {name}"], name or e.setup.title, shift)
    for point in across:
        _draw_across(ax, point, styles[f"across {point.arm.name}"])
    levels = sorted({point.level for line in lines.values() for point in line})
    ax.set_xscale("log", base=2)
    ax.set_xticks(levels, [*map(level_tick, levels)])
    ax.xaxis.minorticks_off()
    ax.set_xlabel(level_text(e.setup))
    if figure.key:
        _scale_accuracy(ax, points)
        ax.set_ylabel(f"final {quantity_text(figure.key)}")
    else:
        _scale_errors(ax, points)
        ax.set_ylabel("test error, percentage points")
    legend(drawing)
    return True


def values_of(e: SetupRuns, arm: Arm, key: str) -> list[float]:
    """Return the test errors of an arm's runs, or what their finals hold under `key`: chance for a
    run that diverged, nothing for one that was not measured."""
    runs = e.runs_of(arm.name).values()
    if not key:
        return [error_points(run) for run in runs]
    return [scale_of(key) * value for value in (_final(r, key) for r in runs) if value is not None]


def _final(run: Record, key: str) -> float | None:
    return run.final.get(key) if run.status == "trained" else 1 - FAILED_ERROR


def _lines_of(points: Sequence[Point]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for point in points:
        if point.arm.level is not None:
            lines.setdefault(point.arm.line, []).append(point)
    return {name: sorted(line, key=lambda p: p.level) for name, line in lines.items()}


def _draw_line(ax: Axes, line: Sequence[Point], style: LineStyle, name: str, shift: float) -> None:
    low, high = np.array([point.interval for point in line]).T
    mean = np.array([point.mean for point in line])
    ax.errorbar(
        shift * np.array([point.level for point in line]),
        mean,
        yerr=np.nan_to_num(np.abs(np.stack([mean - low, high - mean]))),
        color=style.color,
        linestyle=style.dash,
        marker=style.marker,
        capsize=2.5,
        elinewidth=1,
        label=f"{name}, n = {n_range(point.values for point in line)}",
    )


def _draw_across(ax: Axes, point: Point, style: LineStyle) -> None:
    """Draw an arm that no level changes as a dashed line across the figure."""
    dash = DASHES[(DASHES.index(style.dash) + 1) % len(DASHES)]
    label = f"{point.arm.name}, n = {len(point.values)}"
    ax.axhline(point.mean, color=style.color, ls=dash, lw=1.1, label=label)


def _scale_errors(ax: Axes, points: Sequence[Point]) -> None:
    """Start the error axis at 0; make it logarithmic where errors differ more than eightfold."""
    from matplotlib.ticker import LogLocator

    means = [point.mean for point in points]
    highs = [max(point.mean, point.interval[1]) for point in points]
    if min(means) == 0 or max(means) <= 8 * min(means):
        ax.set_ylim(bottom=0)
        return
    ax.set_yscale("log")
    ax.set_ylim(0.7 * min(means), 1.2 * max(highs))
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    plain_numbers(ax.yaxis)


def _scale_accuracy(ax: Axes, points: Sequence[Point]) -> None:
    """Show all of 0 to 100 % where some arm stays below one half, nothing above where none does."""
    if min(point.mean for point in points) < 50:
        ax.set_ylim(0, 101.5)
    else:
        ax.set_ylim(top=min(ax.get_ylim()[1], 101.5))


def level_tick(level: float) -> str:
    """Return a level as the axis says it, small ones as fractions.

    >>> level_tick(16.0), level_tick(0.015625), level_tick(0.3)
    ('16', '1/64', '0.3')
    """
    is_part = 0 < level < 1 and (1 / level).is_integer()
    return f"1/{1 / level:g}" if is_part else f"{level:g}"


def level_text(setup: Setup) -> str:
    """Return what the level is, as the axis says it."""
    arms = [arm for arm in setup.arms if arm.level is not None]
    told = [setup.settings | arm.settings for arm in arms]
    for name, text in LEVELS.items():
        default = SETTINGS[name].default
        if all(t.get(name, default) == a.level for t, a in zip(told, arms, strict=True)):
            return text
    names = {n for a in arms for n, v in a.settings.items() if v and v == a.level}
    known = [text for name, text in LEVELS.items() if name in names]
    return known[0] if known else ", ".join(sorted(names)) or "level"
