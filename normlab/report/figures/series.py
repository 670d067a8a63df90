"""What a figure shows of the curves of runs: which runs, one quantity of theirs, its quartiles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from normlab.report.figures.style import LineStyle, line_styles
from normlab.runs.record import Record
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import Arm
from normlab.studies.study import Figure


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


class Quartiles(NamedTuple):
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
    styles = line_styles(e.setup)
    names = e.follows if figure.follows else [arm.name for arm in e.setup.arms]
    chosen = [name for name in names if name in figure.arms or not figure.arms]
    return [Group(name, styles[name], runs) for name in chosen if (runs := e.runs_of(name))]


def rows_of(run: Record) -> list[dict[str, float]]:
    """Return the rows of a run's curve from before it diverged."""
    end = np.inf if run.diverged_at is None else run.diverged_at
    return [row for row in run.curve if row["step"] < end]


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
    """Return the quartiles of [n, points] over the runs that have a value.

    Points where fewer than half of all n have one are left out: the rest is no sample of the arm.
    """
    known = np.isfinite(values).sum(axis=0)
    kept = (known > 0) & (2 * known >= len(values))
    if not kept.any():
        return Quartiles(*np.empty((4, 0)))
    return Quartiles(at[kept], *np.nanpercentile(values[:, kept], [25, 50, 75], axis=0))


def layer_names(runs: Mapping[int, Record], prefix: str) -> list[str]:
    """Return the layers of which the runs have `prefix`, in order of execution.

    Compiled programs return their values sorted by name: dense_10 before dense_2.
    """
    start = f"{prefix}."
    keys = {key for run in runs.values() for row in run.curve[:1] for key in row}
    names = {key.removeprefix(start) for key in keys if key.startswith(start)}
    return sorted(names, key=_place)


def _place(layer: str) -> tuple[int, list[tuple[str, int]]]:
    """Order layers by the numbers in their names; the stem comes first, the head last."""
    parts = re.findall(r"(\D*)(\d*)", layer)
    end = -1 if layer.endswith("stem") else int(layer == "head")
    return end, [(text, int(number or -1)) for text, number in parts]


def by_layer(runs: Mapping[int, Record], prefix: str, place: int) -> tuple[int, np.ndarray]:
    """Return a step and what the runs' first (place 0) or last (-1) recorded points hold:
    [n, layers], NaN where a run has none. The step is the latest of these points."""
    names = layer_names(runs, prefix)
    values, steps = np.full((len(runs), len(names)), np.nan), [0]
    for line, run in zip(values, runs.values(), strict=True):
        for row in rows_of(run)[:: 1 if place == 0 else -1]:
            found = np.array([row.get(f"{prefix}.{name}", np.nan) for name in names])
            if np.isfinite(found).any():
                line[:] = np.where(np.isfinite(found), found, np.nan)
                steps.append(int(row["step"]))
                break
    return max(steps), values
