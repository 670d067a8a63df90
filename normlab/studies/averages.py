"""What a contrast would say to users of Flax's default: running averages with momentum 0.99.

Verdicts rest on statistics that are re-estimated before each evaluation. Here the same effect is
computed from running averages. Arms that keep them train again, with the first seeds and at their
one rate. The other arms count with the runs that they have there. No look waits for these runs, and
no word depends on them.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace

from normlab.norms.table import find_norm
from normlab.runs.record import Record
from normlab.studies.decisions import Contrast
from normlab.studies.effects import Claim
from normlab.studies.metrics import RUNNING
from normlab.studies.planning import SetupRuns
from normlab.studies.reported import ReportedRates
from normlab.studies.setup import AVERAGES, FollowUp, Setup

SEEDS = 12
AVERAGED = {"norm.momentum": 0.99, "eval.batch_statistics": False}
"""What changes for these runs. Scores that nobody reads would only lengthen the compilation."""


def averages_of(claim: Claim, e: SetupRuns, profile: str) -> Contrast | None:
    """Return a claim's contrast with running averages; None where no arm keeps any. Ask for its
    runs, once all others are there."""
    seen, found = copy(e), averaged_runs(claim, e)
    if not found:
        return None
    seen.follows, seen.reports = {}, found
    seen.reported = {n: ReportedRates({0.0: runs}, cap=0.0) for n, runs in seen.reports.items()}
    return claim.contrast(seen, profile)


def averaged_runs(claim: Claim, e: SetupRuns) -> dict[str, dict[int, Record]]:
    """Return the runs of each arm of a claim, {} where no arm keeps averages."""
    names, kept = claim.effect.arms, [n for n in claim.effect.arms if keeps_averages(e, n)]
    return {n: _runs(e, n, n in kept) for n in names} if kept and e.setup.grows else {}


def keeps_averages(e: SetupRuns, name: str) -> bool:
    arm = e.setup.arm(follow_up_of(e.setup, name).arm)
    if arm is None:
        return False
    return find_norm(e.cache.look_up(e.setup, arm.settings)[1]["norm.name"]).running_statistics


def follow_up_of(setup: Setup, name: str) -> FollowUp:
    """Return the follow-up of that name, or the arm of that name as one."""
    own = FollowUp(name, name, name, settings=setup.report_settings)
    return next((f for f in setup.follows if f.name == name), own)


def _runs(e: SetupRuns, name: str, is_kept: bool) -> dict[int, Record]:
    """Return the first runs of an arm or a follow-up at its one rate, scored by running averages if
    it keeps them."""
    follow_up, found = follow_up_of(e.setup, name), e.runs_of(name)
    first, arm = {s: found[s] for s in sorted(found)[:SEEDS]}, e.setup.arm(follow_up.arm)
    if not is_kept or arm is None or not first:
        return first
    if not e.is_complete:
        return {}
    exponent = math.log10(next(iter(first.values())).config["optim.lr"])
    again = e.ask(arm, AVERAGES, exponent, [*first], follow_up.settings | AVERAGED)
    return {seed: scored_by_averages(run) for seed, run in again.items()}


def scored_by_averages(run: Record) -> Record:
    """Return a run with the test accuracy and the curve of its running averages. Whether it failed
    remains a question of its training."""

    def score(values: dict[str, float], name: str) -> dict[str, float]:
        return {n: values.get(f"{RUNNING}{n}", v) if n == name else v for n, v in values.items()}

    curve = [score(row, "accuracy") for row in run.curve]
    return replace(run, final=score(run.final, "test_accuracy"), curve=curve)
