"""Setups whose runs are answered instead of trained.

`Lab` plays the part of the workers: a response function says how accurate a run of an arm ends at
a rate, and every look at the setup trains what is wanted, until nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.decisions import decide
from normlab.studies.effects import Claim
from normlab.studies.looks import look_at_study
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import FIRST_SEED, Arm, Setup
from normlab.studies.study import Study

Response = Callable[[str, float, int], float]
"""(norm, exponent of the rate, seed) -> final accuracy."""

NONE = Arm("none", {"norm.name": "none"}, is_primary=True)
BATCH = Arm("batch", {"norm.name": "batch"}, is_primary=True)
GROUP = Arm("group", {"norm.name": "group"})
TUNING = Tuning((-2.0, -1.5, -1.0), 0.5, "error")
SEEDS = set(range(FIRST_SEED, FIRST_SEED + 4))
"""Those that report."""
SETUP = Setup("setup", "title", "digits_mlp", (NONE, BATCH, GROUP), TUNING, seeds=4)


MEMORY = ConfigCache()


class Lab:
    """Answers what a setup asks for; `looks` holds what was wanted anew at each look."""

    def __init__(self, setup: Setup, response: Response):
        self.setup, self.response = setup, response
        self.records: dict[str, Record] = {}
        self.looks: list[list[RequiredRun]] = []
        self.evidence = SetupRuns(setup, self.records, MEMORY)
        while not self.evidence.is_complete:
            wanted = self.evidence.wanted.values()
            self.looks.append([w for w in wanted if w.run_id not in self.records])
            self.records |= {w.run_id: self.train(w) for w in self.looks[-1]}
            self.evidence = SetupRuns(setup, self.records, MEMORY)

    def train(self, wanted: RequiredRun) -> Record:
        config = wanted.config
        exponent = round(math.log10(config["optim.lr"]), 3)
        end = self.response(config["norm.name"], exponent, config["seed"])
        curve = [{"step": 10, "accuracy": 0.1}, {"step": 300, "accuracy": end}]
        final = {"validation_accuracy": end, "test_accuracy": end - 0.01}
        return Record(wanted.run_id, config, "trained", final, curve)

    def configs(self, arm: str, stage: str) -> list[Config]:
        wanted = self.evidence.wanted.values()
        return [w.config for w in wanted if (w.arm, w.stage) == (arm, stage)]

    def exponents(self, arm: str, stage: str) -> list[float]:
        rates = {config["optim.lr"] for config in self.configs(arm, stage)}
        return sorted(round(math.log10(r), 2) for r in rates)

    def seeds(self, arm: str, stage: str) -> set[int]:
        return {config["seed"] for config in self.configs(arm, stage)}


def study_of(setup: Setup, *claims: Claim) -> Study:
    texts = dict.fromkeys(("title", "fair_test", "source", "expect", "refuted_if", "cost"), "")
    return Study("s", question="?", setups={"quick": (setup,)}, claims=claims, **texts)


class StudyLab(Lab):
    """The same for a study, whose seeds grow."""

    def __init__(self, study: Study, response: Response, upto: int = 99):
        self.study, self.response, self.records = study, response, {}
        for _ in range(upto):
            self.known = look_at_study(study, "quick", self.records, MEMORY)
            missing = [w for n, w in self.known.wanted.items() if n not in self.records]
            if not missing:
                break
            self.records |= {w.run_id: self.train(w) for w in missing}
        self.verdicts = {path[-1].id: decide(path) for path in self.known.paths}


def peak(best: dict[str, float]) -> Response:
    """Return accuracies that fall with the distance from each norm's best rate."""
    return lambda norm, exponent, seed: 0.95 - 0.05 * abs(exponent - best[norm])


INSIDE = peak({"none": -1.5, "batch": -1.5, "group": -1.5})
