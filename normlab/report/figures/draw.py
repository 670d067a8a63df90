"""Figures of a study's setups, by kind: curves and rates here, the others in files of their own.

SVG and PDF, byte for byte the same from the same runs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normlab.report.figures.diagnostics import draw_layers, draw_percentiles, draw_probe
from normlab.report.figures.dose_response import draw_levels
from normlab.report.figures.style import STYLE, LineStyle, label_log_axis, legend, line_styles
from normlab.runs.files import write_atomic
from normlab.runs.record import Record
from normlab.studies.metrics import FAILED_ERROR, accuracy, is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import rate_of
from normlab.studies.setup import Arm
from normlab.studies.study import Figure
from normlab.studies.units import rate_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

READING = {
    "curves": "Lines: mean over n seeds; bands: 95 % percentile bootstrap of that mean.",
    "rates": "Lines: mean over n seeds; bands: least to largest. Below: share of failed runs.",
    "levels": "Points: mean over n seeds with 95 % t interval; dashed: arms without that setting.",
    "probe": "Lines: median over n seeds; bands: 25th to 75th percentile.",
    "layers": "Points: median over n seeds; bands: 25th to 75th percentile.",
    "effects": "Dots: one seed each; diamonds: mean or median with its interval.",
    "percentiles": "Lines: percentiles of the values within a network, median over n seeds.",
}
"""Kind of figure -> what it shows."""
RESAMPLES = 2000
HEIGHTS = {"rates": 4.4, "layers": 3.3}
"""Inches; the other kinds: 3.7."""


def draw(figure: Figure, e: SetupRuns) -> Drawing | None:
    """Return the figure of a setup, or None while there is no run to draw; the kind `effects` is a
    study's and drawn by `draw_effects`."""
    import matplotlib
    from matplotlib.figure import Figure as Drawing

    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(7.4, HEIGHTS.get(figure.kind, 3.7)), layout="constrained")
        return drawing if KINDS[figure.kind](drawing, figure, e) else None


def save(drawing: Drawing, path: Path) -> Path:
    """Write path.svg and path.pdf, without dates in them; return the SVG."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, date in (("pdf", "CreationDate"), ("svg", "Date")):
        content = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            drawing.savefig(content, format=kind, metadata={date: None})
        write_atomic(path.with_name(f"{path.name}.{kind}"), content.getvalue())
    return path.with_name(f"{path.name}.svg")


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
    for arm in _arms_of(figure, e):
        runs = e.runs_of(arm.name)
        if not any(run.curve for run in runs.values()):
            continue
        steps, values = accuracy_curves(runs)
        look = styles[arm.name]
        label = f"{arm.name}\nrate {_rate(runs)}, n = {len(runs)}{_failures(runs)}"
        ax.plot(steps, values.mean(axis=0), label=label, **_line_style(look, arm))
        if len(runs) > 1:
            ax.fill_between(steps, *bootstrap_band(values), color=look.color, alpha=0.15, lw=0)
    if not ax.lines:
        return False
    if e.times_steps:
        _draw_target(ax, e.setup.target)
    label_log_axis(ax, "gradient steps")
    ax.set_ylabel("validation accuracy, %")
    legend(drawing)
    return True


def _arms_of(figure: Figure, e: SetupRuns) -> list[Arm]:
    return [arm for arm in e.setup.arms if arm.name in figure.arms or not figure.arms]


def _draw_target(ax: Axes, target: float) -> None:
    """Draw the target; its name stands in the legend, where no curve can cross it."""
    goal = 100 * target
    ax.axhline(goal, color="#555555", lw=0.9, ls=(0, (2, 2)), zorder=1, label=f"target {goal:g} %")
    ax.set_ylim(top=max(101.5, goal + 1.5))


def _line_style(look: LineStyle, arm: Arm) -> dict[str, Any]:
    """Draw primary arms wider and on top of the others."""
    width, order = (2.0, 3) if arm.is_primary else (1.3, 2)
    style = {"color": look.color, "linestyle": look.dash, "linewidth": width}
    return style | {"zorder": order}


def _rate(runs: Mapping[int, Record]) -> str:
    rates = sorted({run.config["optim.lr"] for run in runs.values()})
    return rate_text(rates[0]) if len(rates) == 1 else "varies"


def _failures(runs: Mapping[int, Record]) -> str:
    failed = sum(map(is_failed, runs.values()))
    return f", {failed} failed" if failed else ""


def draw_rates(drawing: Drawing, figure: Figure, e: SetupRuns) -> bool:
    top, bottom = drawing.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    styles = line_styles(e.setup)
    for arm in _arms_of(figure, e):
        grid = {x: list(r.values()) for x, r in sorted(e.grids.get(arm.name, {}).items()) if r}
        if not grid:
            continue
        look, rates = styles[arm.name], [rate_of(x) for x in grid]
        values = [[100 * accuracy(run, "validation") for run in runs] for runs in grid.values()]
        failed = [100 * float(np.mean([*map(is_failed, runs)])) for runs in grid.values()]
        line = _line_style(look, arm) | {"marker": look.marker}
        sizes = sorted({len(runs) for runs in grid.values()})
        n = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        top.plot(rates, [np.mean(v) for v in values], label=f"{arm.name}, n = {n}", **line)
        low, high = [min(v) for v in values], [max(v) for v in values]
        top.fill_between(rates, low, high, color=look.color, alpha=0.12, lw=0)
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


KINDS: dict[str, Callable[[Drawing, Figure, SetupRuns], bool]] = {
    "curves": draw_curves,
    "rates": draw_rates,
    "levels": draw_levels,
    "probe": draw_probe,
    "layers": draw_layers,
    "percentiles": draw_percentiles,
}
"""Kind -> what draws it, and tells whether there was anything to draw."""
