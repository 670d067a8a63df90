"""Panels: whether a contrast keeps its word under other schedules, weight decays and optimisers.

A cell is the setup of a contrast with other settings, at one rate an arm and one number of seeds.
Its word follows from its interval as in any study. It is exploratory: it is no verdict of a claim.
The word to be kept is that of the contrast's own cell, which has the settings of its study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normlab.studies.decisions import Verdict, judge
from normlab.studies.effects import Claim
from normlab.studies.planning import SetupRuns

VARIED = ("optim.schedule", "optim.weight_decay", "optim.name")
"""The settings in which the cells of a contrast differ."""


@dataclass(frozen=True)
class Line:
    """A contrast of another study, in all cells."""

    claim: Claim
    scope: str
    """Network and data."""
    cells: Mapping[str, str]
    """Cell -> its setup."""
    own: str
    """The cell with the settings of the contrast's study."""

    def verdicts(self, runs: Mapping[str, SetupRuns], profile: str) -> dict[str, Verdict | None]:
        """Return cell -> what it says; None while runs are missing."""
        found: dict[str, Verdict | None] = {}
        for cell, setup in self.cells.items():
            e = runs.get(setup)
            verdict = judge([self.claim.contrast(e, profile)]) if e and e.can_decide else None
            found[cell] = verdict if verdict and verdict.word != "not run" else None
        return found


def kept(verdicts: Mapping[str, Verdict | None], own: str) -> tuple[int, int] | None:
    """Return how many cells have the word of the own cell, and how many have run.

    Both counts include the own cell. None: it has no word.
    """
    word = verdicts[own]
    if word is None or not word.is_decided:
        return None
    known = [verdict.word for verdict in verdicts.values() if verdict]
    return known.count(word.word), len(known)
