"""The runs of a setup, stage by stage: those that are there, and those that are still wanted.

Planning and reading are one thing: a stage asks for its runs, takes the finished ones and leaves
the others on the list; a later stage asks once the earlier one can answer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from normlab.runs.config import resolve, run_id
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
from normlab.studies.study import Arm, Setup, Sweep, Tuning, load_config


@dataclass(frozen=True)
class RequiredRun:
    """A run that a study needs: who asked, and what it is."""

    run_id: str
    config: Config
    setup: str
    arm: str
    stage: str


@dataclass
class ConfigCache:
    """Resolved configurations, kept because every look at a study asks for all of them again."""

    data_dir: str | None = None
    needs_data: bool = True
    """False for reports: stored runs can be read where their data set is not."""
    bases: dict[str, Config] = field(default_factory=dict)
    resolved: dict[tuple, tuple[str, Config]] = field(default_factory=dict)

    def look_up(self, setup: Setup, settings: Config) -> tuple[str, Config]:
        key = (setup.base, tuple(setup.settings.items()), tuple(settings.items()))
        if key not in self.resolved:
            if setup.base not in self.bases:
                self.bases[setup.base] = load_config(setup.base)
            config = self.bases[setup.base] | setup.settings | settings
            resolved = resolve(config, self.data_dir, self.needs_data).config
            self.resolved[key] = run_id(resolved), resolved
        return self.resolved[key]


def rate_of(exponent: float) -> float:
    """Return 10^exponent with 4 significant digits, so that a rate has one spelling."""
    return float(f"{10**exponent:.4g}")


class StudyRuns(dict[str, "SetupRuns"]):
    """The setups of one study by name, with the records of the benchmarks that it reads."""

    def __init__(self, setups: Mapping[str, SetupRuns], measured: Mapping[str, Any]):
        super().__init__(setups)
        self.measured = measured


class SetupRuns:
    """All runs of one setup, as far as they are known."""

    def __init__(
        self, setup: Setup, records: Mapping[str, Record], cache: ConfigCache | None = None
    ):
        self.setup, self.records = setup, records
        self.cache = cache or ConfigCache()
        self.wanted: dict[str, RequiredRun] = {}
        self.grids: dict[str, dict[float, dict[int, Record]]] = {}
        """arm -> exponent -> seed -> run, of the tuning or sweeping stage."""
        self.reports: dict[str, dict[int, Record]] = {}
        """arm -> seed -> run at the arm's own best rate (tuning protocol)."""
        self.follows: dict[str, dict[int, Record]] = {}
        self.best: dict[str, float] = {}
        """arm -> exponent of its rate: the best, or the median largest that trains."""
        self.step_seconds: Mapping[str, float] = {}
        """arm -> seconds of a step of a single run, where one machine measured them."""
        groups: dict[str, list[Arm]] = {}
        for arm in setup.arms:
            if arm.is_primary:
                groups.setdefault(arm.group, []).append(arm)
        for group in [*groups.values(), *([a] for a in setup.arms if not a.is_primary)]:
            self._plan_group(group)
        for follow_up in setup.follows:
            self._plan_follow(follow_up)

    def seeds(self, arm: Arm) -> range:
        return range(self.setup.seeds if arm.is_primary else self.setup.screening_seeds)

    @property
    def times_steps(self) -> bool:
        """Whether the setup asks for steps to a target, which seconds can be told of."""
        protocol = self.setup.protocol
        return isinstance(protocol, Tuning) and protocol.metric == "steps"

    @property
    def is_complete(self) -> bool:
        return all(run in self.records for run in self.wanted)

    def _ask(self, arm: Arm, stage: str, exponent: float, seeds, extra=None) -> dict[int, Record]:
        found: dict[int, Record] = {}
        for seed in seeds:
            settings = arm.settings | (extra or {}) | {"optim.lr": rate_of(exponent)}
            settings |= {"seed": 0, self.setup.seed_setting: seed}
            name, config = self.cache.look_up(self.setup, settings)
            self.wanted[name] = RequiredRun(name, config, self.setup.name, arm.name, stage)
            if name in self.records:
                found[seed] = self.records[name]
        return found

    def _plan_group(self, group: list[Arm]) -> None:
        protocol = self.setup.protocol
        stride = 1
        if isinstance(protocol, Sweep) and not group[0].is_primary:
            stride = protocol.screening_stride
        exponents = list(protocol.exponents[::stride])
        is_known = self._ask_grid(group, exponents)
        for _ in range(protocol.extensions):
            spacing = protocol.spacing * stride
            grown = self._grow(group, exponents, spacing) if is_known else exponents
            if grown == exponents:
                break
            exponents = grown
            is_known = self._ask_grid(group, exponents)
        if is_known and isinstance(protocol, Tuning):
            for arm in group:
                self.best[arm.name] = self._best_exponent(arm.name)
                self.reports[arm.name] = self._ask(
                    arm,
                    "report",
                    self.best[arm.name],
                    self.seeds(arm),
                    self.setup.report_settings,
                )
        elif is_known:
            for arm in group:
                self.best[arm.name] = statistics.median_low(self.largest_rates(arm.name).values())

    def _ask_grid(self, group: list[Arm], exponents: list[float]) -> bool:
        protocol = self.setup.protocol
        is_known = True
        for arm in group:
            seeds = protocol.seeds if isinstance(protocol, Tuning) else self.seeds(arm)
            stage = "tune" if isinstance(protocol, Tuning) else "sweep"
            grid = {e: self._ask(arm, stage, e, seeds, self._brief()) for e in exponents}
            self.grids[arm.name] = grid
            is_known &= all(len(runs) == len(seeds) for runs in grid.values())
        return is_known

    def _brief(self) -> Config:
        """Return the settings of tuning runs alone: tuned for speed, they end at the target."""
        return {"train.stop_at": self.setup.target} if self.times_steps else {}

    def _grow(self, group: list[Arm], exponents: list[float], spacing: float) -> list[float]:
        """Return the grid with a rate added on each side that asks for one."""
        protocol = self.setup.protocol
        low, high = exponents[0], exponents[-1]
        below = above = False
        for arm in group:
            if isinstance(protocol, Tuning):
                best = self._best_exponent(arm.name)
                below, above = below or best == low, above or best == high
            else:
                above = above or not self._ends_in_failures(arm.name)
        lower = [round(low - spacing, 4)] if below else []
        upper = [round(high + spacing, 4)] if above else []
        return [*lower, *exponents, *upper]

    def _ends_in_failures(self, arm: str) -> bool:
        top = sorted(self.grids[arm])[-2:]
        return all(not self.reaches(r) for e in top for r in self.grids[arm][e].values())

    def reaches(self, record: Record) -> bool:
        """Tell whether a run trained: it ended at or above the target on validation."""
        return not is_failed(record) and record.final["validation_accuracy"] >= self.setup.target

    def tuning_value(self, record: Record) -> float:
        """Return what tuning minimises: log2 of the steps to the target, or an error."""
        if self.times_steps:
            steps = steps_to_target(record, self.setup.target)
            return math.log2(min(steps, MISSED_STEPS * record.config["train.steps"]))
        protocol = self.setup.protocol
        if isinstance(protocol, Tuning) and protocol.metric == "train_error":
            return 1 - train_accuracy(record)
        if is_failed(record):
            return FAILED_ERROR
        return 1 - record.final["validation_accuracy"]

    def _best_exponent(self, arm: str) -> float:
        """Return the exponent with the least mean tuning value; ties (no rate reaches the target,
        say) go to the least validation error, then to the lower rate."""
        grid = self.grids[arm]

        def rank(exponent: float) -> tuple[float, float, float]:
            runs = grid[exponent].values()
            errors = (error_points(r, "validation") for r in runs)
            value = statistics.fmean(map(self.tuning_value, runs))
            return value, statistics.fmean(errors), exponent

        return min(grid, key=rank)

    def largest_rates(self, arm: str) -> dict[int, float]:
        """Return for each seed the exponent of the largest rate that trains (sweep protocol)."""
        by_seed: dict[int, dict[float, bool]] = {}
        for exponent, runs in self.grids[arm].items():
            for seed, record in runs.items():
                by_seed.setdefault(seed, {})[exponent] = self.reaches(record)
        return {seed: largest_rate(passed) for seed, passed in sorted(by_seed.items())}

    def rate(self, arm: str) -> float | None:
        """Return the rate that came out for an arm, or None while it is not known."""
        return rate_of(self.best[arm]) if math.isfinite(self.best.get(arm, math.inf)) else None

    def _plan_follow(self, follow_up) -> None:
        arm, best = self.setup.arm(follow_up.arm), self.best.get(follow_up.rate_of, math.inf)
        if arm is None or not math.isfinite(best):
            return
        exponent = round(best + math.log10(follow_up.factor), 4)
        seeds = range(follow_up.seeds) if follow_up.seeds else self.seeds(arm)
        self.follows[follow_up.name] = self._ask(
            arm, f"follow: {follow_up.name}", exponent, seeds, follow_up.settings
        )

    def runs_of(self, arm: str) -> dict[int, Record]:
        """Return the runs that speak for an arm: its report, or its runs at the best swept rate."""
        if isinstance(self.setup.protocol, Sweep):
            grid = self.grids.get(arm, {})
            if not grid or not all(grid.values()):
                return {}
            best = min(
                grid, key=lambda e: (statistics.fmean(map(self.tuning_value, grid[e].values())), e)
            )
            return grid[best]
        return self.reports.get(arm, {})
