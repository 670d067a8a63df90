"""How arms get their learning rates: tuned, or swept over a grid; and runs that follow from those.

A protocol says which runs a setup asks for and what they mean; planning asks it, stage by stage,
and the page takes its sentences and the names of its columns from it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.metrics import (
    FAILED_ERROR,
    MISSED_STEPS,
    error_points,
    is_failed,
    largest_rate,
    steps_to_target,
    train_accuracy,
)
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


def rate_of(exponent: float) -> float:
    """Return 10^exponent with 4 significant digits, so that a rate has one spelling."""
    return float(f"{10**exponent:.4g}")


def reaches(run: Record, target: float) -> bool:
    """Tell whether a run trained: it ended at or above the target on validation."""
    return not is_failed(run) and run.final["validation_accuracy"] >= target


def grid_text(exponents: Sequence[float], spacing: float) -> str:
    low, high = (rate_text(rate_of(e)) for e in (exponents[0], exponents[-1]))
    return f"{len(exponents)} rates from {low} to {high}, {spacing:g} decades apart"


@dataclass(frozen=True)
class Tuning:
    """Give every arm its own best rate: the same grid and tuning seeds, then fresh seeds report."""

    exponents: tuple[float, ...] = HALF_DECADES
    """log10 of the rates."""
    spacing: float = 0.5
    metric: Metric = "error"
    """What is tuned: steps to the setup's target or error, both on validation, or the error on
    the training examples of eval.train_examples."""
    seeds: tuple[int, ...] = (1000, 1001, 1002)
    extensions: int = 4
    """While the best rate lies on an edge, the grid grows there, at most this often."""

    stage = "tune"
    rate_column, failed_column = "tuned rate", "failed"

    @property
    def times_steps(self) -> bool:
        """Whether runs are compared by their steps to the target."""
        return self.metric == "steps"

    @property
    def has_target(self) -> bool:
        """Whether the target decides what a run is worth."""
        return self.times_steps

    def grid(self, is_primary: bool) -> tuple[list[float], float]:
        """Return the first exponents and their spacing."""
        return list(self.exponents), self.spacing

    def grid_seeds(self, reporting: range) -> Sequence[int]:
        return self.seeds

    def grid_settings(self, target: float) -> Config:
        """Return the settings of tuning runs alone: tuned for speed, they end at the target."""
        return {"train.stop_at": target} if self.times_steps else {}

    def value(self, run: Record, target: float) -> float:
        """Return what tuning minimises: log2 of the steps to the target, or an error."""
        if self.times_steps:
            steps = steps_to_target(run, target)
            return math.log2(min(steps, MISSED_STEPS * run.config["train.steps"]))
        if self.metric == "train_error":
            return 1 - train_accuracy(run)
        return validation_error(run)

    def chosen(self, grid: Grid, target: float) -> float:
        """Return the exponent with the least mean value; ties (no rate reaches the target, say) go
        to the least validation error, then to the lower rate."""

        def rank(exponent: float) -> tuple[float, float, float]:
            runs = grid[exponent].values()
            errors = (error_points(r, "validation") for r in runs)
            value = statistics.fmean(self.value(r, target) for r in runs)
            return value, statistics.fmean(errors), exponent

        return min(grid, key=rank)

    def grows(self, grid: Grid, target: float) -> tuple[bool, bool]:
        """Tell whether a lower and whether a higher rate has to be tried."""
        best = self.chosen(grid, target)
        return best == min(grid), best == max(grid)

    def reporting_rate(self, chosen: float) -> float | None:
        """Return the exponent at which fresh seeds report; None where the grid itself reports."""
        return chosen

    def largest_rates(self, grid: Grid, target: float) -> dict[int, float]:
        """Return seed -> exponent of the largest rate that trains, where every seed has a grid."""
        return {}

    def runs(self, grid: Grid, reports: Runs, target: float) -> Runs:
        """Return the runs that represent an arm."""
        return reports

    def tried(self, grid: Grid, reports: Runs) -> list[Record]:
        """Return the runs whose failures are counted."""
        return list(reports.values())

    def rates_text(self) -> str:
        return (
            f"{grid_text(self.exponents, self.spacing)}; each arm takes its own best one, "
            f"{GOALS[self.metric]}, a failed run counting as the worst value. While the best rate "
            "of any arm lies on an edge, the grid grows there for all arms of its group, by at "
            f"most {self.extensions} on a side."
        )

    def seeds_text(self) -> str:
        return f"tuned with {self.seeds[0]} to {self.seeds[-1]}, which are not used again; "

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
            ("test error, each batch's own statistics", "batch error"),
        ]

    def content(self) -> dict[str, Any]:
        """Return what a rule keeps of it."""
        return grid_content(self) | {"kind": "tuning", "tuned": self.metric, "seeds": self.seeds}


@dataclass(frozen=True)
class Sweep:
    """Run every rate of a grid with the reporting seeds; it grows upwards until 2 in a row fail."""

    exponents: tuple[float, ...]
    spacing: float
    extensions: int = 8
    screening_stride: int = 1
    """Screening arms take every n-th rate of the grid."""

    stage = "sweep"
    rate_column, failed_column = "best rate", "failed, all rates"
    times_steps, has_target = False, True

    def grid(self, is_primary: bool) -> tuple[list[float], float]:
        stride = 1 if is_primary else self.screening_stride
        return list(self.exponents[::stride]), self.spacing * stride

    def grid_seeds(self, reporting: range) -> Sequence[int]:
        return reporting

    def grid_settings(self, target: float) -> Config:
        return {}

    def chosen(self, grid: Grid, target: float) -> float:
        """Return the exponent of the median of the largest rates that train."""
        return statistics.median_low(self.largest_rates(grid, target).values())

    def grows(self, grid: Grid, target: float) -> tuple[bool, bool]:
        top = sorted(grid)[-2:]
        return False, any(reaches(run, target) for e in top for run in grid[e].values())

    def reporting_rate(self, chosen: float) -> float | None:
        return None

    def largest_rates(self, grid: Grid, target: float) -> dict[int, float]:
        by_seed: dict[int, dict[float, bool]] = {}
        for exponent, runs in grid.items():
            for seed, run in runs.items():
                by_seed.setdefault(seed, {})[exponent] = reaches(run, target)
        return {seed: largest_rate(passed) for seed, passed in sorted(by_seed.items())}

    def runs(self, grid: Grid, reports: Runs, target: float) -> Runs:
        """Return the runs at the rate with the least mean error."""
        if not grid or not all(grid.values()):
            return {}
        return grid[min(grid, key=lambda e: (_mean_error(grid[e]), e))]

    def tried(self, grid: Grid, reports: Runs) -> list[Record]:
        return [run for runs in grid.values() for run in runs.values()]

    def rates_text(self) -> str:
        stride = self.screening_stride
        screened = f" Screening arms: one rate in {stride}." if stride > 1 else ""
        return (
            f"{grid_text(self.exponents, self.spacing)}, every one with every reporting seed; the "
            "grid grows upwards until two rates in a row fail, by at most "
            f"{self.extensions}.{screened}"
        )

    def seeds_text(self) -> str:
        return ""

    def columns(self, target: str, reference: str) -> list[tuple[str, str]]:
        return [
            ("largest rate that trains", "largest rate"),
            (f"times the rate of {reference}", "rate ratio"),
        ]

    def content(self) -> dict[str, Any]:
        return grid_content(self) | {"kind": "sweep", "screening stride": self.screening_stride}


Protocol = Tuning | Sweep


def validation_error(run: Record) -> float:
    return FAILED_ERROR if is_failed(run) else 1 - run.final["validation_accuracy"]


def _mean_error(runs: Runs) -> float:
    return statistics.fmean(map(validation_error, runs.values()))


def grid_content(protocol: Protocol) -> dict[str, Any]:
    names = ("exponents", "spacing", "extensions")
    return {name: getattr(protocol, name) for name in names}


@dataclass(frozen=True)
class FollowUp:
    """Further runs of an arm at a rate that depends on another arm's: factor x its best rate
    (tuning), or factor x the median of its largest rate that trains (sweep)."""

    name: str
    arm: str
    rate_of: str
    factor: float = 1.0
    seeds: int = 0
    """0: as many as the arm reports."""
    settings: Config = field(default_factory=dict)
    is_secondary: bool = False
    """Whether no contrast depends on it: --seeds, which explores, then leaves it out."""

    @property
    def stage(self) -> str:
        return f"follow: {self.name}"

    def exponent(self, best: float) -> float:
        return round(best + math.log10(self.factor), 4)

    def seeds_of(self, reporting: range) -> range:
        return range(self.seeds) if self.seeds else reporting

    def text(self, reporting: range) -> str:
        """Return how it was run, as a sentence for the page."""
        times = "" if self.factor == 1 else f"{self.factor:g} x "
        changed = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        n = len(self.seeds_of(reporting))
        text = f"{self.arm} at {times}the rate of {self.rate_of}, {n} seeds"
        return f"{text}, {changed}." if changed else f"{text}."

    def content(self) -> dict[str, Any]:
        facts = {"arm": self.arm, "rate of": self.rate_of, "factor": self.factor}
        return facts | {"seeds": self.seeds, "settings": dict(self.settings)}
