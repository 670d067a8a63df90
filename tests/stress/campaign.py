"""What a campaign gets and what it returns."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """Where a campaign works, by which dice, and how long."""

    folder: Path
    """An empty folder of its own."""
    seed: int
    is_long: bool
    """False: the short version of the test suite, some seconds."""
    tell: Callable[[str], None] = print
    """Hears how it is going, a line now and then."""

    def dice(self, what: str) -> random.Random:
        """Return the dice of one part of the campaign: equal seeds throw equally."""
        return random.Random(f"{self.seed} {what}")


@dataclass(frozen=True)
class Report:
    """What came of a campaign."""

    title: str
    goal: str
    figures: Mapping[str, int | float | str]
    """Measured, in the order in which they are told."""
    failures: list[str] = field(default_factory=list)
    """A line for each broken promise, with what is needed to see it again; empty: all were kept."""

    @property
    def has_passed(self) -> bool:
        return not self.failures


CAMPAIGNS = {
    "single_runs": "kills",
    "study": "kills",
    "crowd": "sweepers",
    "claims": "sweepers",
    "every_file_operation": "crashes",
    "checkpoints": "damage",
    "results": "damage",
    "full": "disks",
    "permission": "disks",
    "training": "disks",
    "malice": "malice",
    "bad_settings": "settings_fuzz",
}
"""Campaign -> the module of this package that has it as a function."""


def find_campaign(name: str) -> Callable[[Workspace], Report]:
    """Return a campaign of CAMPAIGNS; some of them import jax."""
    module = importlib.import_module(f"stress.{CAMPAIGNS[name]}")
    return vars(module)[name]
