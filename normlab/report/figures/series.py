"""What a figure shows of the curves of runs: which runs, one quantity of theirs, its quartiles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np

from normlab.report.figures.style import LineStyle, follow_up_styles, line_styles
from normlab.runs.record import Record
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import Arm
from normlab.studies.study import Figure

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Group:
    """Runs that a figure draws as one: those of an arm, or those of a follow-up."""

    name: str
    style: LineStyle
    runs: Mapping[int, Record]

    @property
    def label(self) -> str:
        """What the legend says: name, n, and how many diverged."""
        diverged = sum(run.status == "diverged" for run in self.runs.values())
        lost = f", {diverged} diverged" if diverged else ""
        return f"{self.name}\nn = {len(self.runs)}{lost}"


@dataclass(frozen=True)
class Quartiles:
    """Median, 25th and 75th percentile of several runs at places of an axis."""

    at: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def arms_of(figure: Figure, e: SetupRuns) -> list[Arm]:
    """Return the arms that a figure shows: those that it names, else all."""
    return [arm for arm in e.setup.arms if arm.name in figure.arms or not figure.arms]


def n_range(samples: Iterable[Sized]) -> str:
    """Return the number of runs of several points, as a range where they differ."""
    sizes = sorted({len(sample) for sample in samples})
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def groups_of(figure: Figure, e: SetupRuns) -> list[Group]:
    """Return what a figure draws: the setup's arms or follow-ups, or those that it names."""
    if figure.follows:
        styles, found = follow_up_styles(e.setup), dict(e.follows)
    else:
        styles = line_styles(e.setup)
        found = {arm.name: e.runs_of(arm.name) for arm in e.setup.arms}
    chosen = [name for name in found if name in figure.arms or not figure.arms]
    return [Group(name, styles[name], found[name]) for name in chosen if found[name]]


def rows_of(run: Record) -> Rows:
    """Return the rows of a run's curve from before it diverged."""
    if run.diverged_at is None:
        return run.curve
    return [row for row in run.curve if row["step"] < run.diverged_at]


def trace(runs: Mapping[int, Record], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [points] and a quantity of the runs [n, points], NaN where a run has none."""
    found = [
        {row["step"]: row[key] for row in rows_of(run) if key in row and row["step"] > 0}
        for run in runs.values()
    ]
    steps = sorted(set().union(*found))
    values = np.array([[line.get(step, np.nan) for step in steps] for line in found], float)
    return np.array(steps, float), np.where(np.isfinite(values), values, np.nan)


def quartiles(at: np.ndarray, values: np.ndarray) -> Quartiles:
    """Return the quartiles of [n, points] over the runs that have a value, at the points where at
    least half of all n have one: those that are left are no sample of the arm."""
    kept = 2 * np.isfinite(values).sum(axis=0) >= max(len(values), 1)
    kept &= np.isfinite(values).any(axis=0)
    if not kept.any():
        return Quartiles(*(np.empty(0) for _ in range(4)))
    return Quartiles(at[kept], *np.nanpercentile(values[:, kept], [25, 50, 75], axis=0))


def layer_names(runs: Mapping[int, Record], prefix: str) -> list[str]:
    """Return the layers that the runs know `prefix` of, in order of execution."""
    start = f"{prefix}."
    names: dict[str, None] = {}
    for run in runs.values():
        for row in run.curve[:1]:
            names |= {key.removeprefix(start): None for key in row if key.startswith(start)}
    # compiled programs return their values sorted by name: dense_10 before dense_2
    is_sorted = list(names) == sorted(names)
    return sorted(names, key=_by_number) if is_sorted else list(names)


def _by_number(layer: str) -> tuple[bool, list[tuple[str, int]]]:
    """Order layers by the numbers in their names; the head comes last."""
    parts = re.findall(r"(\D*)(\d*)", layer)
    return layer == "head", [(text, int(number or -1)) for text, number in parts]


def by_layer(runs: Mapping[int, Record], prefix: str, place: int) -> tuple[int, np.ndarray]:
    """Return the latest step at which the runs' first (place 0) or last (-1) recorded point lies,
    and what it holds: [n, layers], NaN where a run has none."""
    names = layer_names(runs, prefix)
    values, steps = np.full((len(runs), len(names)), np.nan), [0]
    for line, run in zip(values, runs.values(), strict=True):
        table = [[row.get(f"{prefix}.{name}", np.nan) for name in names] for row in rows_of(run)]
        known = [i for i, told in enumerate(table) if np.isfinite(told).any()]
        if known:
            line[:] = table[known[place]]
            steps.append(int(run.curve[known[place]]["step"]))
    return max(steps), np.where(np.isfinite(values), values, np.nan)
