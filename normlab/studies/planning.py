"""The runs of a setup, stage by stage: those that are there, and those that are still wanted.

Planning and reading are one thing. A stage asks for its runs, takes the finished ones and leaves
the others on the list. A later stage asks once the earlier one can answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any

from normlab.runs.config import DRAWN, redrawn, resolve, run_id
from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.protocols import Edges, Tuning, rate_of
from normlab.studies.rates import REACH, STEP, bisected, snapped, window
from normlab.studies.reported import ReportedRates
from normlab.studies.setup import Arm, FollowUp, Setup, load_config

MOST_MOVES = 8
"""How often a window moves at most: an arm that fails at every rate has no lowest point."""
SCREENING_SEEDS = 3
"""Tuning seeds of an arm that decides nothing."""


@dataclass(frozen=True)
class RequiredRun:
    """A run that a study needs: who asked, and what it is."""

    run_id: str
    config: Config
    setup: str
    arm: str
    stage: str

    @property
    def place(self) -> tuple[str, str, str]:
        return self.setup, self.arm, self.stage


@dataclass
class ConfigCache:
    """Resolved configurations, kept because every look at a study asks for all of them again."""

    data_dir: str | None = None
    needs_data: bool = True
    """False for reports: stored runs can be read where their data set is not."""
    resolved: dict[tuple, tuple[str, Config]] = field(default_factory=dict)

    def look_up(self, setup: Setup, settings: Config) -> tuple[str, Config]:
        key = (setup.base, tuple(setup.settings.items()), tuple(settings.items()))
        if key not in self.resolved:
            rest = {name: value for name, value in settings.items() if name not in DRAWN}
            if rest != settings:
                config = redrawn(self.look_up(setup, rest)[1], settings)
            else:
                given = load_config(setup.base) | setup.settings | settings
                config = resolve(given, self.data_dir, self.needs_data).config
            self.resolved[key] = run_id(config), config
        return self.resolved[key]


class SetupRuns:
    """All runs of one setup, as far as they are known."""

    def __init__(
        self, setup: Setup, records: Mapping[str, Record], cache: ConfigCache | None = None
    ):
        self.setup, self.records = setup, records
        self.cache = cache or ConfigCache()
        self.wanted: dict[str, RequiredRun] = {}
        self.users: dict[str, list[str]] = {}
        """Run -> arm and stage of everyone who asked for it."""
        self.deciding: set[str] = set()
        """The runs on which contrasts depend, among the wanted ones."""
        self.grids: dict[str, dict[float, dict[int, Record]]] = {}
        """arm -> exponent -> seed -> run, of the tuning stage or below the edges."""
        self.also: dict[str, Config] = {}
        """arm -> what it takes of the further settings that are tuned."""
        self.reported: dict[str, ReportedRates] = {}
        """arm or follow-up -> its runs with the reporting seeds, where all of them are there."""
        self.reports: dict[str, dict[int, Record]] = {}
        """arm -> seed -> run at the arm's own rate."""
        self.follows: dict[str, dict[int, Record]] = {}
        self.best: dict[str, float] = {}
        """arm -> exponent of its rate: the chosen one, or the median of the edges."""
        self.edges: dict[str, dict[int, float]] = {}
        """arm -> seed -> exponent of the highest rate that trains; -inf where none does."""
        self.step_seconds: Mapping[str, float] = {}
        """arm -> seconds of a step of a single run, where one machine measured them."""
        self.step_bytes: Mapping[str, float] = {}
        """arm -> bytes that the backward pass of a step needs, where they were counted."""
        self.timed_on = ""
        """The machine that measured the seconds."""
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
        return all(name in self.records for name in self.wanted)

    @property
    def can_decide(self) -> bool:
        """Whether all runs are there that contrasts depend on."""
        return all(run in self.records for run in self.deciding)

    def ask(
        self, arm: Arm, stage: str, exponent: float, seeds: Sequence[int], settings: Config
    ) -> dict[int, Record]:
        """Ask for the runs of an arm at a rate; return those that are there, by seed."""
        found: dict[int, Record] = {}
        decides = self.setup.decides(arm, stage)
        for seed in seeds:
            changed = arm.settings | self.also.get(arm.name, {}) | settings
            changed |= {"optim.lr": rate_of(exponent)} | self.setup.seed_settings(seed)
            name, config = self.cache.look_up(self.setup, changed)
            self.wanted[name] = RequiredRun(name, config, self.setup.name, arm.name, stage)
            users = self.users.setdefault(name, [])
            if f"{arm.name}/{stage}" not in users:
                users.append(f"{arm.name}/{stage}")
            if decides:
                self.deciding.add(name)
            if name in self.records:
                found[seed] = self.records[name]
        return found

    def _plan_group(self, group: list[Arm]) -> None:
        """Plan arms that share a grid: it grows, then each arm takes its rate and reports."""
        protocol, target = self.setup.protocol, self.setup.target
        exponents, spacing = list(protocol.exponents), protocol.spacing
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
            if isinstance(protocol, Edges):
                self._bisect(arm, protocol)
            else:
                self._report(arm, protocol)

    def _ask_grid(self, group: list[Arm], exponents: list[float]) -> bool:
        """Ask for the runs of a grid; return whether all of them are there."""
        protocol, is_known = self.setup.protocol, True
        stop_at = self.setup.stop_at or self.setup.target
        settings: Config = {"train.stop_at": stop_at} if protocol.times_steps else {}
        settings |= {"host.keep_params": False}  # of runs that report, these are asked for anew
        for arm in group:
            tuning = protocol.seeds if arm.is_primary else protocol.seeds[:SCREENING_SEEDS]
            seeds = tuning or self.setup.seeds_of(arm)
            tried = protocol.combinations
            grids = [
                {e: self.ask(arm, protocol.stage, e, seeds, settings | more) for e in exponents}
                for more in tried
            ]
            is_there = all(len(runs) == len(seeds) for grid in grids for runs in grid.values())
            at = 0
            if len(tried) > 1 and is_there and isinstance(protocol, Tuning):
                standings = [protocol.standing(grid, self.setup.target) for grid in grids]
                at = standings.index(min(standings))
            self.grids[arm.name], self.also[arm.name] = grids[at], tried[at]
            is_known &= is_there
        return is_known

    def _report(self, arm: Arm, protocol: Tuning) -> None:
        """Ask for an arm's runs with the reporting seeds, at its rate or at several."""
        grid, target, name = self.grids[arm.name], self.setup.target, arm.name
        best = protocol.chosen(grid, target)
        if arm.is_primary and protocol.reported == "window":
            best, found = self._move_window(arm, protocol, snapped(best))
        else:
            rates = [best]
            if arm.is_primary and protocol.reported == "two":
                best, *_ = rates = protocol.two_best(grid, target)
            found = self._ask_reports(arm, rates, protocol)
        self.best[name], self.reported[name] = best, found
        self.reports[name] = dict(found.runs[best])

    def _move_window(
        self, arm: Arm, protocol: Tuning, middle: float
    ) -> tuple[float, ReportedRates]:
        """Ask for the runs of a window, which moves until its lowest point is not on its edge.

        Return the lowest point and the runs."""
        tried: list[float] = []
        while True:
            found = self._ask_reports(arm, window(middle), protocol, is_window=True)
            if len(found.seeds) < self.setup.seeds:  # the rest is not there yet
                return middle, found
            tried.append(middle)
            lowest = found.vertex()
            is_inside = abs(lowest - middle) < (REACH - 0.5) * STEP
            if is_inside or lowest in tried or len(tried) > MOST_MOVES:
                return lowest, found
            middle = lowest

    def _ask_reports(
        self, arm: Arm, rates: Sequence[float], protocol: Tuning, is_window: bool = False
    ) -> ReportedRates:
        seeds, settings = self.setup.seeds_of(arm), self.setup.report_settings
        runs = {e: self.ask(arm, "report", e, seeds, settings) for e in rates}
        return ReportedRates(runs, protocol.cap, is_window)

    def _bisect(self, arm: Arm, protocol: Edges) -> None:
        """Find the edge of every reporting seed; screening arms stay on the grid."""
        grid, edges = self.grids[arm.name], {}
        steps = protocol.bisections if arm.is_primary else 0
        for seed in self.setup.seeds_of(arm):

            def passes(exponent: float, seed: int = seed) -> bool | None:
                run = self.ask(arm, "bisect", exponent, [seed], {}).get(seed)
                return None if run is None else protocol.passes(grid, seed, run)

            low = protocol.highest(grid, seed)
            above = [e for e in grid if e > low]
            if math.isfinite(low) and above:
                low, is_known = bisected(low, min(above), steps, passes)
                if not is_known:
                    continue
            edges[seed] = low
        self.reports[arm.name] = dict(grid[protocol.best(grid, self.setup.target)])
        if len(edges) == len(self.setup.seeds_of(arm)):
            self.edges[arm.name] = edges
            self.best[arm.name] = median_low(edges.values())

    def _plan_follow_up(self, follow_up: FollowUp) -> None:
        arm, of = self.setup.arm(follow_up.arm), follow_up.rate_of
        best = self.best.get(of, math.inf)
        if arm is None or not math.isfinite(best) or arm.name not in self.best:
            return
        stage, seeds = follow_up.stage, follow_up.seeds_of(self.setup.seeds_of(arm))
        chooser, shift = self.reported.get(of), math.log10(follow_up.factor)
        runs = {
            e: self.ask(arm, stage, round(e + shift, 4), seeds, follow_up.settings)
            for e in (chooser.runs if chooser else [best])
        }
        self.follows[follow_up.name] = runs[best]
        if chooser and not follow_up.seeds:
            self.reported[follow_up.name] = replace(chooser, runs=runs, chooser=chooser)

    def runs_of(self, name: str) -> Mapping[int, Record]:
        """Return the runs that represent an arm or a follow-up: those at its one rate."""
        return self.follows.get(name) or self.reports.get(name, {})

    def at_the_end(self, arm: str) -> set[int]:
        """Return the seeds that still train at the highest rate of the grid: their edge is there or
        higher."""
        return {s for s, edge in self.edges.get(arm, {}).items() if edge == max(self.grids[arm])}

    def tried(self, arm: str) -> list[Record]:
        """Return the runs of an arm whose failures are counted."""
        if isinstance(self.setup.protocol, Edges):
            rates = self.grids[arm].values()
        else:
            found = self.reported.get(arm)
            rates = [found.runs[e] for e in found.chosen()] if found and found.seeds else []
        return [run for runs in rates for run in runs.values()]

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
