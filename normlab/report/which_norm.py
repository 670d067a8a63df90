"""Which norm: the matrix of all schemes and purposes, and what to take for each purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from normlab.report.model import StudyReport
from normlab.report.tables import Cell, Measured, Table
from normlab.runs.record import Record
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Edges
from normlab.studies.ranking import Purpose, Ranking, Standing, ranked
from normlab.studies.units import NOTHING, decimal, with_interval

EQUAL = "●"
"""Marks a scheme that is an equal of the best."""


@dataclass(frozen=True)
class Column:
    """The schemes of one setup for one purpose, the best first."""

    purpose: Purpose
    setup: str
    target: str
    delta: str
    standings: Sequence[Standing]
    lacking: Sequence[str] = ()
    """Schemes whose runs are not all done. Without them nothing can be advised."""
    step_times: Mapping[str, float] = field(default_factory=dict)
    """Scheme -> what a step of a single run takes in this network, in steps without a norm."""
    timed_in: str = ""
    """The setup in which they were measured."""
    step_bytes: Mapping[str, float] = field(default_factory=dict)
    """Scheme -> what the backward pass of a step keeps in this network."""
    counted_in: str = ""
    """The setup in which that was counted."""
    tried: Counter[str] = field(default_factory=Counter)
    """Scheme -> runs at the rates that count."""
    failed: Counter[str] = field(default_factory=Counter)
    """Scheme -> how many of them failed."""

    @property
    def title(self) -> str:
        return f"{self.purpose.name}{self.target}, {self.setup}"

    @property
    def equals(self) -> list[str]:
        return [s.name for s in self.standings if s.is_equal and not self.lacking]

    @property
    def fastest(self) -> str:
        """The equal of the best with the shortest step; empty where steps were not timed."""
        timed = [name for name in self.equals if name in self.step_times]
        return min(timed, key=self.step_times.__getitem__, default="")

    @property
    def advice(self) -> str:
        """What to take and how sure that is, as a sentence."""
        if self.lacking:
            of = len({*names(self), *self.lacking})
            return f"Not decided: runs of {len(self.lacking)} of {of} schemes are missing."
        if not self.equals:
            best = in_words(self.standings[0].name)
            return f"{best} is the best, but not surely within {self.delta} of all others."
        sure = f"no other is better by {self.delta}, with 95 % confidence"
        if len(self.equals) == 1:
            return f"Take {in_words(self.equals[0])}: {sure}."
        equals = ", ".join(map(in_words, self.equals))
        fastest = f"; {in_words(self.fastest)} has the shortest step" if self.fastest else ""
        return f"Take one of {equals}: {sure}{fastest}."


def in_words(scheme: str) -> str:
    """Return the name of a scheme in a sentence, where `none` would be misread."""
    return "no norm" if scheme == "none" else scheme


def columns_of(reports: Sequence[StudyReport]) -> list[Column]:
    """Return a column for each purpose and setup that has runs. Steps are measured in one setup of
    a network; its others have those costs too."""
    columns, measured = [], {}
    for report in reports:
        for ranking, runs, schemes in report.ranked:
            if schemes:
                column = column_of(ranking, runs, schemes, report.profile)
                columns.append((runs.setup.title, column))
                found = measured.setdefault(runs.setup.title, {})
                if times := step_times(runs):
                    found |= {"step_times": times, "timed_in": column.setup}
                if runs.step_bytes:
                    found |= {"step_bytes": runs.step_bytes, "counted_in": column.setup}
    return [replace(column, **measured[network]) for network, column in columns]


def column_of(ranking: Ranking, e: SetupRuns, schemes: Sequence[Standing], profile: str) -> Column:
    batch = next(iter(e.wanted.values())).config["data.batch"]
    tried = tried_runs(e)
    return Column(
        ranking.purpose,
        f"{e.setup.title}, batch {batch}",
        f" {100 * e.setup.target:g} %" if e.times_steps else "",
        ranking.purpose.unit.sesoi_text(ranking.delta(profile)),
        schemes,
        lacking_runs(e),
        tried=Counter({name: len(runs) for name, runs in tried.items()}),
        failed=Counter({name: sum(map(is_failed, runs)) for name, runs in tried.items()}),
    )


def step_times(e: SetupRuns) -> dict[str, float]:
    """Return scheme -> what a step of a single run takes, in steps without a norm; empty where they
    were not timed."""
    unit = e.step_seconds.get("none")
    return {name: seconds / unit for name, seconds in e.step_seconds.items()} if unit else {}


def tried_runs(e: SetupRuns) -> dict[str, list[Record]]:
    """Return the runs of each scheme at the rates that count; none where the highest rate is
    searched, because runs are meant to fail there."""
    return {} if isinstance(e.setup.protocol, Edges) else {n: e.tried(n) for n in ranked(e)}


def lacking_runs(e: SetupRuns) -> list[str]:
    """Return the schemes whose runs are not all done."""
    arms = {run.arm for name, run in e.wanted.items() if name not in e.records}
    return [name for name in ranked(e) if name in arms]


def matrix(columns: Sequence[Column]) -> Table:
    """Return a line for each scheme: those first that are most often an equal of the best."""
    known = [name for c in columns for name in (*names(c), *c.lacking)]
    filled: dict[str, list[Cell]] = {name: [NOTHING] * len(columns) for name in known}
    for i, column in enumerate(columns):
        for name in column.lacking:
            filled[name][i] = "not run"
        for standing in column.standings:
            filled[standing.name][i] = cell_of(column, standing)
    times = {name: sum(name in c.equals for c in columns) for name in filled}
    ordered = sorted(filled, key=lambda name: -times[name])
    note = (
        f"{EQUAL}: less than delta behind the best, with 95 % confidence for all schemes of a "
        f"column together. A scheme lacks it in spite of a better mean where its seeds differ too "
        f"much for that. Values are means over the seeds, geometric ones of steps and rates, with "
        f"95 % t intervals. Other tables have medians of steps and rates. n counts seeds. "
        f"{NOTHING}: cannot run there, or fails too often at every rate. Delta: "
        + "; ".join(f"{c.title}: {c.delta}" for c in columns)
        + ". Step times: of a single run, without evaluation. Memory: what the backward pass of a "
        "step needs from the forward pass, without parameters and batch. It is counted before "
        "compilation, which may keep more or less. Failed: of the runs at the rates that count, "
        "where no highest rate is searched."
    )
    costs = cost_cells(columns)
    return Table(
        "Which norm",
        ["norm", *(c.title for c in columns), *costs],
        [
            [name, *filled[name], *(cells.get(name, NOTHING) for cells in costs.values())]
            for name in ordered
        ],
        note,
    )


def cost_cells(columns: Sequence[Column]) -> dict[str, dict[str, Cell]]:
    """Return title -> scheme -> cell, of what schemes cost: time and memory of a step, and failed
    runs."""
    found: dict[str, dict[str, Cell]] = {}
    for column in columns:
        if column.step_times:
            found[f"step time, none = 1, {column.timed_in}"] = {
                name: Measured(decimal(value, 2), {"": value})
                for name, value in column.step_times.items()
            }
    for column in columns:
        if unit := column.step_bytes.get("none"):
            found[f"memory, none = 1, {column.counted_in}"] = {
                name: Measured(decimal(value / unit, 2), {"": value / unit, "bytes": value})
                for name, value in column.step_bytes.items()
            }
    tried, failed = (sum((getattr(c, n) for c in columns), Counter()) for n in ("tried", "failed"))
    found["failed runs"] = {
        name: Measured(f"{failed[name]} of {count}", {"": failed[name], "of": count})
        for name, count in tried.items()
    }
    return found


def names(column: Column) -> list[str]:
    return [standing.name for standing in column.standings]


def cell_of(column: Column, standing: Standing) -> Measured:
    purpose, value = column.purpose, standing.value
    texts = [purpose.text(v) for v in (value.centre, *sorted(value.interval))]
    numbers = {"": value.centre, "low": value.low, "high": value.high, "behind": standing.behind}
    numbers |= {"n": standing.n}
    mark = f" {EQUAL}" if standing.name in column.equals else ""
    return Measured(f"{with_interval(*texts)}, n = {standing.n}{mark}", numbers)
