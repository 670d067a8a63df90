"""What a campaign gets and what it returns."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path


class Broken(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True)
class Workspace:
    """Where a campaign works, with which random numbers, and how long."""

    folder: Path
    """An empty folder of its own."""
    seed: int
    is_long: bool
    """False: the short version of the test suite."""
    emit: Callable[[str], None] = print
    """Gets a line about the progress now and then."""

    def generator(self, purpose: str) -> random.Random:
        """Return the random generator of one part of the campaign."""
        return random.Random(f"{self.seed} {purpose}")


@dataclass(frozen=True)
class Report:
    """The outcome of a campaign."""

    title: str
    goal: str
    figures: Mapping[str, int | str]
    failures: list[str]
    """A line for each broken promise, with what is needed to repeat it; empty: all were kept."""


CAMPAIGNS = {
    "kills": ("single_runs", "study", "crowd", "sweepers", "claims"),
    "crashes": ("every_file_operation", "full_disks", "full", "permission", "training"),
    "damage": ("checkpoints", "results"),
    "untrusted_input": ("malice",),
}
"""Campaign, which is a module of this package -> earlier names of its parts."""


def names_of(words: Iterable[str]) -> list[str]:
    """Return campaigns by their names or by the earlier ones; raises ValueError."""
    known = {old: name for name, olds in CAMPAIGNS.items() for old in (name, *olds)}
    for word in words:
        if word not in known:
            raise ValueError(f"unknown campaign {word!r} (campaigns: {', '.join(CAMPAIGNS)})")
    return list(dict.fromkeys(known[word] for word in words))


def find_campaign(name: str) -> Callable[[Workspace], Report]:
    """Return a campaign of CAMPAIGNS; some of them import jax."""
    return importlib.import_module(f"stress.{name}").run


def error_of(act: Callable[[], object]) -> str:
    """Return how an attempt failed, "" where it did not."""
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def report(
    title: str,
    goal: str,
    figures: Mapping[str, int | str],
    failures: Iterable[str],
    missed: Sequence[str],
    mutants: Sized,
) -> Report:
    """Return the outcome of a campaign. A mutant that it missed is a failure too."""
    caught = {"mutants caught": f"{len(mutants) - len(missed)} of {len(mutants)}"}
    failures = [*failures, *(f"a mutant was not caught: {name}" for name in missed)]
    return Report(title, goal, {**figures, **caught}, failures)
