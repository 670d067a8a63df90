"""Claims, and the effects that test them: from the runs of a setup to a contrast."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from normlab.studies.decisions import Contrast, Redraw
from normlab.studies.intervals import DISCORDANT, PAIRED_T, Estimator
from normlab.studies.metrics import (
    Metric,
    at_train_loss,
    is_failed,
    restricted_octaves,
    steps_to_target,
    trained_error,
)
from normlab.studies.planning import SetupRuns
from normlab.studies.rates import MAY_FAIL
from normlab.studies.reported import ReportedRates
from normlab.studies.units import OCTAVES, POINTS, TRAINED, Unit

MAY_BE_CUT_OFF = 0.1
"""Share of the slower arm's runs that may miss the target before a factor is a lower bound."""
TRAINED_SEEDS = 48
"""Seeds where arms are compared by whether they train at all."""
GROWING = (12, 24, 48, 96)
"""The looks at which a contrast may stop."""

MATCHED_LOSSES = (1.0, 0.5, 0.2)
"""Training losses at which arms are compared."""


@dataclass(frozen=True)
class Measured:
    """The effects of a contrast, and what the runs say about them."""

    effects: dict[int, Any]
    """Seed -> effect; not finite where there is none, because neither arm got there, say."""
    remark: str = ""
    unmet: str = ""
    """Why the contrast cannot be tested on these runs; empty: it can."""
    is_lower_bound: bool = False
    redraw: Redraw | None = None
    """The effects again, with every rate chosen from other seeds."""
    estimator: Estimator | None = None
    unit: Unit | None = None
    """Estimator and unit that replace those of the effect, because of how the runs ended."""
    words: str = ""
    """What was found, with the values of both arms; empty: the words of the effect."""


@dataclass(frozen=True)
class Effect:
    """What is measured for each seed, oriented so that more than 0 favours the claim."""

    estimator: Estimator
    unit: Unit
    comparison: str
    """The comparison in words; {target} becomes the target of the setup."""
    measure: Callable[[SetupRuns], dict[int, Any] | Measured]
    arms: tuple[str, ...] = ()
    """The arms whose steps or test errors it compares; of other effects none."""
    words: str = ""
    """The comparison without a formula; empty: it has none."""


def effect(
    estimator: Estimator, unit: Unit, comparison: str, words: str = ""
) -> Callable[[Callable[[SetupRuns], dict[int, Any] | Measured]], Effect]:
    """Make an effect of the function below, which measures it."""
    return partial(Effect, estimator, unit, comparison, words=words)


def looks(first: int, last: int) -> tuple[int, ...]:
    """Return the looks from one number of seeds to another.

    >>> looks(12, 48), looks(12, 12)
    ((12, 24, 48), (12,))
    """
    return tuple(sorted({first, last, *(n for n in GROWING if first < n < last)}))


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
    looks: tuple[int, ...]
    """The planned numbers of seeds: the first, and those to which it may grow."""
    setup_seeds: int = 0
    """The number of seeds of the setup where the looks count other runs; 0: they count these."""
    scope: str = ""
    """Network and data, if they are not those of the setup."""

    @property
    def claim(self) -> str:
        """The number of the claim: C10 of C10a-layer."""
        return re.sub("[a-z]*(-.*)?$", "", self.id)

    def delta(self, profile: str) -> float:
        return self.sesoi[profile] if isinstance(self.sesoi, Mapping) else self.sesoi

    def contrast(self, e: SetupRuns, profile: str) -> Contrast:
        effect, measured = self.effect, self.effect.measure(e)
        if not isinstance(measured, Measured):
            measured = Measured(measured)
        sesoi = self.delta(profile)
        if measured.estimator is DISCORDANT:
            sesoi = 0.0  # a share of pairs has not the unit of the claim
        known = {s: v for s, v in measured.effects.items() if np.all(np.isfinite(v))}
        comparison = effect.comparison.replace("{target}", f"{100 * e.setup.target:g} %")
        return Contrast(
            id=self.id,
            claim=self.claim,
            sentence=self.sentence,
            comparison=comparison,
            scope=self.scope or e.setup.title,
            effects=known,
            unit=measured.unit or effect.unit,
            sesoi=sesoi,
            looks=self.looks,
            estimator=measured.estimator or effect.estimator,
            setup=self.setup,
            remark=measured.remark,
            unmet=measured.unmet,
            not_measured=len(measured.effects) - len(known),
            is_lower_bound=measured.is_lower_bound,
            redraw=measured.redraw,
            words=measured.words or effect.words or comparison,
        )


def subtract(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Return seed -> first - second."""
    return {s: float(first[s] - second[s]) for s in sorted(first.keys() & second.keys())}


def error_difference(
    worse: str, better: str, comparison: str = "", metric: Metric = trained_error
) -> Effect:
    """Test error of `worse` - test error of `better`, in points; see `weighted_errors`."""
    default = f"test error of {worse} - test error of {better}, each at its best rates"
    return _of_errors({worse: 1.0, better: -1.0}, comparison or default, metric)


def interaction(a: str, b: str, c: str, d: str, comparison: str = "") -> Effect:
    """(error of a - error of b) - (error of c - error of d), test errors in points."""
    weights = dict.fromkeys((a, b, c, d), 0.0)
    for arm, weight in ((a, 1.0), (b, -1.0), (c, -1.0), (d, 1.0)):
        weights[arm] += weight  # an arm may be there twice
    return _of_errors(weights, comparison)


def _of_errors(
    weights: Mapping[str, float], comparison: str, metric: Metric = trained_error
) -> Effect:
    measure = partial(weighted_errors, weights, metric=metric)
    return Effect(PAIRED_T, POINTS, comparison, measure, arms=tuple(weights))


def weighted_errors(
    weights: Mapping[str, float], e: SetupRuns, metric: Metric = trained_error
) -> Measured:
    """Return the weighted sum of the test errors of some arms, in points, for each seed; or of
    another metric of their runs.

    While few enough runs fail, a seed counts with those that trained. Otherwise errors are not
    compared: two arms are compared by whether they train, and a sum of more is not testable.
    """
    arms = {name: e.reported.get(name) for name in weights}
    found = {name: rates for name, rates in arms.items() if rates and rates.seeds}
    if found.keys() != weights.keys():
        return Measured({})
    seeds = sorted(set.intersection(*(set(rates.seeds) for rates in found.values())))
    failing = [name for name, rates in found.items() if rates.share_failed > MAY_FAIL]
    if failing and len(weights) == 2:
        better, worse = (found[name] for name in sorted(weights, key=lambda name: weights[name]))
        return which_trains(worse, better, seeds)
    if failing:
        names = " and of ".join(map(repr, failing))
        text = f"more than {100 * MAY_FAIL:g} % of the runs of {names} fail"
        return Measured(dict.fromkeys(seeds, math.nan), unmet=text)
    values = {name: rates.values(metric) for name, rates in found.items()}
    effects = {s: sum(w * values[name][s] for name, w in weights.items()) for s in seeds}
    known = [s for s, effect in effects.items() if math.isfinite(effect)]
    words = ""
    if known and len(weights) == 2 and metric is trained_error:
        errors = {name: statistics.fmean(values[name][s] for s in known) for name in weights}
        words = ", ".join(f"{error:.1f} % with {name}" for name, error in errors.items())
        words = f"test error {words}"
    if not any(rates.is_window for rates in found.values()):
        return Measured(effects, words=words)
    draws = {name: rates.redraw(metric) for name, rates in found.items()}

    def redraw(seeds: Sequence[int]) -> np.ndarray:
        return np.sum([w * draws[name](seeds) for name, w in weights.items()], axis=0)

    return Measured(effects, redraw=redraw, words=words)


def which_trains(worse: ReportedRates, better: ReportedRates, seeds: Sequence[int]) -> Measured:
    """Return seed -> 1 where only the better arm trained, -1 where only the worse one did."""
    one, other = (rates.values(lambda run: 1.0 - is_failed(run)) for rates in (better, worse))
    effects = {s: float((one[s] > 0.5) - (other[s] > 0.5)) for s in seeds}
    remark = "an arm fails too often at every rate, so whether runs train is compared"
    return Measured(effects, remark, estimator=DISCORDANT, unit=TRAINED)


def octaves(e: SetupRuns, slow: str, fast: str) -> Measured:
    """Return seed -> log2 of the steps to the target, `slow` over `fast`.

    Times are restricted: a run that misses the target counts with all its steps. Seeds in which
    both miss it are not measured.
    """
    target, pairs = e.setup.target, dict(e.paired(slow, fast))
    found = {s: restricted_octaves(a, b, target) for s, (a, b) in pairs.items()}
    known = [is_cut for value, is_cut in found.values() if not math.isnan(value)]
    cut, effects = sum(known), {s: value for s, (value, _) in found.items()}
    text = f"arm {slow!r} missed the target in {cut} of {len(known)} seeds" if cut else ""
    is_cut_off = cut > MAY_BE_CUT_OFF * len(known)
    before, after = typical_steps(e, slow, fast)
    words = f"{short(after)} instead of {'over ' * is_cut_off}{short(before)} steps"
    words = f"{words} to {100 * target:g} %" if known else ""
    return Measured(effects, text, is_lower_bound=is_cut_off, words=words)


def typical_steps(e: SetupRuns, *arms: str) -> tuple[float, ...]:
    """Return the geometric mean of each arm's steps to the target, over the seeds in which one of
    them reaches it. A run that misses it counts with all its steps."""
    target, logs = e.setup.target, []
    for _, runs in e.paired(*arms):
        steps = [steps_to_target(run, target) for run in runs]
        if not all(map(math.isinf, steps)):
            caps = [run.config["train.steps"] for run in runs]
            logs.append([math.log(min(pair)) for pair in zip(steps, caps, strict=True)])
    return tuple(math.exp(statistics.fmean(column)) for column in zip(*logs, strict=True)) or (
        (math.nan,) * len(arms)
    )


def short(value: float) -> str:
    """Return a positive value with two digits, or as a whole number.

    >>> short(601.4), short(2.345), short(0.01234)
    ('601', '2.3', '0.012')
    """
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def speedup(slow: str, fast: str) -> Effect:
    """How many times fewer steps `fast` needs to the target."""
    comparison = f"log2(T {slow} / T {fast}) to {{target}}, each at its best rate"
    return Effect(PAIRED_T, OCTAVES, comparison, lambda e: octaves(e, slow, fast), (slow, fast))


def speedup_in_seconds(slow: str, fast: str) -> Effect:
    """The same in seconds of single runs: less log2 of what a step costs; no effects where the
    steps were not timed."""

    def measure(e: SetupRuns) -> Measured:
        seconds = e.step_seconds
        if not seconds.keys() >= {slow, fast}:
            return Measured({})
        cost, steps = math.log2(seconds[fast] / seconds[slow]), octaves(e, slow, fast)
        effects = {s: v - cost for s, v in steps.effects.items()}
        remark = f"a step with {fast} norm takes {2**cost:.2f} times as long here"
        remarks = "; ".join(filter(None, [remark, steps.remark]))
        before, after = typical_steps(e, slow, fast)
        times = short(after * seconds[fast]), short(before * seconds[slow])
        words = f"{times[0]} instead of {'over ' * steps.is_lower_bound}{times[1]} s"
        words = f"{words} to {100 * e.setup.target:g} %, as a single run" if steps.words else ""
        return replace(steps, effects=effects, remark=remarks, words=words)

    steps = speedup(slow, fast)
    comparison = f"{steps.comparison}, in seconds of single runs"
    return replace(steps, comparison=comparison, measure=measure)


def decades(e: SetupRuns, low: str, high: str) -> Measured:
    """Return seed -> log10 of the highest rate that trains, `high` over `low`.

    Where a seed of `high` trains at the highest rate of the grid, its factor is a lower bound.
    Seeds in which both arms do are not measured.
    """
    effects = subtract(e.edges.get(high, {}), e.edges.get(low, {}))
    ends, both = e.at_the_end(high), e.at_the_end(low) & e.at_the_end(high)
    effects |= dict.fromkeys(both & effects.keys(), math.nan)
    known = [s for s, value in effects.items() if math.isfinite(value)]
    cut = len(ends.intersection(known))
    text = f"arm {high!r} trains at the highest rate tried in {cut} of {len(known)} seeds"
    is_cut_off = cut > MAY_BE_CUT_OFF * len(known)
    words = ""
    if known:
        before, after = (statistics.fmean(e.edges[arm][s] for s in known) for arm in (low, high))
        words = f"trains up to rate {short(10**after)} instead of {short(10**before)}"
    return Measured(effects, text if cut else "", is_lower_bound=is_cut_off, words=words)


def at_matched_losses(
    e: SetupRuns, first: str, second: str, key: str, value: Callable[[float], float]
) -> dict[int, float]:
    """Return seed -> mean of value(first) - value(second), of a key of their curves.

    The mean is over those of MATCHED_LOSSES that both arms reach; NaN where there is none.
    """
    found = {}
    for seed, runs in e.paired(first, second):
        pairs = [[at_train_loss(run, key, loss) for run in runs] for loss in MATCHED_LOSSES]
        reached = [value(a) - value(b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        found[seed] = statistics.fmean(reached) if reached else math.nan
    return found
