"""What a contrast would say to users of Flax's default: running averages with momentum 0.99.

Verdicts rest on statistics that are re-estimated before each evaluation. Every run is scored with
its running averages too. Here the same effect is computed from these scores, at the same rates. No
word depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace

from normlab.norms.table import find_norm
from normlab.runs.record import Record
from normlab.studies.decisions import Contrast
from normlab.studies.effects import Claim
from normlab.studies.metrics import RUNNING
from normlab.studies.planning import SetupRuns


def averages_of(claim: Claim, e: SetupRuns, profile: str) -> Contrast | None:
    """Return a claim's contrast with running averages; None where no arm keeps any."""
    if not any(keeps_averages(e, name) for name in claim.effect.arms):
        return None
    seen = copy(e)
    seen.reports = {name: scored(found) for name, found in e.reports.items()}
    seen.follows = {name: scored(found) for name, found in e.follows.items()}
    seen.reported = {
        name: replace(rates, runs={at: scored(found) for at, found in rates.runs.items()})
        for name, rates in e.reported.items()
    }
    return claim.contrast(seen, profile)


def keeps_averages(e: SetupRuns, name: str) -> bool:
    """Return whether an arm or a follow-up has running averages."""
    arm = e.setup.arm(next((f.arm for f in e.setup.follows if f.name == name), name))
    if arm is None:
        return False
    return find_norm(e.cache.look_up(e.setup, arm.settings)[1]["norm.name"]).running_statistics


def scored(runs: Mapping[int, Record]) -> dict[int, Record]:
    """Return runs with the test accuracy and the curve of their running averages, where there are
    any. Rates are chosen and failures counted as before: both are questions of training."""

    def score(values: dict[str, float], name: str) -> dict[str, float]:
        found = values.get(f"{RUNNING}{name}")
        return values if found is None else values | {name: found}

    def of(run: Record) -> Record:
        curve = [score(row, "accuracy") for row in run.curve]
        final = score(score(run.final, "test_accuracy"), "long_accuracy")
        return replace(run, final=final, curve=curve)

    return {seed: of(run) for seed, run in runs.items()}
