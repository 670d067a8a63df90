"""Runs as a report lists them, read with nothing of normlab, for rules_again.py."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

FIRST, NOTCHES = 10_000, 16
"""First reporting seed. Notches of a decade: rates are whole notches."""


class Run(NamedTuple):
    folder: Path
    seed: int
    rate: float
    steps: int
    is_finite: bool
    accuracies: dict[str, float]

    @property
    def notch(self) -> int:
        return round(NOTCHES * math.log10(self.rate))

    @property
    def is_failed(self) -> bool:
        chance = chance_of(self.folder)
        return not self.is_finite or self.accuracies["validation"] < chance + 0.4 * (1 - chance)

    def accuracy(self, split: str) -> float:
        """Return the final accuracy; chance for a run that became infinite or undefined."""
        return self.accuracies[split] if self.is_finite else chance_of(self.folder)

    @property
    def points(self) -> float:
        """The test error in points; a run that failed has none."""
        return math.nan if self.is_failed else 100 - 100 * self.accuracy("test")


@cache
def chance_of(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["provenance"]["chance"]


@cache
def curve_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


Rates = dict[int, dict[int, Run]]
"""Notch -> seed -> run."""


class Results:
    """The runs of one directory, by set-up, arm and stage."""

    def __init__(self, folder: Path) -> None:
        self.runs: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
        with (folder / "report" / "runs.csv").open(newline="") as lines:
            for row in csv.DictReader(lines):
                splits = ("validation", "test")
                known = {split: float(row[f"{split}_accuracy"] or "nan") for split in splits}
                place, seed, rate = folder / "runs" / row["run"], row["seed"], row["optim.lr"]
                is_finite, steps = row["status"] == "trained", int(row["train.steps"])
                run = Run(place, int(seed), float(rate), steps, is_finite, known)
                for use in filter(None, row["used_by"].split("; ")):
                    _, setup, rest = use.split("/", 2)
                    arm, stage = rest.rsplit("/", 1)
                    self.runs[setup, arm, stage].append(run)

    def rates(self, setup: str, arm: str, stage: str, n: int = 0) -> Rates:
        """Return the runs of a stage; with n those of the first n reporting seeds."""
        found: Rates = defaultdict(dict)
        for run in self.runs[setup, arm, stage]:
            if not n or FIRST <= run.seed < FIRST + n:
                found[run.notch][run.seed] = run
        return found
