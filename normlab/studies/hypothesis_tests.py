"""The tests that decide contrasts: p values, intervals, and what a page calls them.

Each effect is oriented so that more than 0 favours the sentence. All tests are one-sided and come
in pairs. One asks whether the effect is above 0, the other whether it is below the smallest effect
of interest (SESOI).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy  # which imports scipy.stats, a second of processor time, at the first use

RESAMPLES = 10_000
PERCENTILE = 90
"""Percentile that QUANTILE compares."""

Summary = tuple[float, tuple[float, float], float]
"""Centre, interval, and the coverage of the interval."""


@dataclass(frozen=True)
class HypothesisTest:
    """One way to decide a contrast from its effects."""

    name: str
    """As rules and stored files have it."""
    label: str
    """What a page calls it."""
    p_values_of: Callable[[np.ndarray, float], tuple[float, float]]
    summarize: Callable[[Sequence[Any]], Summary]
    """Effects -> centre (mean, median, proportion), interval, coverage."""
    nulls: tuple[str, ...] = ("p if the effect were 0 or less", "p if it were delta or more")
    """What the two p values test; empty: the test compares with limits and has no p values."""
    is_difference: bool = True
    """Whether 0 means no effect; otherwise the contrast asks for a limit to be kept."""
    has_pairs: bool = False
    """Whether the effect of a seed is a pair of values."""
    shows_seeds: bool = True
    """Whether a figure shows the effect of each seed."""
    limits: tuple[float, ...] = ()
    """Fixed limits that replace the smallest effect of interest."""
    sesoi_label: str = "Delta"
    centre_label: str = "Effect with {coverage:.0f} % interval"

    @property
    def has_p(self) -> bool:
        return bool(self.nulls)

    @property
    def can_extrapolate(self) -> bool:
        """Whether the n that would decide can be predicted from the effects measured so far."""
        return self.has_p and not self.has_pairs

    def p_values(self, effects: Sequence[Any] | np.ndarray, sesoi: float) -> tuple[float, float]:
        """Return p of "the effect is above 0" and of "it is below the SESOI", unadjusted."""
        return self.p_values_of(np.asarray(effects, float), sesoi)


def signed_rank_p(values: np.ndarray) -> float:
    """Return the exact p value of Wilcoxon's signed-rank test, H1: centre above 0.

    Zeros keep their ranks and drop out (Pratt), ties share their mean rank, infinities rank
    highest. The sum of positive ranks is compared with its distribution over all sign flips,
    which is counted by convolution. Scipy's exact test is the same but takes a second with ties at
    n = 12.
    """
    finite = np.abs(values[np.isfinite(values)])
    beyond = 2 * finite.max(initial=0) + 1  # farther from 0 than any finite value
    values = np.clip(values, -beyond, beyond)
    ranks = np.rint(2 * scipy.stats.rankdata(np.abs(values))).astype(int)[values != 0]
    flips = np.ones(1)
    for rank in ranks:
        longer = np.zeros(len(flips) + rank)
        longer[: len(flips)] += flips / 2
        longer[rank:] += flips / 2
        flips = longer
    positive = int(ranks[values[values != 0] > 0].sum())
    return float(flips[positive:].sum())


def _t_p(values: np.ndarray) -> float:
    result: Any = scipy.stats.ttest_1samp(values, 0, alternative="greater")
    return float(result.pvalue)


def _above_and_below(
    p_above: Callable[[np.ndarray], float], values: np.ndarray, sesoi: float
) -> tuple[float, float]:
    """Return the p values of a test for a centre above 0, turned around for the SESOI."""

    def p_of(values: np.ndarray) -> float:
        if np.all(values == values[0]):  # no spread: every sign pattern is as likely
            return 2.0 ** -len(values) if values[0] > 0 else 1.0
        return p_above(values)

    return p_of(values), p_of(-(values - sesoi))


def _binomial_p(successes: int, n: int, probability: float) -> tuple[float, float]:
    """Return the exact p of more and of fewer successes than expected."""
    more = scipy.stats.binomtest(successes, n, probability, alternative="greater").pvalue
    fewer = scipy.stats.binomtest(successes, n, probability, alternative="less").pvalue
    return float(more), float(fewer)


def _proportion_p(values: np.ndarray, sesoi: float) -> tuple[float, float]:
    """A small proportion favours the sentence."""
    more, fewer = _binomial_p(int(values.sum()), len(values), sesoi)
    return fewer, more


def _mcnemar_p(values: np.ndarray, sesoi: float) -> tuple[float, float]:
    """Seeds in which both or neither arm trained say nothing about the difference."""
    discordant = int(np.sum(values != 0))
    return _binomial_p(int(np.sum(values > 0)), discordant, 0.5) if discordant else (1.0, 1.0)


def quantile_resamples(pairs: np.ndarray) -> np.ndarray:
    """Return the difference of the columns' 90th percentiles in resamples of the rows [n, 2]."""
    picks = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    first, second = np.moveaxis(np.percentile(pairs[picks], PERCENTILE, axis=1), 1, 0)
    return first - second


def _quantile_p(values: np.ndarray, sesoi: float) -> tuple[float, float]:
    """Return the proportions of resamples on the other side, which are never 0."""
    drawn = quantile_resamples(values)
    above, below = ((1 + beyond.sum()) / (1 + RESAMPLES) for beyond in (drawn <= 0, drawn >= sesoi))
    return float(above), float(below)


def _max_error_p(values: np.ndarray, sesoi: float) -> tuple[float, float]:
    return (0.0, 1.0) if np.all(values <= sesoi) else (1.0, 0.0)


def _thresholds_p(values: np.ndarray, sesoi: float) -> tuple[float, float]:
    refuted, supported = THRESHOLDS.limits
    return float(values.mean() < supported), float(values.mean() > refuted)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of the mean; (nan, nan) for fewer than 2 values."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, half = float(np.mean(values)), float(scipy.stats.t.ppf(0.975, len(values) - 1))
    half *= float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


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


def _mean_summary(values: Sequence[float]) -> Summary:
    return float(np.mean(values)), t_interval(values), 0.95


def _median_summary(values: Sequence[float]) -> Summary:
    low, high, coverage = median_interval(values)
    return statistics.median(values), (low, high), coverage


def _proportion_summary(values: Sequence[float]) -> Summary:
    """The interval is that of Clopper and Pearson."""
    interval = scipy.stats.binomtest(int(sum(values)), len(values)).proportion_ci(
        0.95, method="exact"
    )
    return float(np.mean(values)), (float(interval.low), float(interval.high)), 0.95


def _quantile_summary(values: Sequence[tuple[float, float]]) -> Summary:
    pairs = np.asarray(values, float)
    first, second = np.percentile(pairs, PERCENTILE, axis=0)
    low, high = np.percentile(quantile_resamples(pairs), [2.5, 97.5])
    return float(first - second), (float(low), float(high)), 0.95


def _max_summary(values: Sequence[float]) -> Summary:
    return max(values), (min(values), max(values)), 1.0


PAIRED_T = HypothesisTest("t", "one-sided paired t", partial(_above_and_below, _t_p), _mean_summary)
SIGNED_RANK = HypothesisTest(
    "wilcoxon",
    "one-sided Wilcoxon signed-rank",
    partial(_above_and_below, signed_rank_p),
    _median_summary,
)
PROPORTION = HypothesisTest(
    "share",
    "exact binomial",
    _proportion_p,
    _proportion_summary,
    nulls=("p if the share were delta or more", "p if it were delta or less"),
    is_difference=False,
    shows_seeds=False,
    sesoi_label="Largest share allowed",
)
MCNEMAR = HypothesisTest("mcnemar", "McNemar's, exact", _mcnemar_p, _mean_summary)
QUANTILE = HypothesisTest(
    "tail",
    "paired bootstrap of the 90th percentile",
    _quantile_p,
    _quantile_summary,
    has_pairs=True,
)
MAX_ERROR = HypothesisTest(
    "bound",
    "every value at most delta",
    _max_error_p,
    _max_summary,
    nulls=(),
    is_difference=False,
    centre_label="Largest value [least, largest]",
)
THRESHOLDS = HypothesisTest(
    "band",
    "mean share: supported at 95 % or more, refuted at 50 % or less",
    _thresholds_p,
    _mean_summary,
    nulls=(),
    is_difference=False,
    limits=(0.5, 0.95),
)
