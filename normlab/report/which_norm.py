"""Which norm: the matrix of all schemes and purposes, and what to take for each purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from normlab.norms.table import NORMS
from normlab.report.model import StudyReport
from normlab.report.tables import Cell, Measured, Table
from normlab.studies.planning import SetupRuns
from normlab.studies.ranking import Purpose, Standing, ranked, standings
from normlab.studies.units import NOTHING, with_interval

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

    @property
    def title(self) -> str:
        return f"{self.purpose.name}{self.target}, {self.setup}"

    @property
    def equals(self) -> list[str]:
        return [s.name for s in self.standings if s.is_equal and not self.lacking]

    @property
    def cheapest(self) -> str:
        """The equal of the best with the fewest passes over its input; the better one of two."""
        return min(self.equals, key=passes, default="")

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
            return f"Take {in_words(self.cheapest)}: {sure}."
        equals = ", ".join(map(in_words, self.equals))
        return f"Take one of {equals}: {sure}; {in_words(self.cheapest)} is the cheapest."


def in_words(scheme: str) -> str:
    """Return the name of a scheme in a sentence, where `none` would be misread."""
    return "no norm" if scheme == "none" else scheme


def passes(scheme: str) -> int:
    """Return how often a scheme reads its input in training; 0 where it only acts on kernels."""
    row = NORMS.get(scheme)
    return len(row.cost.split(";")) if row and row.cost else 0


def columns_of(reports: Sequence[StudyReport]) -> list[Column]:
    """Return a column for each purpose and setup that has runs."""
    found = []
    for report in reports:
        for ranking in report.study.rankings:
            runs = report.evidences.get(ranking.setup)
            if runs is None:
                continue
            purpose, delta = ranking.purpose, ranking.delta(report.profile)
            compared = standings(purpose.costs(runs), purpose, delta, purpose.redraws(runs))
            if compared:
                target = f" {100 * runs.setup.target:g} %" if runs.times_steps else ""
                batch = next(iter(runs.wanted.values())).config["data.batch"]
                setup = f"{runs.setup.title}, batch {batch}"
                delta_text, lacking = purpose.unit.sesoi_text(delta), lacking_runs(runs)
                found.append(Column(purpose, setup, target, delta_text, compared, lacking))
    return found


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
        f"column together. Brackets: 95 % t intervals of the mean. n counts seeds. {NOTHING}: "
        f"cannot run there, or fails too often at every rate. Delta: "
        + "; ".join(f"{c.title}: {c.delta}" for c in columns)
        + "."
    )
    return Table(
        "Which norm",
        ["norm", *(c.title for c in columns)],
        [[name, *filled[name]] for name in ordered],
        note,
    )


def names(column: Column) -> list[str]:
    return [standing.name for standing in column.standings]


def cell_of(column: Column, standing: Standing) -> Measured:
    purpose, value = column.purpose, standing.value
    texts = [purpose.text(v) for v in (value.centre, *sorted(value.interval))]
    numbers = {"": value.centre, "low": value.low, "high": value.high, "behind": standing.behind}
    numbers |= {"n": standing.n}
    mark = f" {EQUAL}" if standing.name in column.equals else ""
    return Measured(f"{with_interval(*texts)}, n = {standing.n}{mark}", numbers)
