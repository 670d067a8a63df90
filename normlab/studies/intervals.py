"""From the effects of a contrast to a centre and one interval, which alone decides the word.

Every interval that decides has the confidence of CONFIDENCE, two-sided. An effect above 0 favours
the sentence.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # which imports scipy.stats, a second of processor time, at the first use

CONFIDENCE = 0.99
RESAMPLES = 4_000
PERCENTILE = 90
"""Percentile that QUANTILE compares."""


@dataclass(frozen=True)
class Estimate:
    """A centre (mean, proportion, difference of quantiles) with its interval."""

    centre: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Estimator:
    """One way to get from the effects of the seeds to a centre and its interval."""

    name: str
    """As rules and stored files have it."""
    label: str
    """What a page calls it."""
    estimate: Callable[..., Estimate]
    """Of the values and, if not CONFIDENCE, a confidence."""
    limit: float = 0.0
    """+1: the sentence asks for values of at least the smallest effect of interest, which is then
    a limit. -1: it asks for values of at most that. 0: the effect is a difference."""
    has_pairs: bool = False
    """Whether the effect of a seed is a pair of values."""
    shows_seeds: bool = True
    """Whether a figure shows the effect of each seed."""

    @property
    def is_difference(self) -> bool:
        """Whether 0 means no effect; otherwise the contrast asks for a limit to be kept."""
        return not self.limit

    @property
    def sesoi_label(self) -> str:
        if self.is_difference:
            return "Smallest effect of interest"
        return "Least value asked for" if self.limit > 0 else "Largest value allowed"

    def margin(self, found: Estimate, sesoi: float) -> tuple[Estimate, float]:
        """Return the estimate and the smallest effect of interest, so that above 0 favours the
        sentence. Of a limit they are the distance to it, positive on the right side, and 0."""
        if self.is_difference:
            return found, sesoi
        ends = sorted(self.limit * (end - sesoi) for end in found.interval)
        return Estimate(self.limit * (found.centre - sesoi), *ends), 0.0


def t_estimate(values: np.ndarray, confidence: float = CONFIDENCE, error: float = 0.0) -> Estimate:
    """Return the mean with its t interval; no interval for fewer than 2 values.

    The standard error is SD / sqrt(n), or `error` where that is larger.
    """
    mean, n = float(np.mean(values)) if len(values) else math.nan, len(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan)
    error = max(error, float(np.std(values, ddof=1)) / math.sqrt(n))
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of the mean, for tables and figures of single arms."""
    return t_estimate(np.asarray(values, float), 0.95).interval


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return low, high and coverage of the order-statistic interval of the median.

    It is the narrowest symmetric pair that covers at least 95 % (n = 12: 3rd .. 10th value, 96 %).
    Where n is too small, it is the whole range.
    """
    ordered, n = sorted(values), len(values)
    if n < 2:
        return math.nan, math.nan, 0.0
    covered = {k: 1 - 2 * float(scipy.stats.binom.cdf(k - 1, n, 0.5)) for k in range(n // 2, 0, -1)}
    k = next((k for k, coverage in covered.items() if coverage >= 0.95), 1)
    return ordered[k - 1], ordered[n - k], covered[k]


@functools.cache
def clopper_pearson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a probability."""
    found = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def _proportion(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    interval = clopper_pearson(int(values.sum()), len(values), confidence)
    return Estimate(float(values.mean()), *interval)


def _share(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of shares with its t interval, which ends at 0 and 1."""
    found = t_estimate(values, confidence)
    return Estimate(found.centre, *(float(end) for end in np.clip(found.interval, 0, 1)))


def _discordant(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Values are 1, 0 or -1. Seeds with 0 say nothing about the difference. The estimate is the
    excess of 1 over -1 among the others; with none of them it can be anything."""
    discordant, won = int(np.sum(values != 0)), int(np.sum(values > 0))
    if not discordant:
        return Estimate(0.0, -1.0, 1.0)
    low, high = clopper_pearson(won, discordant, confidence)
    return Estimate(2 * won / discordant - 1, 2 * low - 1, 2 * high - 1)


def _quantile(pairs: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Return the difference of the columns' 90th percentiles; its interval is a paired bootstrap's
    over the rows [n, 2]."""
    picks = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    first, second = np.moveaxis(np.percentile(pairs[picks], PERCENTILE, axis=1), 1, 0)
    tails = 50 * (1 - confidence), 50 * (1 + confidence)
    low, high = np.percentile(first - second, tails)
    one, other = np.percentile(pairs, PERCENTILE, axis=0)
    return Estimate(float(one - other), float(low), float(high))


def _largest(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    largest = float(values.max())
    return Estimate(largest, largest, largest)


PAIRED_T = Estimator("t", "paired t interval", t_estimate)
DISCORDANT = Estimator("discordant", "exact interval of discordant pairs", _discordant)
QUANTILE = Estimator(
    "quantile", "paired bootstrap of the 90th percentile", _quantile, has_pairs=True
)
AT_MOST = Estimator(
    "proportion", "exact (Clopper-Pearson) interval", _proportion, limit=-1, shows_seeds=False
)
AT_LEAST = Estimator("at least", "t interval of a share", _share, limit=1)
MAX_ERROR = Estimator("bound", "every value within the limit", _largest, limit=-1)


def as_array(effects: Sequence[Any]) -> np.ndarray:
    return np.asarray(effects, float)
