"""The rule: one interval, one word.

A contrast has a smallest effect of interest (SESOI, delta) and planned numbers of seeds, fixed
before anything runs. Per seed s, an effect e_s > 0 favours the sentence. [L, U] is the 99 %
interval and m its centre:

    U < delta                refuted:   reversed if U < 0, small if L > 0
    L > 0 and m >= delta     supported: at least delta if L >= delta
    otherwise                open

Of a share or a largest value that has a limit, [L, U] is the distance to the limit and delta is 0.
A limit that is touched is kept: L = 0 is enough there.

The word depends on L, U, m and delta alone, so no other contrast can change it. The number of
seeds grows from look to look. It stops where the interval is clear: L >= delta or U < 0. It also
stops where the interval is narrow: half-width <= delta / 2 of a refuted sentence, delta / 4 of a
supported one. Otherwise it stops at the last look.

A supported sentence needs the narrower interval. Its mean may lie just above delta by chance where
the true effect is a little smaller, and other seeds would refute it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normlab.studies.intervals import CONFIDENCE, Estimate, Estimator, as_array, t_estimate
from normlab.studies.units import Unit

REPLICATIONS = 400
"""Resamples for the probability of the same word."""
NARROW = {"supported": 0.25, "refuted": 0.5}
"""Half-width, in delta, at which a word needs no more seeds."""
STABLE = 0.95
"""A word with a smaller probability of being the same again is marked as borderline."""

Redraw = Callable[[Sequence[int]], np.ndarray]
"""Seeds, some perhaps several times -> their effects, with every rate chosen from them again."""


@dataclass(frozen=True)
class Contrast:
    """A comparison that tests a sentence, with the effects that were measured."""

    id: str
    claim: str
    sentence: str
    comparison: str
    """What is compared, in words."""
    scope: str
    """Network and data, printed with every verdict."""
    effects: dict[int, Any]
    """Seed -> effect; a pair of values where the estimator compares pairs."""
    unit: Unit
    sesoi: float
    """The smallest effect of interest."""
    looks: tuple[int, ...]
    """The planned numbers of seeds, ascending."""
    estimator: Estimator
    setup: str = ""
    remark: str = ""
    unmet: str = ""
    """Why these runs cannot test the sentence; empty: they can."""
    not_measured: int = 0
    """Seeds that have runs but no effect, because neither arm got there."""
    is_lower_bound: bool = False
    """Whether the true effect is at least as large, because the slower arm was cut off."""
    redraw: Redraw | None = None
    """None: the effects do not depend on which seeds are there."""
    words: str = ""
    """The comparison without formulas, with the values of both arms where they are known."""
    averages: Contrast | None = None
    """The same with Flax's default running averages; None where no arm keeps any."""

    @property
    def n(self) -> int:
        """The number of seeds with all their runs."""
        return len(self.effects) + self.not_measured

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        values = as_array([*self.effects.values()])
        if self.redraw is None:
            return self.estimator.estimate(values, confidence)
        return t_estimate(values, confidence, jackknife_error(self.redraw, [*self.effects]))


@dataclass(frozen=True)
class Look:
    """What a contrast says at one number of seeds."""

    n: int
    word: str
    qualifier: str
    estimate: Estimate


@dataclass(frozen=True)
class Verdict:
    contrast: Contrast
    word: str
    """supported, refuted, open, exploratory, not measured, not testable here, not run"""
    estimate: Estimate
    n: int
    qualifier: str = ""
    """Of refuted: reversed, small. Of supported: at least delta."""
    path: tuple[Look, ...] = ()
    """The looks so far, the last one deciding."""
    replication: float = math.nan
    """The probability of the same word with other seeds, by a bootstrap over the seeds."""
    notes: tuple[str, ...] = ()

    @property
    def is_decided(self) -> bool:
        """Whether the planned runs are there and say something."""
        return self.word in ("supported", "refuted", "open")

    @property
    def is_borderline(self) -> bool:
        return self.replication < STABLE


def word_of(
    found: Estimate, sesoi: float, is_lower_bound: bool = False, is_limit: bool = False
) -> tuple[str, str]:
    """Return the word and its qualifier. A lower bound can support, but not refute. A limit that is
    touched is kept."""
    if found.high < sesoi and not is_lower_bound:
        return "refuted", "reversed" if found.high < 0 else "small" if found.low > 0 else ""
    is_above = found.low >= 0 if is_limit else found.low > 0
    if is_above and found.centre >= sesoi:
        return "supported", "at least delta" if found.low >= sesoi else ""
    return "open", ""


def stops(found: Estimate, word: str, sesoi: float) -> bool:
    """Return whether no more seeds are needed."""
    is_narrow = found.half_width <= NARROW.get(word, 0.0) * sesoi
    return word != "open" and (is_narrow or found.low >= sesoi or found.high < 0)


def read(contrast: Contrast, found: Estimate) -> tuple[str, str, bool]:
    """Return the word and the qualifier of an estimate, and whether no more seeds are needed."""
    is_limit = not contrast.estimator.is_difference
    turned, sesoi = contrast.estimator.margin(found, contrast.sesoi)
    word, qualifier = word_of(turned, sesoi, contrast.is_lower_bound, is_limit)
    return word, "" if is_limit else qualifier, stops(turned, word, sesoi)


def look_at(contrast: Contrast) -> tuple[Look, bool]:
    """Return what a contrast says with the seeds that it has, and whether they are enough."""
    found = contrast.estimate()
    word, qualifier, is_enough = read(contrast, found)
    return Look(contrast.n, word, qualifier, found), is_enough


def jackknife_error(redraw: Redraw, seeds: Sequence[int]) -> float:
    """Return the standard error of the mean effect by leaving out a seed at a time, with every rate
    chosen again from the others."""
    n = len(seeds)
    if n < 3:
        return 0.0
    means = np.array([np.nanmean(redraw([*seeds[:i], *seeds[i + 1 :]])) for i in range(n)])
    return float(math.sqrt((n - 1) / n * np.sum((means - means.mean()) ** 2)))


def replication(contrast: Contrast) -> float:
    """Return the share of bootstrap resamples of the seeds that give the same word.

    The rates are chosen again in each. The standard error of a resample is its SD / sqrt(n), times
    the factor by which the jackknife exceeds that in the sample.
    """
    seeds, rng = [*contrast.effects], np.random.default_rng(0)
    word, values = look_at(contrast)[0].word, as_array([*contrast.effects.values()])
    plain = float(np.std(values, ddof=1)) / math.sqrt(len(seeds)) if contrast.redraw else 0.0
    factor = jackknife_error(contrast.redraw, seeds) / plain if contrast.redraw and plain else 1.0
    same = 0
    times = REPLICATIONS // 4 if contrast.estimator.has_pairs else REPLICATIONS
    for picks in rng.integers(len(seeds), size=(times, len(seeds))):
        if contrast.redraw:
            drawn = contrast.redraw([seeds[i] for i in picks])
            drawn = drawn[~np.isnan(drawn)]
            error = factor * float(np.std(drawn, ddof=1)) / math.sqrt(len(seeds))
            found = t_estimate(drawn, error=error)
        else:
            found = contrast.estimator.estimate(values[picks])
        same += read(contrast, found)[0] == word
    return same / times


def decide(path: Sequence[Contrast]) -> Verdict:
    """Return the verdict of a contrast at its looks, and the probability of the same word."""
    verdict = judge(path)
    if not verdict.is_decided:
        return verdict
    return replace(verdict, replication=replication(verdict.contrast))


def judge(path: Sequence[Contrast]) -> Verdict:
    """Return the verdict of a contrast at its looks: the last of them decides."""
    contrast = path[-1]
    n, nothing = contrast.n, Estimate(math.nan, math.nan, math.nan)
    if contrast.unmet and n >= 2:
        return Verdict(contrast, "not testable here", nothing, n, notes=(contrast.unmet,))
    if len(contrast.effects) < 2:
        is_missed = contrast.not_measured and n in contrast.looks
        return Verdict(contrast, "not measured" if is_missed else "not run", nothing, n)
    looks = tuple(look_at(c)[0] for c in path)
    last = looks[-1]
    verdict = Verdict(contrast, last.word, last.estimate, n, last.qualifier, looks)
    if n not in contrast.looks:
        return replace(verdict, word="exploratory", qualifier="", path=())
    return verdict


def corrected_confidence(tests: int) -> float:
    """Return the confidence of each interval in a Bonferroni correction over a number of tests."""
    return 1 - (1 - CONFIDENCE) / tests


def stays(verdict: Verdict, tests: int) -> bool:
    """Return whether a word stays the same in a Bonferroni correction over a number of tests."""
    found = verdict.contrast.estimate(corrected_confidence(tests))
    return read(verdict.contrast, found)[0] == verdict.word
