"""What is claimed, by whom, and what the literature measured, from `literature.toml`."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normlab.studies.study import load_study, study_names


@dataclass(frozen=True)
class Entry:
    """One row of `literature.toml`: a test, as others claim and measured it."""

    id: str
    who: str
    measured: str
    wording: str = ""
    """The sentence of a row that is about several claims of a study."""
    differs: str = ""
    """How the protocol here differs from theirs."""
    expects: str = ""
    """The verdict that the literature lets one expect, empty where it disagrees or is silent."""
    apart: bool = False
    """Whether the row has no part in its claim's joint word."""

    @property
    def claim(self) -> str:
        return self.id.rstrip("abcdefghijklmnopqrstuvwxyz")

    @property
    def sentence(self) -> str:
        """The sentence that is tested."""
        return self.wording or f"{_study_sentences()[self.id]}."

    def disagrees(self, word: str) -> bool:
        """Return whether a verdict contradicts what the literature lets one expect."""
        return bool(self.expects) and word in ("supported", "refuted") and word != self.expects


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


@functools.cache
def _study_sentences() -> dict[str, str]:
    """Return row -> the sentence of the claim in experiments/ that it is about."""
    claims = [claim for name in study_names() for claim in load_study(name).claims]
    return {claim.id.partition("-")[0]: claim.sentence for claim in claims}


def claims() -> dict[str, str]:
    """Return claim -> its sentence, in the order of their numbers."""
    return _content()["claims"]


@functools.cache
def entries() -> dict[str, Entry]:
    """Return row -> its entry, in the order in which they are printed."""
    rows: list[dict[str, Any]] = [
        {name: " ".join(v.split()) if isinstance(v, str) else v for name, v in row.items()}
        for row in _content()["rows"]
    ]
    return {row["id"]: Entry(**row) for row in rows}


def entry_of(test: str) -> Entry | None:
    """Return the entry of a test, whose id may have a suffix after a hyphen; None without one.

    >>> entry_of("C10a-layer").id, entry_of("C99")
    ('C10a', None)
    """
    return entries().get(test.partition("-")[0])
