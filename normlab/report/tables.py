"""Tables: cells once, written as Markdown, CSV and LaTeX, each escaped for its format."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from normlab.report.formatting import (
    delta_text,
    effect_text,
    p_text,
    raw_effect_text,
)
from normlab.studies.decisions import WITHOUT_P, Verdict

Cell = str | int | float | None

PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "–": "--",
    "✓": "",
    "✗": "",
    "○": "",
    "∅": "",
    "…": r"\ldots{}",
}


@dataclass(frozen=True)
class Table:
    """Columns and rows of text and numbers, with a title and a note on how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def texts(self) -> list[list[str]]:
        """Return every cell as text, unescaped."""
        return [[cell_text(c) for c in row] for row in self.rows]

    def to_markdown(self) -> str:
        head = [[*self.columns], ["---"] * len(self.columns)]
        lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in [*head, *self.texts()]]
        note = ["", _markdown(self.note)] if self.note else []
        return "\n".join([f"**{_markdown(self.title)}**", "", *lines, *note]) + "\n"

    def to_csv(self) -> str:
        return csv_text(self.columns, self.rows)

    def to_latex(self) -> str:
        """Return a booktabs table, ready for \\input."""
        rows = [" & ".join(map(_latex, row)) + r" \\" for row in self.texts()]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}",
            r"\toprule",
            " & ".join(map(_latex, self.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip\footnotesize {_latex(self.note)}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def cell_text(cell: Cell) -> str:
    return "" if cell is None else str(cell)


def _markdown(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"[\\`*|$]", r"\\\g<0>", text).replace("](", r"]\(")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex(text: str) -> str:
    text = "".join(LATEX.get(c, c) for c in " ".join(text.split())).strip()
    return f"{{}}{text}" if text[:1] in ("[", "*") else text  # the \\ of the line before takes them


def csv_cell(cell: Cell) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    text = cell_text(cell).replace("\r", "\n")  # which Python's writer would leave without quotes
    is_formula = text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")
    return f"'{text}" if is_formula and not PLAIN_NUMBER.fullmatch(text) else text


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([*map(csv_cell, row)] for row in [columns, *rows])
    return out.getvalue()


VERDICT_COLUMNS = (
    "row",
    "sentence",
    "net, data",
    "profile",
    "contrast",
    "effect",
    "in the rule's unit",
    "coverage",
    "delta",
    "n",
    "planned n",
    "verdict",
    "p_sup",
    "p_ref",
    "stands over all rows",
)


def verdict_table(verdicts: Sequence[tuple[str, Verdict]]) -> Table:
    """Return one line for each (profile, verdict); p values are Holm's over the study."""
    rows = tuple(_verdict_row(profile, verdict) for profile, verdict in verdicts)
    note = (
        "p_sup: p if the effect were 0 or less (a share: delta or more). p_ref: p if it were delta "
        "or more (a share: delta or less). One-sided, Holm over the study's rows, level 0.025."
    )
    return Table("Verdicts", VERDICT_COLUMNS, rows, note)


def _verdict_row(profile: str, verdict: Verdict) -> tuple[Cell, ...]:
    row = verdict.row
    is_decided = verdict.word in ("supported", "refuted", "inconclusive")
    is_tested = is_decided and row.test not in WITHOUT_P
    stands = {True: "yes", False: "no", None: ""}[verdict.stands_overall]
    return (
        row.id,
        row.sentence,
        row.scope,
        profile,
        row.contrast,
        effect_text(verdict),
        raw_effect_text(verdict),
        f"{100 * verdict.coverage:.0f} %" if verdict.coverage else "",
        delta_text(verdict),
        verdict.n,
        row.n,
        verdict.word,
        p_text(verdict.p_sup) if is_tested else "",
        p_text(verdict.p_ref) if is_tested else "",
        stands,
    )
