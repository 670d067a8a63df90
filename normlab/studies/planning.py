"""The runs of a setup, stage by stage: those that are there, and those that are still wanted.

Planning and reading are one thing. A stage asks for its runs, takes the finished ones and leaves
the others on the list. A later stage asks once the earlier one can answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from normlab.runs.config import resolve, run_id
from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.setup import Arm, FollowUp, Setup, Sweep, load_config, rate_of


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
        """arm -> seed -> run at the arm's own best rate."""
        self.follows: dict[str, dict[int, Record]] = {}
        self.best: dict[str, float] = {}
        """arm -> exponent of its rate: the best, or the median largest that trains."""
        self.step_seconds: Mapping[str, float] = {}
        """arm -> seconds of a step of a single run, where one machine measured them."""
        self.timed_on = ""
        """The machine that measured them."""
        self.benchmarks: Mapping[str, Any] = {}
        """Records of the benchmarks that the study reads, by name."""
        for group in _groups(setup.arms):
            self._plan_group(group)
        for follow_up in setup.follows:
            self._plan_follow_up(follow_up)

    @property
    def times_steps(self) -> bool:
        return self.setup.protocol.times_steps

    @property
    def is_complete(self) -> bool:
        return all(run in self.records for run in self.wanted)

    def _ask(
        self, arm: Arm, stage: str, exponent: float, seeds: Sequence[int], settings: Config
    ) -> dict[int, Record]:
        found: dict[int, Record] = {}
        for seed in seeds:
            changed = arm.settings | settings | {"optim.lr": rate_of(exponent)}
            changed |= {"seed": 0, self.setup.seed_setting: seed}
            name, config = self.cache.look_up(self.setup, changed)
            self.wanted[name] = RequiredRun(name, config, self.setup.name, arm.name, stage)
            if name in self.records:
                found[seed] = self.records[name]
        return found

    def _plan_group(self, group: list[Arm]) -> None:
        """Plan arms that share a grid: it grows, then each arm takes its rate and reports."""
        protocol, target = self.setup.protocol, self.setup.target
        stride = 1 if group[0].is_primary else protocol.screening_stride
        exponents, spacing = list(protocol.exponents[::stride]), stride * protocol.spacing
        is_known = self._ask_grid(group, exponents)
        for _ in range(protocol.extensions):
            if not is_known:
                return
            sides = [protocol.grows(self.grids[arm.name], target) for arm in group]
            below, above = (any(side) for side in zip(*sides, strict=True))
            if not below and not above:
                break
            exponents = [
                *([round(exponents[0] - spacing, 4)] if below else []),
                *exponents,
                *([round(exponents[-1] + spacing, 4)] if above else []),
            ]
            is_known = self._ask_grid(group, exponents)
        for arm in group if is_known else []:
            self.best[arm.name] = best = protocol.chosen(self.grids[arm.name], target)
            if not isinstance(protocol, Sweep):
                seeds, settings = self.setup.seeds_of(arm), self.setup.report_settings
                self.reports[arm.name] = self._ask(arm, "report", best, seeds, settings)

    def _ask_grid(self, group: list[Arm], exponents: list[float]) -> bool:
        """Ask for the runs of a grid; return whether all of them are there."""
        protocol, is_known = self.setup.protocol, True
        settings = {"train.stop_at": self.setup.target} if protocol.times_steps else {}
        for arm in group:
            seeds = protocol.seeds or self.setup.seeds_of(arm)
            grid = {e: self._ask(arm, protocol.stage, e, seeds, settings) for e in exponents}
            self.grids[arm.name] = grid
            if isinstance(protocol, Sweep):
                self.reports[arm.name] = dict(protocol.runs(grid))
            is_known &= all(len(runs) == len(seeds) for runs in grid.values())
        return is_known

    def _plan_follow_up(self, follow_up: FollowUp) -> None:
        arm, best = self.setup.arm(follow_up.arm), self.best.get(follow_up.rate_of, math.inf)
        if arm is None or not math.isfinite(best):
            return
        stage, seeds = f"follow: {follow_up.name}", follow_up.seeds_of(self.setup.seeds_of(arm))
        exponent = round(best + math.log10(follow_up.factor), 4)
        runs = self._ask(arm, stage, exponent, seeds, follow_up.settings)
        self.follows[follow_up.name] = runs

    def largest_rates(self, arm: str) -> dict[int, float]:
        """Return seed -> exponent of the largest rate that trains, of a sweep; {} while the runs of
        the grid are not all there."""
        protocol = self.setup.protocol
        if arm not in self.best or not isinstance(protocol, Sweep):
            return {}
        return protocol.largest_rates(self.grids[arm], self.setup.target)

    def runs_of(self, name: str) -> Mapping[int, Record]:
        """Return the runs that represent an arm or a follow-up."""
        return self.follows.get(name) or self.reports.get(name, {})

    def tried(self, arm: str) -> list[Record]:
        """Return the runs of an arm whose failures are counted."""
        if isinstance(self.setup.protocol, Sweep):
            return [run for runs in self.grids[arm].values() for run in runs.values()]
        return list(self.reports.get(arm, {}).values())

    def paired(self, *names: str) -> Iterator[tuple[int, tuple[Record, ...]]]:
        """Yield (seed, a run of each of these arms or follow-ups) where all of them have one."""
        runs = [self.runs_of(name) for name in names]
        for seed in sorted(set.intersection(*map(set, runs)) if runs else ()):
            yield seed, tuple(found[seed] for found in runs)


def _groups(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Return the arms that share a grid: primary ones by their group, each other one alone."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.is_primary:
            groups.setdefault(arm.group, []).append(arm)
    return [*groups.values(), *([arm] for arm in arms if not arm.is_primary)]
