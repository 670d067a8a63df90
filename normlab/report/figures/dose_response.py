"""The figure of error against the level of an arm: a batch size, an initial gain, a depth."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from normlab.report.arms import values_of
from normlab.report.figures.series import arms_of, n_range
from normlab.report.figures.style import (
    LineStyle,
    apart,
    legend,
    quantity_text,
    scale_of,
    scale_values,
    scheme_of,
    styles_of,
)
from normlab.runs.record import Record
from normlab.studies.intervals import t_interval
from normlab.studies.metrics import chance, error_points
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import Arm, Setup
from normlab.studies.study import Figure

DASH = 5
"""Points of a dash of a line across the figure."""
LEVELS = {
    "norm.stats_batch": "examples that share statistics",
    "init.gain": "initial gain, times He's",
    "model.depth": "hidden layers",
    "data.batch": "batch, examples",
    "data.length_spread": "steps by which lengths differ from their mean",
}
"""Setting whose value is the level -> what the axis says."""


class Point(NamedTuple):
    """What an arm shows: a value of each of its runs, their mean and half of its t interval."""

    arm: Arm
    level: float
    """Infinite for an arm that no level changes."""
    values: list[float]
    mean: float
    half: float


def points_of(figure: Figure, e: SetupRuns) -> list[Point]:
    """Return the arms that have values, in the order of their levels."""
    points = []
    for arm in arms_of(figure, e):
        values = shown_values(e, arm, figure.key)
        if values:
            level = math.inf if arm.level is None else arm.level
            mean, half = float(np.mean(values)), np.ptp(t_interval(values)) / 2
            points.append(Point(arm, level, values, mean, float(np.nan_to_num(half))))
    return sorted(points, key=lambda point: point.level)


def shown_values(e: SetupRuns, arm: Arm, key: str) -> list[float]:
    """Return the test errors of an arm's runs, or what their finals hold under `key`.

    The latter is chance for a run that diverged; a run that was not measured has none. An arm with
    several rates has for each seed the mean over those that count.
    """

    def metric(run: Record) -> float:
        if not key:
            return error_points(run)
        value = run.final.get(key, math.nan) if run.status == "trained" else chance(run)
        return scale_of(key) * value

    return [value for value in values_of(e, arm.name, metric).values() if not math.isnan(value)]


def draw_levels(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    """Draw test error against levels, or the final accuracy that the figure's key names."""
    points = points_of(figure, e)
    levels = sorted({point.level for point in points if point.level < math.inf})
    if not levels:
        return False
    lines: dict[str, list[Point]] = {}
    for point in points:
        name = point.arm.line if point.level < math.inf else f"across {point.arm.name}"
        lines.setdefault(name, []).append(point)
    styles = styles_of({name: scheme_of(e.setup, line[0].arm) for name, line in lines.items()})
    places = dict(zip(levels, places_of(levels), strict=True))
    ax, count = drawing.subplots(), sum(line[0].level < math.inf for line in lines.values())
    for i, (name, line) in enumerate(lines.items()):
        n = f", n = {n_range(point.values for point in line)}"
        if i < count:
            shift = 2.0 ** apart(i, count, 0.06)
            _draw_points(
                *(ax, [shift * places[p.level] for p in line], line),
                *((name or e.setup.title) + n, styles[name]),
            )
        else:
            place, others = i - count, len(lines) - count
            dash = (DASH * place, (DASH, DASH * max(1, others - 1)))  # equal lines take turns
            ax.axhline(line[0].mean, color=styles[name]["color"], ls=dash, lw=1.1)
            at = places[levels[-1]] * 2.0 ** (0.5 + 0.3 * place)
            _draw_points(ax, [at], line, line[0].arm.name + n, styles[name] | {"linestyle": dash})
    ax.set_xscale("log", base=2)
    ax.set_xticks([*places.values()], [*map(level_tick, levels)])
    ax.xaxis.minorticks_off()
    ax.set_xlabel(level_text(e.setup))
    means = np.array([point.mean for point in points])
    if figure.key:  # all of 0 to 100 % where some arm stays below one half
        low, high = ax.get_ylim()
        ax.set_ylim(0 if means.min() < 50 else low, 101.5 if means.min() < 50 else min(high, 101.5))
        ax.set_ylabel(f"final {quantity_text(figure.key)}")
    else:
        if not scale_values(ax, means, far_apart=8):
            ax.set_ylim(bottom=0)
        ax.set_ylabel("test error, percentage points")
    legend(drawing)
    return True


def places_of(levels: list[float]) -> list[float]:
    """Return where levels are on the logarithmic axis: evenly where one has no logarithm.

    >>> places_of([4.0, 64.0]), places_of([0.0, 8.0])
    ([4.0, 64.0], [1.0, 2.0])
    """
    return levels if levels[0] > 0 else [2.0**i for i in range(len(levels))]


def _draw_points(ax: Axes, at: list[float], line: list[Point], label: str, style: LineStyle):
    means, halves = [point.mean for point in line], [point.half for point in line]
    ax.errorbar(at, means, yerr=halves, capsize=2.5, elinewidth=1, label=label, **style)


def level_tick(level: float) -> str:
    """Return a level as the axis says it, small ones as fractions.

    >>> level_tick(16.0), level_tick(0.015625), level_tick(0.3)
    ('16', '1/64', '0.3')
    """
    is_part = 0 < level < 1 and (1 / level).is_integer()
    return f"1/{1 / level:g}" if is_part else f"{level:g}"


def level_text(setup: Setup) -> str:
    """Return what the axis says of the levels: what the setting is that has them in most arms."""
    arms = [arm for arm in setup.arms if arm.level is not None]
    names = Counter(n for arm in arms for n, v in arm.settings.items() if v == arm.level)
    name = next((name for name, _ in names.most_common(1)), "level")
    return LEVELS.get(name, name)
