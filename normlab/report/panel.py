"""The panel: contrasts of other studies in all cells, and how many cells keep the word of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normlab.report.claims import Result
from normlab.report.formatting import with_symbol
from normlab.report.model import StudyReport
from normlab.report.tables import Cell, Measured, Table
from normlab.studies.panel import Line, kept
from normlab.studies.units import NOTHING

NOTE = (
    "Exploratory: no word here is a verdict, and none is counted elsewhere. The word to be kept is "
    "that of the contrast's own cell in this panel, marked (own): the cell with the settings of "
    "its study. That cell counts as one. Open is a word too. What follows the word, such as small, "
    "does not matter. "
    "Brackets: 99 % intervals. n counts seeds, all at one rate. Every cell has its own best rates."
)


@dataclass(frozen=True)
class Row:
    """One contrast in all cells."""

    report: StudyReport
    line: Line
    results: Mapping[str, Result | None]
    """Cell -> what it says; None while runs are missing."""

    @property
    def delta(self) -> float:
        return self.line.claim.delta(self.report.profile)

    @property
    def kept(self) -> Measured:
        """In how many of the cells that have run the word is that of the own cell."""
        found = kept({c: r.verdict if r else None for c, r in self.results.items()}, self.line.own)
        if found is None:
            return Measured(NOTHING, {})
        count, of = found
        left = len(self.results) - of
        text = f"{count} of {of}" + (f", {left} not run" if left else "")
        return Measured(text, {"": count, "of": of})

    @property
    def summary(self) -> str:
        """How often the word is kept, in one line."""
        own = self.results[self.line.own]
        word = own.verdict.word if own else "not run"
        return f"{self.line.claim.id}, {self.line.scope}: {word}, kept in {self.kept.text} cells"

    def cell(self, name: str) -> Cell:
        result, mark = self.results[name], " (own)" if name == self.line.own else ""
        if result is None:
            return Measured(with_symbol("not run") + mark, {})
        verdict, found = result.verdict, result.verdict.estimate
        effect = [result.effect] if result.is_measured else []
        numbers = {"": found.centre, "low": found.low, "high": found.high, "n": verdict.n}
        return Measured("; ".join([word_of(result), *effect, f"n = {verdict.n}"]) + mark, numbers)


def word_of(result: Result) -> str:
    """Return the word of a cell with its symbol, and what it is more exactly."""
    verdict = result.verdict
    return ", ".join(filter(None, [with_symbol(verdict.word), verdict.qualifier]))


def rows_of(reports: Sequence[StudyReport]) -> list[Row]:
    """Return a row for each contrast of a panel."""
    found = []
    for report in reports:
        for line in report.study.panel.get(report.profile, ()):
            verdicts = line.verdicts(report.evidences, report.profile)
            results = {c: Result(report, v) if v else None for c, v in verdicts.items()}
            found.append(Row(report, line, results))
    return found


def panel(rows: Sequence[Row]) -> Table:
    """Return a line for each contrast and a column for each cell."""
    cells = [*dict.fromkeys(name for row in rows for name in row.results)]
    lines = [
        [
            f"{row.line.claim.id}. {row.line.claim.sentence}",
            row.line.scope,
            Measured(row.line.claim.effect.unit.sesoi_text(row.delta), {"": row.delta}),
            *(row.cell(name) for name in cells),
            row.kept,
        ]
        for row in rows
    ]
    return Table(
        "Transfer", ["contrast", "net, data", "delta", *cells, "keeps the word"], lines, NOTE
    )
