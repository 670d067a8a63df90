"""The rule: intervals, words, qualifiers, looks, replication; numbers by hand or from scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from normlab.studies.decisions import (
    Contrast,
    corrected_confidence,
    decide,
    jackknife_error,
    look_at,
    replication,
    stays,
    stops,
    word_of,
)
from normlab.studies.intervals import (
    AT_LEAST,
    AT_MOST,
    CONFIDENCE,
    DISCORDANT,
    MAX_ERROR,
    PAIRED_T,
    QUANTILE,
    Estimate,
    clopper_pearson,
    median_interval,
    t_estimate,
    t_interval,
)
from normlab.studies.units import POINTS

ROW = Contrast(
    id="A",
    claim="C",
    sentence="s",
    comparison="c",
    scope="net, data",
    effects={},
    unit=POINTS,
    sesoi=1.0,
    looks=(12,),
    estimator=PAIRED_T,
)


def row(values: Sequence[Any], **facts: Any) -> Contrast:
    return replace(ROW, effects=dict(enumerate(values)), **facts)


def spread(centre: float, sd: float = 1.0, n: int = 12) -> list[float]:
    """Return n distinct values with exactly this mean and SD, ascending."""
    values = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return (centre + sd * (values - values.mean()) / values.std(ddof=1)).tolist()


@pytest.mark.parametrize(
    "low, high, centre, sesoi, word",
    [
        (-2.0, -0.1, -1.0, 1.0, ("refuted", "reversed")),
        (-2.0, 0.0, -1.0, 1.0, ("refuted", "")),  # U = 0 is not below 0
        (-0.5, 0.9, 0.2, 1.0, ("refuted", "")),
        (0.1, 0.9, 0.5, 1.0, ("refuted", "small")),
        (0.0, 0.9, 0.5, 1.0, ("refuted", "")),
        (0.1, 1.0, 0.5, 1.0, ("open", "")),  # U = delta rules nothing out
        (0.1, 1.8, 0.9, 1.0, ("open", "")),  # surely above 0, but perhaps too small
        (-0.1, 2.5, 1.2, 1.0, ("open", "")),
        (0.0, 2.0, 1.0, 1.0, ("open", "")),  # L = 0 is not above 0
        (0.1, 1.9, 1.0, 1.0, ("supported", "")),
        (0.99, 2.0, 1.5, 1.0, ("supported", "")),
        (1.0, 2.0, 1.5, 1.0, ("supported", "at least delta")),
        (-2.0, -0.1, -1.0, 0.0, ("refuted", "reversed")),  # delta = 0: the sign alone
        (-1.0, 1.0, 0.0, 0.0, ("open", "")),
        (0.1, 1.0, 0.5, 0.0, ("supported", "at least delta")),
        (math.nan, math.nan, 1.0, 1.0, ("open", "")),
    ],
)
def test_one_interval_one_word(low, high, centre, sesoi, word):
    assert word_of(Estimate(centre, low, high), sesoi) == word


@pytest.mark.parametrize(
    "centre, low, high, word",
    [
        (0.5, 0.1, 0.9, "open"),
        (-1.0, -2.0, -0.5, "open"),
        (1.5, 0.5, 2.5, "supported"),
        (1.5, 1.2, 1.8, "supported"),
    ],
)
def test_a_lower_bound_can_support_but_not_refute(centre, low, high, word):
    assert word_of(Estimate(centre, low, high), 1.0, is_lower_bound=True)[0] == word


@pytest.mark.parametrize(
    "low, high, sesoi, is_enough",
    [
        (0.1, 1.9, 1.0, False),  # supported, half-width 0.9
        (0.8, 1.8, 1.0, False),  # supported, half-width 0.5: a mean of 1.3 may be chance
        (0.8, 1.3, 1.0, True),  # supported, half-width 0.25 = delta / 4
        (1.1, 4.0, 1.0, True),  # wide, but surely more than delta
        (-4.0, -0.1, 1.0, True),  # wide, but surely reversed
        (-3.0, 0.9, 1.0, False),  # refuted, too wide
        (-0.1, 0.9, 1.0, True),
        (0.5, 1.4, 1.0, False),  # open, however narrow
        (-2.0, -0.1, 0.0, True),
    ],
)
def test_when_no_more_seeds_are_needed(low, high, sesoi, is_enough):
    found = Estimate((low + high) / 2, low, high)
    word, _ = word_of(found, sesoi)
    assert stops(found, word, sesoi) == is_enough


def test_t_intervals_by_hand():
    found = t_estimate(np.array(spread(3.0, 2.0)))
    half = 3.105807 * 2 / math.sqrt(12)  # t(0.995, 11)
    assert (found.centre, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-6)
    assert found.half_width == pytest.approx(half, rel=1e-6)
    low, high = t_interval(spread(3.0, 2.0))
    half = 2.200985 * 2 / math.sqrt(12)  # t(0.975, 11)
    assert (low, high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert CONFIDENCE == 0.99 and math.isnan(t_estimate(np.array([1.0])).low)
    assert all(map(math.isnan, t_interval([1.0])))


def test_a_larger_standard_error_widens_and_a_smaller_one_does_not_narrow():
    values = np.array(spread(0.0, 1.0, n=16))  # standard error 1/4
    plain = t_estimate(values)
    assert t_estimate(values, error=0.5).half_width == pytest.approx(2 * plain.half_width)
    assert t_estimate(values, error=0.1) == plain


@pytest.mark.parametrize("successes, n", [(0, 80), (3, 80), (80, 80), (1, 2)])
def test_clopper_pearson_by_its_tails(successes, n):
    low, high = clopper_pearson(successes, n)
    tail = (1 - CONFIDENCE) / 2
    assert (
        low == 0 if successes == 0 else stats.binom.sf(successes - 1, n, low) == pytest.approx(tail)
    )
    assert (
        high == 1 if successes == n else stats.binom.cdf(successes, n, high) == pytest.approx(tail)
    )


def test_pairs_in_which_both_or_neither_trained_say_nothing():
    values = np.array([1.0] * 9 + [-1.0] + [0.0] * 2)
    found = DISCORDANT.estimate(values)
    low, high = clopper_pearson(9, 10)
    assert (found.centre, found.low, found.high) == pytest.approx((0.8, 2 * low - 1, 2 * high - 1))
    assert DISCORDANT.estimate(np.zeros(5)) == Estimate(0.0, -1.0, 1.0)
    assert decide([row([1.0] * 12, estimator=DISCORDANT, sesoi=0.0)]).word == "supported"
    assert decide([row([-1.0] * 12, estimator=DISCORDANT, sesoi=0.0)]).word == "refuted"
    assert decide([row([1.0, -1.0] * 6, estimator=DISCORDANT, sesoi=0.0)]).word == "open"


def test_tails_are_compared_by_a_paired_bootstrap():
    rng = np.random.default_rng(1)
    luck = rng.normal(size=50)
    shifted = QUANTILE.estimate(np.stack([luck + 1.0, luck], axis=1))
    assert (shifted.centre, *shifted.interval) == pytest.approx((1.0, 1.0, 1.0))
    unlucky = np.stack([luck + 5 * (np.arange(50) % 5 == 0), luck], axis=1)  # a fifth got stuck
    found = QUANTILE.estimate(unlucky)
    expected = np.percentile(unlucky[:, 0], 90) - np.percentile(unlucky[:, 1], 90)
    assert found.centre == pytest.approx(expected) and 0 < found.low < expected < found.high
    apart = QUANTILE.estimate(np.stack([luck, rng.permutation(luck)], axis=1))
    assert apart.low < 0 < apart.high
    again = np.random.default_rng(2).integers(50, size=(3000, 50))
    first, second = np.moveaxis(np.percentile(unlucky[again], 90, axis=1), 1, 0)
    inside = np.mean((first - second >= found.low) & (first - second <= found.high))
    assert 0.984 < inside < 0.996  # of resamples that are not its own
    verdict = decide([row([*map(tuple, unlucky)], estimator=QUANTILE, sesoi=0.3, looks=(50,))])
    assert verdict.word == "supported" and 0.5 < verdict.replication < 0.95


@pytest.mark.parametrize(
    "n, low, high, coverage",
    [
        (12, 3, 10, 0.9614),
        (8, 1, 8, 0.9922),
        (20, 6, 15, 0.9586),
        (5, 1, 5, 0.9375),  # too few for 95 %: the whole range, and what it covers
        (2, 1, 2, 0.5),
    ],
)
def test_median_interval(n, low, high, coverage):
    values = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert median_interval(list(values)) == pytest.approx((low, high, coverage), abs=1e-4)


def test_median_with_infinities():
    assert median_interval([1.0] * 9 + [math.inf] * 3)[:2] == (1.0, math.inf)
    assert all(map(math.isnan, median_interval([1.0])[:2]))


@pytest.mark.parametrize(
    "estimator, values, sesoi, word",
    [
        (AT_MOST, [0.0] * 160, 0.05, "supported"),
        (AT_MOST, [0.0] * 80, 0.05, "open"),  # 0 of 80 leaves up to 6.4 %
        (AT_MOST, [1.0] * 40 + [0.0] * 40, 0.05, "refuted"),
        (AT_MOST, [1.0] * 4 + [0.0] * 76, 0.05, "open"),
        (AT_LEAST, [0.97, 0.98, 0.97, 0.98], 0.95, "supported"),
        (AT_LEAST, [0.9, 0.99, 0.9, 0.99], 0.95, "open"),
        (AT_LEAST, [0.5, 0.4, 0.6, 0.5], 0.95, "refuted"),
        (MAX_ERROR, [1e-5, 9e-5, 2e-5], 1e-4, "supported"),
        (MAX_ERROR, [1e-5, 2e-4, 1e-5], 1e-4, "refuted"),
        (MAX_ERROR, [1e-5, 1e-4, 1e-5], 1e-4, "supported"),  # a limit that is touched is kept
        (AT_LEAST, [0.95] * 4, 0.95, "supported"),
        (AT_MOST, [0.0] * 80, clopper_pearson(0, 80)[1], "supported"),
        (AT_MOST, [1.0] * 40 + [0.0] * 40, clopper_pearson(40, 80)[0], "open"),
    ],
)
def test_limits_have_a_right_side(estimator, values, sesoi, word):
    contrast = row(values, estimator=estimator, sesoi=sesoi, looks=(len(values),))
    verdict = decide([contrast])
    assert (verdict.word, verdict.qualifier) == (word, "")
    assert not estimator.is_difference


def test_a_resample_that_touches_the_limit_keeps_it():
    """Of three values the largest, in 70 % of the resamples, is the limit."""
    found = row([1e-5, 1e-4, 2e-5], estimator=MAX_ERROR, sesoi=1e-4, looks=(3,))
    assert decide([found]).replication == 1.0


def test_every_interval_can_have_another_confidence():
    """Exact tails, t quantiles, and a bootstrap that keeps its centre."""
    tail, shares = 0.0005, [0.9, 0.8, 0.85, 0.8]
    assert AT_MOST.estimate(np.zeros(80), 0.999).high == pytest.approx(1 - tail ** (1 / 80))
    assert DISCORDANT.estimate(np.ones(12), 0.999).low == pytest.approx(2 * tail ** (1 / 12) - 1)
    least = AT_LEAST.estimate(np.array(shares), 0.9)
    error = np.std(shares, ddof=1) / 2
    assert least.half_width == pytest.approx(stats.t.ppf(0.95, 3) * error)
    pairs = np.random.default_rng(0).normal(size=(50, 2))
    narrow, wide = QUANTILE.estimate(pairs, 0.5), QUANTILE.estimate(pairs, 0.999)
    assert wide.low < narrow.low < narrow.high < wide.high and narrow.centre == wide.centre
    assert MAX_ERROR.estimate(np.array([1.0, 2.0]), 0.999) == Estimate(2.0, 2.0, 2.0)


def test_a_word_stays_or_becomes_open_where_there_are_more_tests():
    """t(0.995, 11) = 3.106 and t(1 - 0.005 / 10, 11) = 4.437, of a standard error of 1 that the
    jackknife finds too."""
    values = dict(enumerate(spread(4.0, math.sqrt(12))))
    redraw: Any = lambda seeds: np.array([values[s] for s in seeds])  # noqa: E731
    for facts in ({}, {"redraw": redraw}):
        contrast = row([*values.values()], **facts)
        assert contrast.estimate(corrected_confidence(10)).low == pytest.approx(-0.437, abs=1e-3)
        verdict = decide([contrast])
        assert verdict.word == "supported" and stays(verdict, 1) and not stays(verdict, 10)
    kept = decide([row([1e-5, 1e-4], estimator=MAX_ERROR, sesoi=1e-4, looks=(2,))])
    assert kept.word == "supported" and stays(kept, 1000)


def test_a_share_ends_at_1_and_is_printed_as_measured():
    found = AT_LEAST.estimate(np.array([0.9, 1.0, 1.0, 1.0]))
    assert found.centre == pytest.approx(0.975) and found.high == 1.0 and found.low < 0.95


@pytest.mark.parametrize(
    "values, word, qualifier",
    [
        (spread(3.0), "supported", "at least delta"),
        (spread(1.1, 1.0), "supported", ""),
        (spread(-1.0, 0.5), "refuted", "reversed"),
        (spread(0.0, 0.3), "refuted", ""),
        (spread(0.5, 0.3), "refuted", "small"),
        (spread(0.9, 0.3), "open", ""),  # surely above 0, the centre below delta
        (spread(0.5, 1.5), "open", ""),
        ([2.0] * 12, "supported", "at least delta"),  # no spread: the interval is a point
        ([0.0] * 12, "refuted", ""),
    ],
)
def test_words_of_effects(values, word, qualifier):
    verdict = decide([row(values)])
    assert (verdict.word, verdict.qualifier, verdict.n) == (word, qualifier, 12)
    assert verdict.is_decided and [look.n for look in verdict.path] == [12]


@pytest.mark.parametrize(
    "n, missed, word",
    [(0, 0, "not run"), (1, 0, "not run"), (0, 12, "not measured"), (1, 11, "not measured")]
    + [(0, 5, "not run"), (1, 4, "not run")]
    + [(n, 0, "exploratory") for n in (2, 11, 13)]
    + [(10, 2, "supported"), (10, 0, "exploratory")],
)
def test_n_is_the_number_of_seeds_with_runs(n, missed, word):
    values = spread(3.0, n=n) if n > 1 else [1.0] * n
    verdict = decide([row(values, not_measured=missed)])
    assert (verdict.word, verdict.n) == (word, n + missed)
    assert verdict.qualifier == ("at least delta" if word == "supported" else "")
    assert math.isnan(verdict.replication) == (word != "supported")


def test_runs_that_cannot_test_the_sentence_say_why():
    verdict = decide([row(spread(3.0), unmet="the noise moves nothing")])
    assert (verdict.word, verdict.notes) == ("not testable here", ("the noise moves nothing",))
    assert not verdict.is_decided and math.isnan(verdict.estimate.centre)


def test_the_last_look_decides_and_the_others_are_kept():
    looks = (12, 24)
    first = row(spread(0.9, 2.0), looks=looks)
    second = row(spread(2.0, 0.5, n=24), looks=looks)
    verdict = decide([first, second])
    assert [(look.n, look.word) for look in verdict.path] == [(12, "open"), (24, "supported")]
    assert verdict.word == "supported" and verdict.estimate == look_at(second)[0].estimate


def test_the_jackknife_leaves_out_one_seed_at_a_time():
    values = {s: float(v) for s, v in enumerate((1.0, 4.0, 2.0, 7.0, 3.0))}

    def plain(seeds: Sequence[int]) -> np.ndarray:
        return np.array([values[s] for s in seeds])

    sd = np.std([*values.values()], ddof=1)
    assert jackknife_error(plain, [*values]) == pytest.approx(sd / math.sqrt(5))
    assert jackknife_error(plain, [0, 1]) == 0.0


def test_a_choice_that_one_seed_turns_widens_the_interval():
    """Without seed 0 another rate is chosen, at which all effects are 5 higher."""
    values = dict(enumerate(spread(1.0, 0.2)))

    def redraw(seeds: Sequence[int]) -> np.ndarray:
        return np.array([values[s] for s in seeds]) + (0.0 if 0 in seeds else 5.0)

    seeds = [*values]
    means = [redraw([s for s in seeds if s != out]).mean() for out in seeds]
    error = math.sqrt(11 / 12 * np.sum((np.array(means) - np.mean(means)) ** 2))
    found = row([*values.values()], redraw=redraw).estimate()
    assert error > 1.4 and found.centre == pytest.approx(1.0)
    assert found.half_width == pytest.approx(stats.t.ppf(0.995, 11) * error)
    assert decide([row([*values.values()])]).word == "supported"
    assert decide([row([*values.values()], redraw=redraw)]).word == "open"


@pytest.mark.parametrize(
    "values, low, high",
    [
        (spread(4.0, 0.5), 1.0, 1.0),
        (spread(-4.0, 0.5), 1.0, 1.0),
        (spread(1.0, 0.5), 0.3, 0.7),  # supported where the centre is at least delta
    ],
)
def test_replication_is_sure_far_from_delta_and_a_coin_at_it(values, low, high):
    contrast = row(values)
    found = replication(contrast)
    assert low <= found <= high and found == replication(contrast)
    assert decide([contrast]).is_borderline == (found < 0.95)


def test_replication_chooses_rates_again():
    """Resamples without seed 0, a third of them, choose a rate with the opposite effect."""
    values = dict(enumerate(spread(3.0, 0.3)))

    def redraw(seeds: Sequence[int]) -> np.ndarray:
        sign = 1.0 if 0 in seeds or len(set(seeds)) == 11 else -1.0
        return sign * np.array([values[s] for s in seeds])

    found = replication(row([*values.values()], redraw=redraw))
    assert 0.55 < found < 0.75  # seed 0 is in 1 - (11/12)^12 = 65 % of the resamples


def test_resamples_have_intervals_as_wide_as_the_jackknife_asks_for():
    """Their own spread would make nearly all of them supported; the sample is open."""
    values = dict(enumerate(spread(1.5, 0.2)))

    def redraw(seeds: Sequence[int]) -> np.ndarray:
        turned = len(seeds) == 11 and 0 not in seeds
        return np.array([values[s] for s in seeds]) + 5.0 * turned

    contrast = row([*values.values()], redraw=redraw)
    assert look_at(contrast)[0].word == "open" and replication(contrast) > 0.95
    assert replication(row([*values.values()])) == 1.0  # supported, without the jackknife


def test_the_word_is_a_function_of_the_interval_and_delta_alone():
    """Two contrasts with the same interval have the same word, whatever else they are."""
    values = spread(1.4, 0.6)
    same = [
        row(values),
        row(values[::-1], id="B", claim="D", looks=(12, 24, 96)),
        row(values, remark="x", setup="y", not_measured=0),
    ]
    found = {(v.word, v.qualifier, v.estimate.low) for v in map(decide, zip(same, strict=True))}
    assert len({(word, qualifier) for word, qualifier, _ in found}) == 1
    for word, other in itertools.product([look_at(c)[0].word for c in same], repeat=2):
        assert word == other
