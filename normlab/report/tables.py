"""Tables: cells once, written as Markdown, CSV, LaTeX and text, each escaped for its format."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf)(e[+-]?\d+)?", re.IGNORECASE)
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
    "…": r"\ldots{}",
    **dict.fromkeys("✓✗○∅", ""),
}


class Markdown(str):
    """Text that is trusted Markdown: `to_markdown` leaves it as it is."""


@dataclass(frozen=True)
class Measured:
    """A cell that people read as text, and programs as numbers."""

    text: str
    numbers: Mapping[str, float | None]
    """Name -> number; in CSV each is a column, the one without a name that of the cell itself."""


Cell = str | float | None | Measured


@dataclass(frozen=True)
class Table:
    """Columns and rows of text and numbers, with a title and a note on how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def texts(self) -> list[list[str]]:
        """Return every cell as text, unescaped."""
        return [[cell_text(c) for c in row] for row in self.rows]

    def to_markdown(self) -> str:
        """Return the title in bold, the table and the note."""
        title = f"**{markdown_text(self.title)}**" if self.title else ""
        lines = [self.columns, ["---"] * len(self.columns), *self.texts()]
        rows = ["| " + " | ".join(map(markdown_text, line)) + " |" for line in lines]
        parts = (title, "\n".join(rows), markdown_text(self.note))
        return "\n\n".join(filter(None, parts)) + "\n"

    def to_csv(self) -> str:
        """Return text columns as they are, and one column for each number of a measured one."""
        columns, lines = [], [[] for _ in self.rows]
        for i, column in enumerate(self.columns):
            cells = [row[i] for row in self.rows]
            names = dict.fromkeys(n for c in cells if isinstance(c, Measured) for n in c.numbers)
            for name in names or [""]:
                columns.append(f"{column}, {name}" if name else column)
                for line, cell in zip(lines, cells, strict=True):
                    line.append(_number(cell, name))
        return csv_text(columns, lines)

    def to_latex(self) -> str:
        """Return a booktabs table, ready for \\input."""
        rows = [" & ".join(map(latex_text, row)) + r" \\" for row in self.texts()]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(self.title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}",
            r"\toprule",
            " & ".join(map(latex_text, self.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip\footnotesize {latex_text(self.note)}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_text(self) -> str:
        """Return the table for a terminal: columns two blanks apart, no title, no note."""
        lines = [[*self.columns], *self.texts()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)


def cell_text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell  # as it is: Markdown stays Markdown
    return cell.text if isinstance(cell, Measured) else "" if cell is None else str(cell)


def _number(cell: Cell, name: str) -> str | float | None:
    """Return what a measured column of the CSV holds under a name; a text in the first alone."""
    if not isinstance(cell, Measured):
        return None if name else cell
    return cell.numbers.get(name)


def markdown_text(value: object) -> str:
    """Return a value as text that Markdown shows literally.

    >>> markdown_text("a_b <i> | [c](d)")
    'a\\\\_b &lt;i&gt; \\\\| \\\\[c\\\\](d)'
    """
    if isinstance(value, Markdown):
        return value
    text = re.sub(r"[\\`*_\[\]|$~]", r"\\\g<0>", " ".join(str(value).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: str) -> str:
    text = "".join(LATEX.get(c, c) for c in " ".join(text.split())).strip()
    return f"{{}}{text}" if text[:1] in ("[", "*") else text  # the \\ of the line before takes them


def csv_cell(cell: object) -> str:
    """Return a cell that no spreadsheet takes for a formula; NaN is empty."""
    is_empty = cell is None or (isinstance(cell, float) and math.isnan(cell))
    # Python's writer would leave a carriage return without quotes
    text = "" if is_empty else str(cell).replace("\r", "\n")
    is_formula = text[:1] in ("=", "+", "-", "@", "\t", "\n")
    return f"'{text}" if is_formula and not PLAIN_NUMBER.fullmatch(text) else text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([*map(csv_cell, row)] for row in [columns, *rows])
    return out.getvalue()
