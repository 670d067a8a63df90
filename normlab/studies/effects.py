"""Claims, and the effects that test them: from the runs of a setup to a contrast."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from normlab.runs.record import Record
from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import (
    MCNEMAR,
    PAIRED_T,
    SIGNED_RANK,
    HypothesisTest,
)
from normlab.studies.metrics import (
    at_train_loss,
    error_points,
    is_failed,
    log_octaves,
    steps_to_target,
)
from normlab.studies.planning import SetupRuns
from normlab.studies.units import OCTAVES, POINTS, TRAINED, Unit

MANY_FAILED = 0.25
"""Proportion of failed runs of an arm above which errors are not compared, but failures."""

MATCHED_LOSSES = (1.0, 0.5, 0.2)
"""Training losses at which arms are compared."""


@dataclass(frozen=True)
class Measured:
    """The effects of a contrast, and what the runs say about them."""

    effects: dict[int, Any]
    remark: str = ""
    unmet: str = ""
    """Why the contrast cannot be tested on these runs; empty: it can."""
    test: HypothesisTest | None = None
    unit: Unit | None = None
    """Test and unit that replace those of the effect, because of how the runs ended."""


@dataclass(frozen=True)
class Effect:
    """What is measured for each seed, oriented so that more than 0 favours the claim."""

    test: HypothesisTest
    unit: Unit
    comparison: str
    """The comparison in words; {target} becomes the target of the setup."""
    measure: Callable[[SetupRuns], dict[int, Any] | Measured]


def effect(
    test: HypothesisTest, unit: Unit, comparison: str
) -> Callable[[Callable[[SetupRuns], dict[int, Any] | Measured]], Effect]:
    """Make an effect of the function below, which measures it."""
    return partial(Effect, test, unit, comparison)


@dataclass(frozen=True)
class Claim:
    """A sentence, the effect that tests it on a setup, and the rule: fixed before any run."""

    id: str
    sentence: str
    setup: str
    """The name of the setup; profiles without it do not test the claim."""
    effect: Effect
    sesoi: float | Mapping[str, float]
    """The smallest effect of interest, or profile -> that."""
    n: int | Mapping[str, int]
    """The planned number of seeds, or profile -> that."""
    prerequisite: str = ""
    """Id of the claim that must be supported for this one to be testable at all."""
    scope: str = ""
    """Network and data, if they are not those of the setup."""

    @property
    def claim(self) -> str:
        """The number of the claim: C10 of C10a-layer."""
        return re.sub("[a-z]*(-.*)?$", "", self.id)

    def contrast(self, e: SetupRuns, profile: str) -> Contrast:
        effect, measured = self.effect, self.effect.measure(e)
        if not isinstance(measured, Measured):
            measured = Measured(measured)
        return Contrast(
            id=self.id,
            claim=self.claim,
            sentence=self.sentence,
            comparison=effect.comparison.replace("{target}", f"{100 * e.setup.target:g} %"),
            scope=self.scope or e.setup.title,
            effects=measured.effects,
            unit=measured.unit or effect.unit,
            sesoi=self.sesoi[profile] if isinstance(self.sesoi, Mapping) else self.sesoi,
            n=self.n[profile] if isinstance(self.n, Mapping) else self.n,
            test=measured.test or effect.test,
            setup=self.setup,
            prerequisite=self.prerequisite,
            remark=measured.remark,
            unmet=measured.unmet,
        )


def subtract(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Return seed -> first - second; equal values tie, also when both are infinite."""
    seeds = sorted(first.keys() & second.keys())
    return {s: 0.0 if first[s] == second[s] else float(first[s] - second[s]) for s in seeds}


def error_difference(worse: str, better: str, comparison: str = "") -> Effect:
    """Test error of `worse` - test error of `better`; see `paired_errors`."""
    default = f"test error of {worse} - test error of {better}, each at its best rate"
    return Effect(
        PAIRED_T, POINTS, comparison or default, lambda e: paired_errors(e.paired(worse, better))
    )


def paired_errors(pairs: Iterable[tuple[int, Sequence[Record]]]) -> Measured:
    """Return the differences of the test errors of (worse, better), in points.

    If more than a quarter of either arm's runs failed, McNemar's test on "trained" decides instead.
    The effect is then 1 where only `better` trained, -1 where only `worse` did.
    """
    runs = dict(pairs)
    failed = {s: (is_failed(worse), is_failed(better)) for s, (worse, better) in runs.items()}
    if any(sum(arm) > MANY_FAILED * len(arm) for arm in zip(*failed.values(), strict=True)):
        effects = {s: float(worse) - float(better) for s, (worse, better) in failed.items()}
        remark = "decided by McNemar's test on trained"
        return Measured(effects, remark, test=MCNEMAR, unit=TRAINED)
    return Measured({s: error_points(worse) - error_points(b) for s, (worse, b) in runs.items()})


def interaction(a: str, b: str, c: str, d: str, comparison: str = "") -> Effect:
    """(error of a - error of b) - (error of c - error of d), test errors in points."""

    def measure(e: SetupRuns) -> dict[int, float]:
        errors = {s: [error_points(r) for r in runs] for s, runs in e.paired(a, b, c, d)}
        return {s: v[0] - v[1] - (v[2] - v[3]) for s, v in errors.items()}

    return Effect(PAIRED_T, POINTS, comparison, measure)


def octaves(e: SetupRuns, slow: str, fast: str) -> dict[int, float]:
    """Return seed -> log2 of the steps to the target, `slow` over `fast`."""
    target = e.setup.target
    return {
        s: log_octaves(steps_to_target(a, target), steps_to_target(b, target))
        for s, (a, b) in e.paired(slow, fast)
    }


def speedup(slow: str, fast: str) -> Effect:
    """How many times fewer steps `fast` needs to the target."""
    comparison = f"log2(T {slow} / T {fast}) to {{target}}, each at its best rate"
    return Effect(SIGNED_RANK, OCTAVES, comparison, lambda e: octaves(e, slow, fast))


def speedup_in_seconds(slow: str, fast: str) -> Effect:
    """The same in seconds of single runs: less log2 of what a step costs; no effects where the
    steps were not timed."""

    def measure(e: SetupRuns) -> Measured:
        seconds = e.step_seconds
        if not seconds.keys() >= {slow, fast}:
            return Measured({})
        cost = math.log2(seconds[fast] / seconds[slow])
        effects = {s: v - cost for s, v in octaves(e, slow, fast).items()}
        return Measured(effects, f"a step with {fast} norm takes {2**cost:.2f} times as long here")

    steps = speedup(slow, fast)
    comparison = f"{steps.comparison}, in seconds of single runs"
    return replace(steps, comparison=comparison, measure=measure)


def at_matched_losses(
    e: SetupRuns, first: str, second: str, key: str, value: Callable[[float], float]
) -> dict[int, float]:
    """Return seed -> mean of value(first) - value(second), of a key of their curves.

    The mean is over those of MATCHED_LOSSES that both arms reach; seeds without one are left out.
    """
    found = {}
    for seed, runs in e.paired(first, second):
        pairs = [[at_train_loss(run, key, loss) for run in runs] for loss in MATCHED_LOSSES]
        reached = [value(a) - value(b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        if reached:
            found[seed] = statistics.fmean(reached)
    return found
