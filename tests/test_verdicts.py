"""The rule: adjusted p values, intervals, words, gates, limits; numbers by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from normlab.studies.hypothesis_tests import (
    MAX_ERROR,
    MCNEMAR,
    PAIRED_T,
    PROPORTION,
    QUANTILE,
    SIGNED_RANK,
    THRESHOLDS,
    median_interval,
    t_interval,
)
from scipy import stats

from normlab.report.model import explained
from normlab.runs.record import Record
from normlab.settings import defaults
from normlab.studies.decisions import LEVEL, Contrast, decide, holm, n_enough, word_of
from normlab.studies.effects import Measured, paired_errors
from normlab.studies.units import POINTS, TRAINED

INF = math.inf
ROW = Contrast(
    id="A",
    claim="C",
    sentence="s",
    comparison="c",
    scope="net, data",
    effects={},
    unit=POINTS,
    sesoi=1.0,
    n=12,
    test=PAIRED_T,
)


def row(values, **facts) -> Contrast:
    return replace(ROW, effects=dict(enumerate(map(float, values))), **facts)


def spread(centre: float, sd: float = 1.0, n: int = 12) -> list[float]:
    """Return n distinct values with exactly this mean and SD, ascending."""
    values = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return (centre + sd * (values - values.mean()) / values.std(ddof=1)).tolist()


def wilcoxon(values, alternative, zeros="pratt"):
    """The signed-rank test by enumeration of all sign patterns."""
    values = np.asarray(values) if alternative == "greater" else -np.asarray(values)
    if zeros == "wilcox":
        values = values[values != 0]
    ranks = stats.rankdata(np.abs(values))[values != 0]
    patterns = np.array(list(itertools.product((0, 1), repeat=len(ranks))))
    observed = ranks[values[values != 0] > 0].sum()
    return pytest.approx(np.mean(patterns @ ranks >= observed - 1e-9), rel=1e-9)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    np.testing.assert_allclose(holm([0.011, 0.01, 0.02, 0.5]), [0.04, 0.04, 0.04, 0.5])
    assert holm([]).size == 0 and holm([0.02]) == [0.02]


def test_t_by_hand():
    """t = 0.4 / (1 / sqrt 12) with 11 degrees of freedom, and 0.6 below the effect of interest."""
    p_sup, p_ref = PAIRED_T.p_values(spread(0.4), 1.0)
    assert p_sup == pytest.approx(stats.t.sf(0.4 * math.sqrt(12), 11))
    assert p_ref == pytest.approx(stats.t.cdf(-0.6 * math.sqrt(12), 11))


def test_wilcoxon_is_scipys_with_pratt_zeros():
    values = [0.0, 0.0, 0.3, -0.1, 0.5, 0.25, 0.8, 0.0, 1.0, 0.45, -0.2, 0.6, 0.7, 0.9]
    p_sup, p_ref = SIGNED_RANK.p_values(values, 0.3)
    assert p_sup == wilcoxon(values, "greater")
    assert p_sup != wilcoxon(values, "greater", "wilcox")
    assert p_ref == wilcoxon([e - 0.3 for e in values], "less")


def test_infinities_rank_highest():
    finite = [0.5, 0.4, 0.3, -0.1, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    p_sup, p_ref = SIGNED_RANK.p_values([*finite, INF, INF, -INF], 0.32)
    far = [1e6, 1e6, -1e6]
    assert p_sup == wilcoxon([*finite, *far], "greater")
    assert p_ref == wilcoxon([*(e - 0.32 for e in finite), *far], "less")
    assert SIGNED_RANK.p_values([INF] * 12, 0.32) == (2.0**-12, 1.0)
    assert SIGNED_RANK.p_values([-INF] * 12, 0.32) == (1.0, 2.0**-12)


@pytest.mark.parametrize("test", [PAIRED_T, SIGNED_RANK], ids=lambda t: t.name)
def test_equal_effects_are_decided_by_their_sign(test):
    assert test.p_values([2.0] * 12, 1.0) == (2.0**-12, 1.0)
    assert test.p_values([0.5] * 12, 1.0) == (2.0**-12, 2.0**-12)
    assert test.p_values([0.0] * 12, 1.0) == (1.0, 2.0**-12)
    assert test.p_values([1.0] * 12, 1.0) == (2.0**-12, 1.0)


@pytest.mark.parametrize(
    "test, values, sesoi, side, p",
    [
        (PROPORTION, [0.0] * 80, 0.05, 0, 0.95**80),
        (PROPORTION, [1.0] * 80, 0.05, 1, 0.05**80),
        (MCNEMAR, [1.0] * 9 + [-1.0] + [0.0] * 2, 1.0, 0, 11 / 2**10),  # discordant pairs alone
        (MCNEMAR, [0.0] * 12, 1.0, 0, 1.0),
        (MCNEMAR, [0.0] * 12, 1.0, 1, 1.0),
    ],
)
def test_counts_have_exact_binomial_tests(test, values, sesoi, side, p):
    assert test.p_values(values, sesoi)[side] == pytest.approx(p)


def test_t_interval_by_hand():
    low, high = t_interval(spread(3.0, 2.0))
    half = 2.200985 * 2 / math.sqrt(12)
    assert (low, high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert all(map(math.isnan, t_interval([1.0])))


@pytest.mark.parametrize(
    "n, low, high, coverage",
    [
        (12, 3, 10, 0.9614),
        (8, 1, 8, 0.9922),
        (20, 6, 15, 0.9586),
        (6, 1, 6, 0.96875),
        (5, 1, 5, 0.9375),  # too few for 95 %: the whole range, and what it covers
        (2, 1, 2, 0.5),
    ],
)
def test_median_interval(n, low, high, coverage):
    values = np.random.default_rng(0).permutation(np.arange(1, n + 1))
    assert median_interval(list(values)) == pytest.approx((low, high, coverage), abs=1e-4)


def test_median_with_infinities():
    assert SIGNED_RANK.summarize([1.0, INF, INF])[0] == SIGNED_RANK.summarize([INF, INF])[0] == INF
    assert SIGNED_RANK.summarize([1.0, 2.0, 3.0, INF])[0] == 2.5
    assert median_interval([1.0] * 9 + [INF] * 3)[:2] == (1.0, INF)


def test_clopper_pearson_by_hand():
    (centre, (low, high), coverage) = PROPORTION.summarize([0.0] * 80)
    assert (centre, low, coverage) == (0, 0, 0.95) and high == pytest.approx(1 - 0.025 ** (1 / 80))
    low, high = PROPORTION.summarize([1.0] * 80)[1]
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 80))
    centre, (low, high), _ = PROPORTION.summarize([1.0] * 3 + [0.0] * 77)
    assert centre == 3 / 80  # and roots of the two binomial tails
    assert stats.binom.sf(2, 80, low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 80, high) == pytest.approx(0.025)


def test_summaries_suit_the_test():
    values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 26.0]
    assert PAIRED_T.summarize(values)[0] == 6.75
    assert SIGNED_RANK.summarize(values)[:2] == (5.5, (2.0, 9.0))


@pytest.mark.parametrize(
    "p_sup, p_ref, word",
    [
        (0.001, 0.9, "supported"),
        (0.9, 0.001, "refuted"),
        (0.001, 0.001, "refuted"),
        (0.9, 0.9, "inconclusive"),
        (0.025, 0.025, "inconclusive"),
        (0.0249, 0.025, "supported"),
    ],
)
def test_words(p_sup, p_ref, word):
    assert word_of(p_sup, p_ref) == word and LEVEL == 0.025


@pytest.mark.parametrize("test", [PAIRED_T, SIGNED_RANK], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "values, word",
    [
        (spread(3.0), "supported"),
        (spread(-1.0), "refuted"),
        (spread(0.0, 0.3), "refuted"),
        (spread(0.2, 0.1), "refuted"),  # though a tiny positive effect is certain
        (spread(0.5, 1.5), "inconclusive"),
        (spread(0.9, 0.3), "supported"),  # below delta, but not clearly
    ],
)
def test_words_of_effects(values, word, test):
    (verdict,) = decide([row(values, test=test)])
    assert verdict.word == word and verdict.n == 12
    assert (verdict.n_enough is None) == (word != "inconclusive")


@pytest.mark.parametrize(
    "n, word", [(0, "no data"), (1, "no data"), *((n, "exploratory") for n in (2, 11, 13))]
)
def test_a_contrast_at_another_n_has_no_verdict_and_counts_in_holm_all_the_same(n, word):
    other, full = decide([row(spread(3.0, n=n) if n > 1 else [1.0] * n), row(spread(0.8), id="B")])
    assert (other.word, full.word) == (word, "supported")
    assert other.n == n and other.n_enough is None
    alone = decide([row(spread(0.8))])[0].p_above_zero
    assert full.p_above_zero == pytest.approx(2 * alone)


@pytest.mark.parametrize(
    "gate, n, word",
    [
        (spread(3.0), 12, "supported"),
        (spread(-3.0), 12, "not testable here"),
        (spread(0.5, 3.0), 12, "not testable here"),
        (spread(3.0, n=5), 12, "not testable here"),
        ([], 12, "not testable here"),
        (spread(-3.0), 4, "exploratory"),  # a closed gate does not hide that n differs
    ],
)
def test_gates(gate, n, word):
    gated = row(spread(3.0, n=n), id="B", prerequisite="gate")
    first, second = decide([row(gate, id="gate"), gated])
    note = f"its gate gate is {first.word}"
    assert second.word == word
    assert second.notes == ((note,) if word == "not testable here" else ())


@pytest.mark.parametrize(
    "failed, word",
    [(0, "supported"), (1, "inconclusive"), (3, "inconclusive"), (12, "refuted"), (80, "refuted")],
)
def test_shares(failed, word):
    """C2r: of 80 runs, none may fail for "without risk"; 9 and more refute it."""
    values = [1] * failed + [0] * (80 - failed)
    (verdict,) = decide([row(values, test=PROPORTION, sesoi=0.05, n=80)])
    assert verdict.word == word and verdict.effect == failed / 80
    low, high = verdict.interval
    assert (low <= 0.05 <= high) == (word == "inconclusive")


def errors(points: Sequence[float], failed: int = 0) -> dict[int, Record]:
    """Return runs with these test errors, of which the first ones failed."""
    finals = [
        {"validation_accuracy": 0.1 if s < failed else 0.9, "test_accuracy": 1 - p / 100}
        for s, p in enumerate(points)
    ]
    return {s: Record("id", defaults(), "trained", final, []) for s, final in enumerate(finals)}


def compared(worse: dict[int, Record], better: dict[int, Record]) -> Measured:
    return paired_errors((s, (worse[s], better[s])) for s in worse.keys() & better.keys())


def test_errors_are_paired_by_seed():
    found = compared(errors([4.0, 4.0]), errors([1.0, 2.0, 3.0]))
    assert found.effects == pytest.approx({0: 3.0, 1: 2.0}) and found.test is None
    assert compared({}, {}).effects == {}


@pytest.mark.parametrize("arm, sign", [(0, 1.0), (1, -1.0)])
def test_many_failures_are_decided_by_mcnemar(arm, sign):
    quarter, more = (
        compared(*(errors([2.0 - i] * 12, n if i == arm else 0) for i in (0, 1))) for n in (3, 4)
    )
    assert quarter.test is None and quarter.effects[11] == pytest.approx(1.0)
    assert more.test is MCNEMAR and more.unit is TRAINED and "McNemar" in more.remark
    assert more.effects == {s: sign * (s < 4) for s in range(12)}
    all_failed = replace(ROW, effects=more.effects | dict.fromkeys(range(12), sign), test=MCNEMAR)
    assert decide([all_failed])[0].word == ("supported" if arm == 0 else "refuted")


def test_n_enough_decides_and_one_fewer_does_not():
    values = np.random.default_rng(0).permutation(spread(0.45, 1.5))
    inconclusive = row(values)
    assert decide([inconclusive])[0].word == "inconclusive"
    enough = n_enough(inconclusive, 1)
    # 2 SE = the distance to 0.45, or to delta: about (2 x 1.5 / 0.55)^2 = 30
    assert enough is not None and 15 <= enough <= 60
    assert enough == n_enough(row(sorted(values)), 1)  # whatever the order of the seeds
    more_rows = n_enough(inconclusive, 6)
    assert more_rows is not None and more_rows > enough


def test_n_enough_gives_up_where_it_takes_too_many():
    assert n_enough(row(spread(0.5, 50.0)), 1) is None


def test_tails_are_compared_by_a_paired_bootstrap():
    rng = np.random.default_rng(1)
    luck = rng.normal(size=30)
    pairs: Any = np.stack([luck + 1.0, luck], axis=1)
    centre, (low, high), _ = QUANTILE.summarize(pairs)
    expected = np.percentile(pairs[:, 0], 90) - np.percentile(pairs[:, 1], 90)
    assert centre == pytest.approx(expected) and low == pytest.approx(1.0) == high
    p_sup, p_ref = QUANTILE.p_values(pairs, 0.3)
    assert p_sup == pytest.approx(1 / 10_001) and p_ref == pytest.approx(1.0)
    alike = np.stack([luck, luck], axis=1)
    assert QUANTILE.p_values(alike, 0.3) == pytest.approx((1.0, 1 / 10_001))
    apart = np.stack([luck, rng.permutation(luck)], axis=1)
    assert min(QUANTILE.p_values(apart, 0.0)) > 0.1
    effects = dict(enumerate(map(tuple, apart)))
    (verdict,) = decide([replace(ROW, test=QUANTILE, effects=effects, sesoi=0.3, n=30)])
    assert verdict.word == "inconclusive" and verdict.n_enough is None
    unlucky = np.stack([luck + 5 * (np.arange(30) % 5 == 0), luck], axis=1)  # a fifth got stuck
    assert QUANTILE.p_values(unlucky, 0.3)[0] < 0.01


@pytest.mark.parametrize(
    "test, values, delta, word",
    [
        (MAX_ERROR, (1e-5, 9e-5, 1e-4), 1e-4, "supported"),
        (MAX_ERROR, (1e-5, 2e-4, 1e-5), 1e-4, "refuted"),
        (THRESHOLDS, (0.97, 0.96, 0.94), 0.95, "supported"),
        (THRESHOLDS, (0.9, 0.9, 0.97), 0.95, "inconclusive"),
        (THRESHOLDS, (0.5, 0.4, 0.6), 0.95, "refuted"),
    ],
)
def test_limits_decide_without_p_values(test, values, delta, word):
    row = replace(ROW, test=test, effects=dict(enumerate(values)), sesoi=delta, n=3)
    changes = ({}, {"n": 4}, {"unmet": "nothing to repair"})
    planned, other_n, closed = (decide([replace(row, **change)])[0] for change in changes)
    assert (planned.word, planned.n_enough, other_n.word) == (word, None, "exploratory")
    assert (closed.word, closed.notes) == ("not testable here", ("nothing to repair",))


@pytest.mark.parametrize(
    "is_complete, best, word",
    [
        (True, {"none": -math.inf}, "not testable here"),
        (False, {"none": -math.inf}, "no data"),
        (True, {}, "no data"),
    ],
)
def test_a_row_says_when_what_it_asks_for_cannot_be(is_complete, best, word):
    follow = SimpleNamespace(name="ten times", rate_of="none")
    setup = SimpleNamespace(follows=(follow,))
    e: Any = SimpleNamespace(setup=setup, follows={}, best=best, is_complete=is_complete)
    (verdict,) = decide([replace(ROW, test=PROPORTION, setup="s")])
    found = explained(verdict, {"s": e})
    assert found.word == word
    assert word == "no data" or "none reaches the target at no rate" in found.notes[0]
    assert explained(verdict, {}).word == "no data"
