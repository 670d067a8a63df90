"""What a study compares, and how: arms on one network and data set, and how they get their rates.

A protocol says which runs a setup asks for and what they mean. Planning asks it stage by stage.
The page takes its sentences and the names of its columns from it.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from normlab.runs.errors import ConfigError
from normlab.runs.record import Record
from normlab.settings import Config, flatten
from normlab.studies.metrics import (
    MISSED_STEPS,
    accuracy,
    error_points,
    is_failed,
    largest_rate,
    steps_to_target,
    train_accuracy,
)
from normlab.studies.units import rate_text

ROOT = Path(__file__).resolve().parents[2]
HALF_DECADES = tuple(e / 2 for e in range(-6, 2))
"""log10 of the usual tuning grid: 10^-3 to 10^0.5."""

PAIR = ("none", "batch")
"""The norms that most claims compare."""
OFTEN = {"train.eval_every": 1, "train.eval_growth": 1.1}
"""Evaluations at every step, later at steps that are 10 % apart."""

Runs = Mapping[int, Record]
Grid = Mapping[float, Runs]
"""Exponent of the rate -> seed -> run."""
Metric = Literal["steps", "error", "train_error"]
GOALS: Mapping[Metric, str] = {
    "steps": "fewest steps to the target on validation",
    "error": "least error on validation",
    "train_error": "least error on the training examples",
}


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a name and the settings that make it."""

    name: str
    settings: Config
    is_primary: bool = False
    """Primary arms run at the planned n and decide; the others are screened and do not."""
    level: float | None = None
    """Its place on the axis of a figure over levels (a batch size, say)."""
    line: str = ""
    """The line of that figure it belongs to."""
    group: str = ""
    """Primary arms of one group are tuned on one grid: if it grows for one, it grows for all."""


def norm_arms(*names: str, primary: tuple[str, ...] = ()) -> tuple[Arm, ...]:
    """Return one arm for each scheme, with the name of the scheme."""
    return tuple(Arm(n, {"norm.name": n}, is_primary=n in primary) for n in names)


def level_arms(setting: str, levels: tuple[float, ...], *norms: str) -> tuple[Arm, ...]:
    """Return each norm at each level of a setting, such as `batch/8`, tuned together per level."""
    short = setting.rpartition(".")[2]
    return tuple(
        Arm(
            f"{norm}/{level:g}",
            {"norm.name": norm, setting: level},
            is_primary=True,
            level=level,
            line=norm,
            group=f"{short} {level:g}",
        )
        for level in levels
        for norm in norms
    )


def statistics_arms(*examples: int, primary: tuple[int, ...]) -> tuple[Arm, ...]:
    """Return batch norm with statistics over these numbers of examples, as levels of one line."""
    return tuple(
        Arm(
            f"batch/{n}",
            {"norm.name": "batch", "norm.stats_batch": n},
            is_primary=n in primary,
            level=n,
            line="batch norm",
        )
        for n in examples
    )


def rate_of(exponent: float) -> float:
    """Return 10^exponent with 4 significant digits, so that a rate has one spelling."""
    return float(f"{10**exponent:.4g}")


def reaches(run: Record, target: float) -> bool:
    """Return whether a run trained: it ended at or above the target on validation."""
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

    kind, stage, screening_stride = "tuning", "tune", 1
    rate_column, failed_column = "tuned rate", "failed"

    @property
    def times_steps(self) -> bool:
        """Whether runs are compared by their steps to the target."""
        return self.metric == "steps"

    @property
    def has_target(self) -> bool:
        """Whether the target decides what a run is worth."""
        return self.times_steps

    def value(self, run: Record, target: float) -> float:
        """Return what tuning minimises: log2 of the steps to the target, or an error."""
        if self.times_steps:
            steps = steps_to_target(run, target)
            return math.log2(min(steps, MISSED_STEPS * run.config["train.steps"]))
        if self.metric == "train_error":
            return 1 - train_accuracy(run)
        return 1 - accuracy(run, "validation")

    def chosen(self, grid: Grid, target: float) -> float:
        """Return the exponent with the least mean value.

        Ties (no rate reaches the target, say) are decided by the validation error, then by the
        lower rate.
        """

        def rank(exponent: float) -> tuple[float, float, float]:
            runs = grid[exponent].values()
            errors = (error_points(r, "validation") for r in runs)
            value = statistics.fmean(self.value(r, target) for r in runs)
            return value, statistics.fmean(errors), exponent

        return min(grid, key=rank)

    def grows(self, grid: Grid, target: float) -> tuple[bool, bool]:
        """Return whether a lower and whether a higher rate has to be tried."""
        best = self.chosen(grid, target)
        return best == min(grid), best == max(grid)

    def rates_text(self) -> str:
        return (
            f"{grid_text(self.exponents, self.spacing)}; each arm takes its own best one, "
            f"{GOALS[self.metric]}, a failed run counting as the worst value. While the best rate "
            "of any arm lies on an edge, the grid grows there for all arms of its group, by at "
            f"most {self.extensions} on a side."
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
            ("test error, each batch's own statistics", "batch error"),
        ]


@dataclass(frozen=True)
class Sweep:
    """Run every rate of a grid with the reporting seeds; it grows upwards until 2 in a row fail."""

    exponents: tuple[float, ...]
    spacing: float
    extensions: int = 8
    screening_stride: int = 1
    """Screening arms take every n-th rate of the grid."""

    kind, stage, seeds = "sweep", "sweep", ()
    rate_column, failed_column = "best rate", "failed, all rates"
    times_steps, has_target = False, True

    def largest_rates(self, grid: Grid, target: float) -> dict[int, float]:
        """Return seed -> exponent of the largest rate that trains."""
        passed: dict[int, dict[float, bool]] = {}
        for exponent, runs in grid.items():
            for seed, run in runs.items():
                passed.setdefault(seed, {})[exponent] = reaches(run, target)
        return {seed: largest_rate(passed[seed]) for seed in sorted(passed)}

    def chosen(self, grid: Grid, target: float) -> float:
        """Return the exponent of the median of the largest rates that train."""
        return statistics.median_low(self.largest_rates(grid, target).values())

    def grows(self, grid: Grid, target: float) -> tuple[bool, bool]:
        top = sorted(grid)[-2:]
        return False, any(reaches(run, target) for e in top for run in grid[e].values())

    def runs(self, grid: Grid) -> Runs:
        """Return the runs at the rate with the least mean error."""

        def rank(exponent: float) -> tuple[float, float]:
            errors = (1 - accuracy(run, "validation") for run in grid[exponent].values())
            return statistics.fmean(errors), exponent

        return grid[min(grid, key=rank)] if all(grid.values()) else {}

    def rates_text(self) -> str:
        stride = self.screening_stride
        screened = f" Screening arms: one rate in {stride}." if stride > 1 else ""
        return (
            f"{grid_text(self.exponents, self.spacing)}, every one with every reporting seed; the "
            "grid grows upwards until two rates in a row fail, by at most "
            f"{self.extensions}.{screened}"
        )

    def columns(self, target: str, reference: str) -> list[tuple[str, str]]:
        return [
            ("largest rate that trains", "largest rate"),
            (f"times the rate of {reference}", "rate ratio"),
        ]


@dataclass(frozen=True)
class FollowUp:
    """Further runs of an arm at a rate that follows from another arm's.

    It is factor x the best rate (tuning), or factor x the median largest that trains (sweep).
    """

    name: str
    arm: str
    rate_of: str
    factor: float = 1.0
    seeds: int = 0
    """0: as many as the arm reports."""
    settings: Config = field(default_factory=dict)
    is_secondary: bool = False
    """Whether no contrast depends on it: --seeds, which explores, then leaves it out."""

    def seeds_of(self, reporting: range) -> range:
        return range(self.seeds) if self.seeds else reporting

    def text(self, reporting: range) -> str:
        """Return how it was run, as a sentence for the page."""
        times = "" if self.factor == 1 else f"{self.factor:g} x "
        changed = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        n = len(self.seeds_of(reporting))
        text = f"{self.arm} at {times}the rate of {self.rate_of}, {n} seeds"
        return f"{text}, {changed}." if changed else f"{text}."


@dataclass(frozen=True)
class Setup:
    """Where arms are compared: network, data, protocol."""

    name: str
    title: str
    base: str
    """A configuration in configs/, by name."""
    arms: tuple[Arm, ...]
    protocol: Tuning | Sweep
    settings: Config = field(default_factory=dict)
    seeds: int = 12
    """Planned n of the primary arms: seeds 0 .. n - 1."""
    screening_seeds: int = 5
    target: float = 0.9
    """Accuracy to reach."""
    report_settings: Config = field(default_factory=dict)
    """Settings of the reporting runs alone: diagnostics, say."""
    seed_setting: Literal["seed", "init.seed"] = "seed"
    """What the seeds of this setup draw: all of a run, or its initial weights alone."""
    follows: tuple[FollowUp, ...] = ()

    def arm(self, name: str) -> Arm | None:
        return next((a for a in self.arms if a.name == name), None)

    def seeds_of(self, arm: Arm) -> range:
        return range(self.seeds if arm.is_primary else self.screening_seeds)

    def on(self, base: str, title: str, **changes: Any) -> Setup:
        """Return the setup on another network or data set, with its primary arms alone unless
        `arms` are given. Its settings are not merged with those of `changes`."""
        primary = tuple(a for a in self.arms if a.is_primary)
        return replace(self, base=base, title=title, **{"arms": primary} | changes)


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


def load_config(name: str) -> Config:
    """Return the configuration of configs/<name>.py."""
    return flatten(load_module(ROOT / "configs" / f"{name}.py").get_config().to_dict())
