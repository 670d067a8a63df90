"""What a campaign gets and what it returns."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence, Sized
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


CAMPAIGNS = ("kills", "crashes", "damage", "untrusted_input", "cluster", "slurm")
"""Each is a module of this package."""


@dataclass(frozen=True)
class Report:
    """The outcome of a campaign."""

    figures: Mapping[str, int | str]
    failures: Sequence[str]
    """A line for each broken promise, with what is needed to repeat it; empty: all were kept."""


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
    figures: Mapping[str, int | str], failures: Sequence[str], missed: Sequence[str], mutants: Sized
) -> Report:
    """Return the outcome of a campaign. A mutant that it missed is a failure too."""
    caught = {"mutants caught": f"{len(mutants) - len(missed)} of {len(mutants)}"}
    uncaught = [f"a mutant was not caught: {name}" for name in missed]
    return Report({**figures, **caught}, [*failures, *uncaught])
