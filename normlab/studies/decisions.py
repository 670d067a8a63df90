"""The rule: from paired effects to supported, refuted or inconclusive.

One row of the rule book is one primary contrast with a smallest effect of interest (delta) and a
planned n, fixed before anything runs. Per seed s, e_s > 0 favours the sentence.

p_sup tests e <= 0, p_ref tests e >= delta, one-sided; Holm over the study's rows, level 0.025.
refuted if p_ref < 0.025 (the effect is below the smallest of interest, a tiny positive one
included); else supported if p_sup < 0.025; else inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

LEVEL = 0.025
SEARCH = 400
"""Largest n that an inconclusive row looks for."""

RESAMPLES = 10_000
TAIL = 90
"""Percentile that the test "tail" compares."""
BAND = (0.5, 0.95)
"""Test "band": refuted at or below, supported at or above."""

WITHOUT_P = ("bound", "band")
"""Tests that compare with limits and have no p value."""
Test = Literal["t", "wilcoxon", "share", "mcnemar", "tail", "bound", "band"]


@dataclass(frozen=True)
class Row:
    """One primary contrast, with the effects that were measured."""

    id: str
    claim: str
    sentence: str
    contrast: str
    scope: str
    """Net, data: printed with every verdict."""
    effects: dict[int, Any]
    """Seed -> e_s. Test "share": 1 where the run failed, 0 where it did not. "tail": the pair of
    values of which the 90th percentiles are compared, first - second. "bound": a distance that may
    be at most delta. "band": a share, supported from 95 % on, refuted up to 50 %."""
    unit: str
    delta: float
    n: int
    test: Test
    setup: str = ""
    gate: str = ""
    """Id of the row that must be supported for this one to be testable at all."""
    remark: str = ""
    closed: str = ""
    """Why this row cannot be tested here, where a gate of its own fails."""


@dataclass(frozen=True)
class Verdict:
    row: Row
    word: str
    """supported, refuted, inconclusive, exploratory, not testable here, no data"""
    effect: float
    interval: tuple[float, float]
    coverage: float
    """Of the interval: 0.95, or the exact one of an order-statistic interval."""
    p_sup: float
    p_ref: float
    """Holm-adjusted over the study."""
    n: int
    n_enough: int | None = None
    """For an inconclusive row: the n at which effects like these would decide."""
    stands_overall: bool | None = None
    """Whether the word stands with Holm over all rows of the page; set by the page."""
    notes: tuple[str, ...] = field(default=())


def holm(p: Sequence[float]) -> np.ndarray:
    """Return Holm's step-down adjusted p values."""
    p_values = np.asarray(p, float)
    order = np.argsort(p_values)
    steps = np.maximum.accumulate((len(p_values) - np.arange(len(p_values))) * p_values[order])
    out = np.empty(len(p_values))
    out[order] = steps.clip(max=1)
    return out


def _finite(values: np.ndarray) -> np.ndarray:
    """Replace infinities by values beyond all finite ones: they rank highest."""
    finite = np.abs(values[np.isfinite(values)])
    beyond = 2 * finite.max(initial=0) + 1
    return np.clip(values, -beyond, beyond)


def signed_rank_p(values: np.ndarray) -> float:
    """Return the exact p value of Wilcoxon's signed-rank test, H1: centre above 0.

    Zeros keep their ranks and drop out (Pratt), ties share their mean rank, infinities rank
    highest. The sum of positive ranks is compared with its distribution over all sign flips,
    counted by convolution; scipy's exact test is the same but takes a second with ties at n = 12.
    """
    values = _finite(values)
    ranks = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)[values != 0]
    flips = np.ones(1)
    for rank in ranks:
        longer = np.zeros(len(flips) + rank)
        longer[: len(flips)] += flips / 2
        longer[rank:] += flips / 2
        flips = longer
    positive = int(ranks[values[values != 0] > 0].sum())
    return float(flips[positive:].sum())


def _one_sided(values: np.ndarray, test: Test, alternative: str) -> float:
    """Return the p value of H1: the centre of `values` is greater (less) than 0."""
    if np.all(values == values[0]):
        favours = values[0] > 0 if alternative == "greater" else values[0] < 0
        return 2.0 ** -len(values) if favours else 1.0
    if test == "wilcoxon":
        return signed_rank_p(values if alternative == "greater" else -values)
    result: Any = stats.ttest_1samp(values, 0, alternative=alternative)
    return float(result.pvalue)


def p_values(
    effects: Sequence[float] | np.ndarray, delta: float, test: Test
) -> tuple[float, float]:
    """Return p_sup and p_ref, unadjusted."""
    values = np.asarray(effects, float)
    if test == "tail":
        drawn = tail_resamples(values)
        return _beyond(drawn <= 0), _beyond(drawn >= delta)
    if test == "bound":
        return (0.0, 1.0) if np.all(values <= delta) else (1.0, 0.0)
    if test == "band":
        return float(values.mean() < BAND[1]), float(values.mean() > BAND[0])
    if test == "share":
        failed, n = int(values.sum()), len(values)
        below = stats.binomtest(failed, n, delta, alternative="less").pvalue
        above = stats.binomtest(failed, n, delta, alternative="greater").pvalue
        return float(below), float(above)
    if test == "mcnemar":
        plus, discordant = int(np.sum(values > 0)), int(np.sum(values != 0))
        if not discordant:
            return 1.0, 1.0
        more = stats.binomtest(plus, discordant, 0.5, alternative="greater").pvalue
        fewer = stats.binomtest(plus, discordant, 0.5, alternative="less").pvalue
        return float(more), float(fewer)
    return _one_sided(values, test, "greater"), _one_sided(values - delta, test, "less")


def tail_resamples(pairs: np.ndarray) -> np.ndarray:
    """Return the difference of the columns' 90th percentiles in resamples of the rows [n, 2]."""
    picks = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    first, second = np.moveaxis(np.percentile(pairs[picks], TAIL, axis=1), 1, 0)
    return first - second


def _beyond(is_beyond: np.ndarray) -> float:
    """Return the p value of a bootstrap: a share that is never 0."""
    return float((1 + is_beyond.sum()) / (1 + len(is_beyond)))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the t interval of the mean; (nan, nan) for fewer than 2 values."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, half = float(np.mean(values)), float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    half *= float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return low, high and coverage of the order-statistic interval of the median.

    The narrowest symmetric pair whose coverage is at least `level`, or the whole range with what
    it covers where n is too small (n = 12: 3rd .. 10th value, 96 %).
    """
    ordered, n = sorted(values), len(values)
    if n < 2:
        return math.nan, math.nan, 0.0
    for k in range(n // 2, 0, -1):
        coverage = 1 - 2 * float(stats.binom.cdf(k - 1, n, 0.5))
        if coverage >= level or k == 1:
            return ordered[k - 1], ordered[n - k], coverage
    raise AssertionError("unreachable: k reaches 1")


def share_interval(failed: int, n: int) -> tuple[float, float]:
    """Return the 95 % Clopper-Pearson interval of a share."""
    interval = stats.binomtest(failed, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def summarize(effects: Sequence[float], test: Test) -> tuple[float, tuple[float, float], float]:
    """Return centre (median, mean or share), the matching interval and its coverage."""
    values = list(effects)
    if test == "tail":
        pairs = np.asarray(values, float)
        first, second = np.percentile(pairs, TAIL, axis=0)
        low, high = np.percentile(tail_resamples(pairs), [2.5, 97.5])
        return float(first - second), (float(low), float(high)), 0.95
    if test == "bound":
        return max(values), (min(values), max(values)), 1.0
    if test == "share":
        return float(np.mean(values)), share_interval(int(sum(values)), len(values)), 0.95
    if test == "wilcoxon":
        low, high, coverage = median_interval(values)
        return median(values), (low, high), coverage
    return float(np.mean(values)), t_interval(values), 0.95


def median(values: Sequence[float]) -> float:
    """Return the median of values that may be infinite."""
    ordered, n = sorted(values), len(values)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    return low if low == high else (low + high) / 2


def word_of(p_sup: float, p_ref: float) -> str:
    if p_ref < LEVEL:
        return "refuted"
    return "supported" if p_sup < LEVEL else "inconclusive"


def n_enough(row: Row, rows: int) -> int | None:
    """Return the n at which effects distributed like these would decide against `rows` Holm steps.

    The measured distribution is taken as the truth: for each n, its n evenly spaced quantiles are
    tested; None where neither test falls below level / rows at SEARCH runs. Bisected, because an
    exact signed-rank test at n = 400 takes 0.3 s.
    """
    if row.test in ("tail", "bound", "band"):
        return None
    values = np.array(list(row.effects.values()))

    def is_decided(n: int) -> bool:
        places = (np.arange(n) + 0.5) / n
        repeated = np.quantile(values, places, method="inverted_cdf")
        return min(p_values(repeated, row.delta, row.test)) * rows < LEVEL

    low, high = len(values), SEARCH
    if not is_decided(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_decided(middle) else (middle, high)
    return high


def decide(rows: Sequence[Row]) -> list[Verdict]:
    """Return the verdict of every row of a study, Holm over all of its rows: one that is not at its
    planned n enters with p = 1, so that a verdict cannot fall when the others come in."""
    tested = [r for r in rows if len(r.effects) >= 2]
    raw = {id(r): p_values(list(r.effects.values()), r.delta, r.test) for r in tested}
    planned = {id(r) for r in tested if len(r.effects) == r.n}
    entered = [raw[id(r)] if id(r) in planned else (1.0, 1.0) for r in rows]
    sup, ref = (holm([p[i] for p in entered]) for i in (0, 1))
    verdicts = [
        _verdict(r, raw.get(id(r)), (s, f) if id(r) in planned else None, len(rows))
        for r, s, f in zip(rows, sup, ref, strict=True)
    ]
    words = {v.row.id: v.word for v in verdicts}
    return [_close_gate(v, words) for v in verdicts]


def _close_gate(verdict: Verdict, words: dict[str, str]) -> Verdict:
    """Take back a verdict whose gate is not supported."""
    gate = verdict.row.gate
    if verdict.row.closed and verdict.word not in ("no data", "exploratory"):
        return replace(
            verdict, word="not testable here", n_enough=None, notes=(verdict.row.closed,)
        )
    if not gate or verdict.word in ("no data", "exploratory") or words[gate] == "supported":
        return verdict
    note = f"its gate {gate} is {words[gate]}"
    return replace(verdict, word="not testable here", n_enough=None, notes=(note,))


def _verdict(row: Row, raw, adjusted, rows: int) -> Verdict:
    if len(row.effects) < 2:
        nothing = (math.nan, math.nan)
        return Verdict(row, "no data", math.nan, nothing, 0.0, 1.0, 1.0, len(row.effects))
    centre, interval, coverage = summarize(list(row.effects.values()), row.test)
    p_sup, p_ref = adjusted or raw
    word = word_of(p_sup, p_ref) if adjusted else "exploratory"
    enough = n_enough(row, rows) if word == "inconclusive" else None
    return Verdict(
        row, word, centre, interval, coverage, float(p_sup), float(p_ref), len(row.effects), enough
    )


def accuracy_row(
    *,
    better: dict[int, float],
    worse: dict[int, float],
    failed: Callable[[int], tuple[bool, bool]],
    **facts,
) -> Row:
    """Return a row whose effect is error `worse` - error `better` in points, paired by seed.

    If more than a quarter of either arm's runs failed, the row is decided by McNemar's test on
    "trained" instead: e = 1 where only `better` trained, -1 where only `worse` did.
    `failed(seed)` tells for (better, worse) whether the run failed.
    """
    seeds = sorted(better.keys() & worse.keys())
    flags = {s: failed(s) for s in seeds}
    shares = [np.mean([flags[s][i] for s in seeds]) if seeds else 0.0 for i in (0, 1)]
    if max(shares) > 0.25:
        effects = {s: float(flags[s][1]) - float(flags[s][0]) for s in seeds}
        facts |= {"unit": "trained", "remark": "decided by McNemar's test on trained"}
        return Row(effects=effects, test="mcnemar", **facts)
    return Row(effects={s: worse[s] - better[s] for s in seeds}, test="t", **facts)
