"""What the two suites share: the machine in words, Markdown tables, a section of a page."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax


def core_numbers() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores() -> int:
    """Return how many they are."""
    return len(core_numbers())


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(s.partition(":")[2].strip() for s in lines if s.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(packages: Sequence[str] = ()) -> str:
    """Return device, cores, versions and date in one sentence."""
    kind = jax.devices()[0].device_kind
    device = "" if kind == "cpu" else f"{kind}; "
    names = dict.fromkeys(["jax", *packages])
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    python = f"Python {platform.python_version()}"
    today = datetime.date.today().isoformat()
    return f"{device}{cores()} cores of {processor()}, {', '.join([python, *versions])}, {today}."


class Table(NamedTuple):
    """A titled table of text; `note` says how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join(part for part in (f"## {self.title}", self.note, text) if part)

    def terminal(self) -> str:
        """Return it with columns two blanks apart, without the note and Markdown's bold."""
        lines = [[cell.replace("**", "") for cell in line] for line in [self.columns, *self.rows]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, "", *text, ""])


def write_page(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.strip() + "\n", encoding="utf-8")


def write_section(path: Path, name: str, text: str, script: str = "bench") -> None:
    """Replace what stands between the markers of `name`, or append it; nothing else changes.

    Raises ValueError where only one of the two markers is there.
    """
    begin, end = (
        f"<!-- {word} of {name}, written by scripts/{script}.py -->" for word in ("begin", "end")
    )
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if (begin in page) != (end in page):
        raise ValueError(f"{path} has one of the two markers of {name!r}; remove it or add both")
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in page:
        before, _, rest = page.partition(begin)
        page = before + section + rest.partition(end)[2]
    else:
        page = f"{page.rstrip()}\n\n{section}\n".lstrip()
    path.write_text(page, encoding="utf-8")
