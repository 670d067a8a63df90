"""The verdicts in a terminal or a log: at most 80 columns, nothing cut off."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from normlab.report.claims import Result, statements
from normlab.report.formatting import notes_of
from normlab.report.model import StudyReport
from normlab.report.panel import rows_of
from normlab.report.which_norm import columns_of

WIDTH = 80
"""Columns of a line."""
COLOURS = {"supported": 32, "refuted": 31, "open": 33}
"""Word -> its colour on a terminal, as a number of ECMA-48."""


def headline(
    reports: Sequence[StudyReport], page: Path | None = None, is_coloured: bool = False
) -> str:
    """Return the verdicts under their sentences, and where the page is."""
    lines = verdict_lines(reports, is_coloured)
    for column in columns_of(reports):
        lines += _wrapped(f"{column.title}: {column.advice}")
    for row in rows_of(reports):
        lines += _wrapped(row.summary)
    return "\n".join([*lines, f"page: {page}"] if page else lines)


def verdict_lines(reports: Sequence[StudyReport], is_coloured: bool = False) -> list[str]:
    """Return the verdicts under their sentences."""
    lines: list[str] = []
    claims = statements(reports)
    width = max((len(r.contrast.id) for claim in claims for r in claim.results), default=0)
    for claim in claims:
        lines += _wrapped(f"{claim.sentence}{': depends' if claim.word == 'depends' else ''}")
        for result in claim.results:
            lines += _result_lines(result, width, is_coloured)
    return lines


def _result_lines(result: Result, width: int, is_coloured: bool) -> list[str]:
    """Return a verdict with network and data, and below it what was found."""
    contrast, word = result.contrast, result.verdict.word
    words = ", ".join([word, *notes_of(result.verdict)])
    indent = " " * (width + 4)
    head = f"  {contrast.id:<{width}}  {words}, n = {result.n}: {contrast.scope}"
    first, *more = _wrapped(head, indent)
    if is_coloured and word in COLOURS:
        first = first.replace(word, f"\033[{COLOURS[word]}m{word}\033[0m", 1)
    reason = "; ".join(result.verdict.notes)
    found = f"{contrast.words}: {result.effect}" if result.is_measured else reason
    return [first, *more, *(_wrapped(f"{indent}{found}", indent) if found else [])]


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    """Return the lines of a text; all but the first begin with `indent`."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
