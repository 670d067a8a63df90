"""The rule: from paired effects to supported, refuted or inconclusive.

A contrast has a smallest effect of interest (SESOI) and a planned n, fixed before anything runs.
Per seed s, an effect e_s > 0 favours the sentence.

p_above_zero tests e <= 0, p_below_sesoi tests e >= SESOI, one-sided; Holm over the contrasts of
the study, level 0.025. Refuted if p_below_sesoi < 0.025: the effect is smaller than the smallest
of interest, even if it is surely positive. Else supported if p_above_zero < 0.025, else
inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normlab.studies.hypothesis_tests import HypothesisTest
from normlab.studies.units import Unit

LEVEL = 0.025
SEARCH = 400
"""Largest n that is tried for an inconclusive contrast."""

PValues = tuple[float, float]
"""p of "the effect is above 0" and of "it is below the SESOI"."""


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
    """Seed -> effect; a pair of values where the test compares pairs."""
    unit: Unit
    sesoi: float
    """The smallest effect of interest."""
    n: int
    test: HypothesisTest
    setup: str = ""
    prerequisite: str = ""
    """Id of the contrast that must be supported for this one to be testable at all."""
    remark: str = ""
    unmet: str = ""
    """Why a prerequisite that is no contrast is not met; empty: it is, or there is none."""

    def p_values(self) -> PValues:
        return self.test.p_values(list(self.effects.values()), self.sesoi)


@dataclass(frozen=True)
class Verdict:
    contrast: Contrast
    word: str
    """supported, refuted, inconclusive, exploratory, not testable here, no data"""
    effect: float
    interval: tuple[float, float]
    coverage: float
    """Of the interval: 0.95, or the exact one of an order-statistic interval."""
    p_above_zero: float
    p_below_sesoi: float
    """Holm-adjusted over the study."""
    n: int
    n_enough: int | None = None
    """For an inconclusive contrast: the n at which effects like these would decide."""
    stands_overall: bool | None = None
    """Whether the word holds with Holm over all contrasts of the page; set by the page."""
    notes: tuple[str, ...] = ()

    @property
    def is_decided(self) -> bool:
        """Whether the planned runs are there and no prerequisite fails."""
        return self.word in ("supported", "refuted", "inconclusive")


def holm(p: Sequence[float]) -> np.ndarray:
    """Return Holm's step-down adjusted p values."""
    p_values = np.asarray(p, float)
    order = np.argsort(p_values)
    steps = np.maximum.accumulate((len(p_values) - np.arange(len(p_values))) * p_values[order])
    out = np.empty(len(p_values))
    out[order] = steps.clip(max=1)
    return out


def holm_pairs(p: Sequence[PValues]) -> list[PValues]:
    """Return the adjusted pairs of p values; each side is adjusted by itself."""
    above, below = (holm([pair[side] for pair in p]) for side in (0, 1))
    return [(float(a), float(b)) for a, b in zip(above, below, strict=True)]


def word_of(p_above_zero: float, p_below_sesoi: float) -> str:
    if p_below_sesoi < LEVEL:
        return "refuted"
    return "supported" if p_above_zero < LEVEL else "inconclusive"


def n_enough(contrast: Contrast, contrasts: int) -> int | None:
    """Return the n at which effects distributed like these would decide, if all `contrasts` of the
    study entered Holm's correction.

    The measured distribution is taken as the truth: its n evenly spaced quantiles are tested. None
    where neither p falls below level / contrasts at SEARCH runs. The search is a bisection, because
    an exact signed-rank test at n = 400 takes 0.3 s.
    """
    if not contrast.test.can_extrapolate:
        return None
    values = np.array(list(contrast.effects.values()))

    def is_decided(n: int) -> bool:
        places = (np.arange(n) + 0.5) / n
        repeated = np.quantile(values, places, method="inverted_cdf")
        return min(contrast.test.p_values(repeated, contrast.sesoi)) * contrasts < LEVEL

    low, high = len(values), SEARCH
    if not is_decided(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_decided(middle) else (middle, high)
    return high


def decide(contrasts: Sequence[Contrast]) -> list[Verdict]:
    """Return the verdict of every contrast of a study, with Holm's correction over all of them.

    A contrast that is not at its planned n enters with p = 1. So no verdict falls when it arrives.
    """
    raw = [c.p_values() if len(c.effects) >= 2 else None for c in contrasts]
    planned = [p if len(c.effects) == c.n else None for c, p in zip(contrasts, raw, strict=True)]
    adjusted = holm_pairs([p or (1.0, 1.0) for p in planned])
    verdicts = [
        _verdict(c, p, a if is_planned else None, len(contrasts))
        for c, p, a, is_planned in zip(contrasts, raw, adjusted, planned, strict=True)
    ]
    words = {v.contrast.id: v.word for v in verdicts}
    return [_check_prerequisites(v, words) for v in verdicts]


def _verdict(
    contrast: Contrast, raw: PValues | None, adjusted: PValues | None, contrasts: int
) -> Verdict:
    n = len(contrast.effects)
    if raw is None:
        return Verdict(contrast, "no data", math.nan, (math.nan, math.nan), 0.0, 1.0, 1.0, n)
    effect, interval, coverage = contrast.test.summarize(list(contrast.effects.values()))
    above, below = adjusted or raw
    word = word_of(above, below) if adjusted else "exploratory"
    enough = n_enough(contrast, contrasts) if word == "inconclusive" else None
    return Verdict(contrast, word, effect, interval, coverage, above, below, n, enough)


def _check_prerequisites(verdict: Verdict, words: dict[str, str]) -> Verdict:
    """Take back a verdict whose prerequisite is not met."""
    contrast = verdict.contrast
    note, needed = contrast.unmet, contrast.prerequisite
    if not note and needed and words[needed] != "supported":
        note = f"its gate {needed} is {words[needed]}"
    if not note or not verdict.is_decided:
        return verdict
    return replace(verdict, word="not testable here", n_enough=None, notes=(note,))
