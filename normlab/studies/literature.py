"""What is claimed, by whom, and what the literature measured, from `literature.toml`."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".toml")
EXPECTATIONS = ("supported", "refuted", "")


@dataclass(frozen=True)
class Entry:
    """One row of the rule book, as others claim and measured it."""

    id: str
    sentence: str
    who: str
    measured: str
    differs: str = ""
    """How the protocol here differs from theirs."""
    expects: str = ""
    """The verdict that the literature lets one expect, empty where it disagrees or is silent."""
    apart: bool = False
    """Whether the row has no part in its claim's joint word."""
    absent: str = ""
    """Why there can be no verdict yet."""

    @property
    def claim(self) -> str:
        return self.id.rstrip("abcdefghijklmnopqrstuvwxyz")

    def disagrees(self, word: str) -> bool:
        """Tell whether a verdict goes against what the literature lets one expect."""
        return bool(self.expects) and word in ("supported", "refuted") and word != self.expects


@functools.cache
def _content() -> tuple[dict[str, str], dict[str, Entry]]:
    told = tomllib.loads(FILE.read_text(encoding="utf-8"))
    entries = [Entry(**{n: _line(v) for n, v in row.items()}) for row in told["rows"]]
    for entry in entries:
        if entry.expects not in EXPECTATIONS:
            raise ValueError(f"{FILE.name}: {entry.id} expects {entry.expects!r}, no verdict")
    return told["claims"], {entry.id: entry for entry in entries}


def _line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def claims() -> dict[str, str]:
    """Return claim -> its sentence, in the order of their numbers."""
    return _content()[0]


def entries() -> dict[str, Entry]:
    """Return row -> its entry, in the order in which they are printed."""
    return _content()[1]


def entry_of(row_id: str) -> Entry | None:
    """Return the entry of a row of a study, whose id may go on after a hyphen; None without one.

    >>> entry_of("C10a-layer").id, entry_of("C99")
    ('C10a', None)
    """
    return entries().get(row_id.partition("-")[0])
