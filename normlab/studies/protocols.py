"""How arms get their learning rates: which runs are asked for, and what they mean.

A protocol says which rates are tried and which are chosen. Planning asks it stage by stage. The
page takes its sentences and the names of its columns from it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.metrics import (
    MISSED_STEPS,
    accuracy,
    error_points,
    is_failed,
    steps_to_target,
    train_accuracy,
)
from normlab.studies.rates import MAY_FAIL, neighbours, vertex
from normlab.studies.units import rate_text

HALF_DECADES = tuple(e / 2 for e in range(-6, 2))
"""log10 of the usual tuning grid: 10^-3 to 10^0.5."""

Runs = Mapping[int, Record]
Grid = Mapping[float, Runs]
"""Exponent of the rate -> seed -> run."""
Metric = Literal["steps", "error", "train_error"]
GOALS: Mapping[Metric, str] = {
    "steps": "fewest steps to the target on validation",
    "error": "least error on validation",
    "train_error": "least error on the training examples",
}
REPORTED = {
    "one": "Reporting seeds run at that rate.",
    "two": "Reporting seeds run at the two best rates, and count with the mean of both.",
    "window": "Reporting seeds run at the five quarter-decade rates around it. A parabola through "
    "their mean validation errors gives the rate again. A seed counts with its mean over that rate "
    "and its two neighbours. While the rate lies on an edge of the window, the window moves there.",
}


def rate_of(exponent: float) -> float:
    """Return 10^exponent with 4 significant digits, so that a rate has one spelling."""
    return float(f"{10**exponent:.4g}")


def reaches(run: Record, target: float) -> bool:
    """Return whether a run trained: it ended at or above the target on validation."""
    return not is_failed(run) and run.final["validation_accuracy"] >= target


def eligible(failed: Mapping[float, float]) -> list[float]:
    """Return the rates of which few enough runs failed; where there is none, those with the fewest.

    `failed` maps the exponent of each rate to its share of failed runs.
    """
    least = max(MAY_FAIL, min(failed.values()))
    return sorted(e for e, share in failed.items() if share <= least)


def grid_text(exponents: Sequence[float], spacing: float) -> str:
    low, high = (rate_text(rate_of(e)) for e in (exponents[0], exponents[-1]))
    return f"{len(exponents)} rates from {low} to {high}, {spacing:g} decades apart"


@dataclass(frozen=True)
class Tuning:
    """Give every arm its own best rate: the same grid and tuning seeds, then fresh seeds report.

    A rate is eligible where few runs fail. The best eligible one and its neighbours give a
    parabola. Its lowest point, on the grid of quarter decades, is the arm's rate.
    """

    exponents: tuple[float, ...] = HALF_DECADES
    """log10 of the rates."""
    spacing: float = 0.5
    metric: Metric = "error"
    """What is tuned: steps to the setup's target or error, both on validation, or the error on
    the training examples of eval.train_examples."""
    seeds: tuple[int, ...] = tuple(range(1000, 1006))
    extensions: int = 4
    """While the best rate lies on an edge, the grid grows there, at most this often."""
    reported: Literal["one", "two", "window"] = "one"
    """What the reporting seeds run: the arm's rate, or the two best rates of the grid, or a window.
    In a window of five rates all reporting seeds together choose again."""
    also: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Further settings with their values, ("optim.weight_decay", (0.0, 1e-4)) say. Every arm tries
    each combination with the whole grid of rates, and takes the one whose best rate is best."""

    kind, stage = "tuning", "tune"
    rate_column, failed_column = "tuned rate", "failed"

    @property
    def combinations(self) -> list[Config]:
        """The values of the further settings in every combination; one, empty, without any."""
        names, values = [name for name, _ in self.also], [tried for _, tried in self.also]
        return [dict(zip(names, found, strict=True)) for found in itertools.product(*values)]

    @property
    def times_steps(self) -> bool:
        """Whether runs are compared by their steps to the target."""
        return self.metric == "steps"

    @property
    def has_target(self) -> bool:
        """Whether the target decides what a run is worth."""
        return self.times_steps

    @property
    def reference(self) -> str:
        """The arm that a table compares the others with."""
        return "none" if self.times_steps else "batch"

    @property
    def cap(self) -> float:
        """How far above the least value a rate counts at most, when a parabola is fitted."""
        return 3.0 if self.times_steps else 0.2

    def value(self, run: Record, target: float) -> float:
        """Return what tuning minimises: log2 of the steps to the target, or an error."""
        if self.times_steps:
            steps = steps_to_target(run, target)
            return math.log2(min(steps, MISSED_STEPS * run.config["train.steps"]))
        if self.metric == "train_error":
            return 1 - train_accuracy(run)
        return 1 - accuracy(run, "validation")

    def means(self, grid: Grid, target: float) -> dict[float, float]:
        """Return the mean value of each eligible rate."""
        failed = {e: statistics.fmean(map(is_failed, runs.values())) for e, runs in grid.items()}
        return {
            e: statistics.fmean(self.value(run, target) for run in grid[e].values())
            for e in eligible(failed)
        }

    def best(self, grid: Grid, target: float) -> float:
        """Return the exponent with the least mean value.

        Ties (no rate reaches the target, say) are decided by the validation error, then by the
        lower rate.
        """
        means = self.means(grid, target)

        def rank(exponent: float) -> tuple[float, float, float]:
            errors = (error_points(run, "validation") for run in grid[exponent].values())
            return means[exponent], statistics.fmean(errors), exponent

        return min(means, key=rank)

    def standing(self, grid: Grid, target: float) -> tuple[float, float, float]:
        """Return how good a combination is at its best rate: least is best. First counts the
        share of failed runs, if it is too large, then the mean value, then the validation error."""
        best = self.best(grid, target)
        runs = grid[best].values()
        failed = max(MAY_FAIL, statistics.fmean(map(is_failed, runs)))
        error = statistics.fmean(error_points(run, "validation") for run in runs)
        return failed, self.means(grid, target)[best], error

    def chosen(self, grid: Grid, target: float) -> float:
        """Return the exponent of the arm's rate."""
        best = self.best(grid, target)
        near = neighbours(self.means(grid, target), best, self.spacing)
        return vertex(near, self.cap) if len(set(near.values())) > 1 else best

    def two_best(self, grid: Grid, target: float) -> list[float]:
        """Return the best eligible rate and the better of its eligible neighbours."""
        best = self.best(grid, target)
        near = neighbours(self.means(grid, target), best, self.spacing)
        return sorted(near, key=lambda e: (e != best, near[e]))[:2]

    def grows(self, grid: Grid, target: float) -> tuple[bool, bool]:
        """Return whether a lower and whether a higher rate has to be tried."""
        best = self.best(grid, target)
        return best == min(grid), best == max(grid)

    def rates_text(self) -> str:
        return (
            f"{grid_text(self.exponents, self.spacing)}, {len(self.seeds)} tuning seeds. A rate is "
            f"eligible where at most {100 * MAY_FAIL:g} % of the runs fail. Each arm takes the "
            f"lowest point of a parabola through its best rate and the neighbours of that "
            f"({GOALS[self.metric]}), on a grid of quarter decades. "
            f"{REPORTED[self.reported]} While the best rate of any arm lies on an edge, the grid "
            f"grows there for all arms of its group, by at most {self.extensions} on a side."
        )

    def columns(self, target: str, reference: str) -> list[tuple[str, str]]:
        """Return (title, quantity) of what the table of a setup shows of each arm."""
        if self.times_steps:
            return [
                (f"steps to {target}", "steps"),
                (f"times faster than {reference}", "speed"),
                ("steps, running averages", "running steps"),
            ]
        return [
            ("test error, points", "error"),
            (f"difference to {reference}", "difference"),
            ("test error, running averages", "running error"),
            ("test error, own statistics as in training", "batch error"),
        ]


WINDOW = Tuning(seeds=tuple(range(1000, 1003)), reported="window")
"""Rates chosen by the reporting seeds themselves: for contrasts that small differences decide."""
ADAM_RATES = tuple(e / 2 for e in range(-8, -1))
"""log10 of the first rates that are tried with Adam."""
ADAM_WINDOW = replace(WINDOW, exponents=ADAM_RATES)


@dataclass(frozen=True)
class Edges:
    """Find the highest rate that still trains, for every reporting seed.

    A rate passes if the run ends within 10 points of the seed's own best accuracy. The grid grows
    upwards until two rates in a row pass for no seed. Then the bracket above the highest passing
    rate is halved.
    """

    exponents: tuple[float, ...]
    spacing: float = 0.5
    extensions: int = 8
    bisections: int = 3
    within: float = 0.1
    """Accuracy that may be lost to the seed's own best."""

    kind, stage, seeds = "edges", "edge", ()
    rate_column, failed_column = "best rate", "failed, all rates"
    times_steps, has_target, reference = False, False, "none"
    also, combinations = (), ({},)

    def passes(self, grid: Grid, seed: int, run: Record) -> bool:
        best = max(accuracy(runs[seed], "validation") for runs in grid.values())
        return not is_failed(run) and accuracy(run, "validation") >= best - self.within

    def highest(self, grid: Grid, seed: int) -> float:
        """Return the highest rate of the grid that passes; -inf where none does."""
        passing = [e for e, runs in grid.items() if self.passes(grid, seed, runs[seed])]
        return max(passing, default=-math.inf)

    def grows(self, grid: Grid, target: float) -> tuple[bool, bool]:
        top = sorted(grid)[-2:]
        seeds = grid[top[-1]]
        return False, any(self.passes(grid, s, grid[e][s]) for e in top for s in seeds)

    def best(self, grid: Grid, target: float) -> float:
        """Return the rate with the least mean error."""

        def rank(exponent: float) -> tuple[float, float]:
            errors = (1 - accuracy(run, "validation") for run in grid[exponent].values())
            return statistics.fmean(errors), exponent

        return min(grid, key=rank)

    def rates_text(self) -> str:
        return (
            f"{grid_text(self.exponents, self.spacing)}, every one with every reporting seed. The "
            "grid grows upwards until two rates in a row pass for no seed, by at most "
            f"{self.extensions}. A rate passes within {100 * self.within:g} points of the seed's "
            f"own best accuracy. The bracket above is halved {self.bisections} times."
        )

    def columns(self, target: str, reference: str) -> list[tuple[str, str]]:
        return [
            ("highest rate that trains", "largest rate"),
            (f"times the rate of {reference}", "rate ratio"),
        ]
