"""The verdicts in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from normlab.report.claims import Result, statements
from normlab.report.formatting import notes_of
from normlab.report.model import StudyReport
from normlab.report.panel import rows_of
from normlab.report.which_norm import columns_of

WIDTH = 100
"""Columns of the terminal."""


def headline(reports: Sequence[StudyReport], page: Path | None = None) -> str:
    """Return the verdicts under their sentences, in at most 100 columns, and where the page is."""
    lines = verdict_lines(reports)
    lines += [_clip(f"{column.title}: {column.advice}") for column in columns_of(reports)]
    lines += [_clip(row.summary) for row in rows_of(reports)]
    return "\n".join([*lines, f"page: {page}"] if page else lines)


def verdict_lines(reports: Sequence[StudyReport]) -> list[str]:
    """Return the verdicts under their sentences."""
    claims = statements(reports)
    cells = [_cells(result) for claim in claims for result in claim.results]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for claim in claims:
        lines.append(_clip(f"{claim.sentence}{': depends' if claim.word == 'depends' else ''}"))
        for result in claim.results:
            padded = [t.ljust(w) for t, w in zip(_cells(result), widths, strict=True)]
            lines.append(_clip("  ".join(["", *padded, result.contrast.scope])))
    return lines


def _clip(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _cells(result: Result) -> list[str]:
    verdict = result.verdict
    word = ", ".join([verdict.word, *notes_of(verdict)])
    return [result.contrast.id, word, result.effect, f"n = {result.n}"]
