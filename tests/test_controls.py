"""The controls of the rule: the rule passes them, and a broken rule does not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from benchmarks.validation import calibration
from benchmarks.validation.calibration import Metric, Noise, Positive, Result, Share
from normlab.studies import decisions
from normlab.studies.decisions import Contrast, decide
from normlab.studies.hypothesis_tests import TESTS
from normlab.studies.units import PLAIN

T, WILCOXON = Noise("normal", "t"), Noise("normal", "wilcoxon")


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    monkeypatch.setattr(decisions, "SEARCH", calibration.N)


def judge(contrasts: Sequence[calibration.Contrast]) -> list[str]:
    """What the rule says of the rows of one study."""
    rows = [
        Contrast("", "", "", "", "", effects, PLAIN, c.delta, calibration.N, TESTS[c.test])
        for c in contrasts
        for effects in [dict(enumerate(c.effects))]
    ]
    return [verdict.word for verdict in decide(rows)]


def always(word: str) -> calibration.Judge:
    return lambda contrasts: [word] * len(contrasts)


def by_sign(contrasts: Sequence[calibration.Contrast]) -> list[str]:
    """A rule that takes any mean above 0 for support."""
    return ["supported" if np.mean(c.effects) > 0 else "refuted" for c in contrasts]


def metric(
    values: Sequence[float], differences: Sequence[float] = (), test: calibration.Test = "t"
) -> Metric:
    return Metric("figure", "points", test, 0.5, values, lambda a, b: a - b, differences)


def runs(seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(3, 1, calibration.RUNS))


def test_pairs_are_of_different_runs():
    values = list(range(30))
    pairs = calibration.disjoint(values, np.random.default_rng(0))
    assert len(pairs) == calibration.N
    assert len({run for pair in pairs for run in pair}) == 2 * calibration.N
    with pytest.raises(ValueError):
        calibration.disjoint(values[: 2 * calibration.N - 1], np.random.default_rng(0))


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_one_arm_against_itself_is_rarely_supported(test):
    words = calibration.null(metric(runs(), test=test), judge, draws=200)
    assert words.total() == 200
    assert words["supported"] <= 0.05 * 200
    assert calibration.null(metric(runs()), by_sign, draws=200)["supported"] > 60


def test_the_null_holds_or_fails():
    held, failed = (calibration.null_results([metric(runs())], j)[0] for j in (judge, by_sign))
    assert (held.holds, failed.holds) == (True, False)
    assert failed.line[-1] == "**fail**"


def test_planted_effects_are_found_as_often_as_calculated():
    supported, refuted = calibration.both(T, judge, repetitions=200)
    for share in (supported, refuted):
        low, high = stats.binom.interval(0.999, share.of, calibration.t_power(calibration.SIZE))
        assert low <= share.times <= high
    assert calibration.t_power(calibration.SIZE) == pytest.approx(0.8, abs=0.02)


def test_planted_words_are_counted_for_the_truth_they_belong_to():
    def knows(contrasts: Sequence[calibration.Contrast]) -> list[str]:
        return ["supported" if np.mean(c.effects) > c.delta / 2 else "refuted" for c in contrasts]

    words = calibration.planted(T, [True, False, False], knows, size=30, repetitions=10)
    assert words == {(True, "supported"): 10, (False, "refuted"): 20}
    shares = calibration.both(T, always("supported"), repetitions=10)
    assert [share.times for share in shares] == [10, 0]


def test_holm_makes_each_of_several_rows_rarer():
    truth = [True, False, False, False]
    words = calibration.planted(T, truth, judge, repetitions=200)
    strict = stats.t.ppf(1 - decisions.LEVEL / 4, calibration.N - 1)
    low, high = stats.binom.interval(
        0.999, 200, stats.nct.sf(strict, calibration.N - 1, calibration.SIZE)
    )
    assert low <= words[True, "supported"] <= high < 200 * 0.72


def test_what_a_test_needs_is_the_smallest_size_that_is_often_enough(monkeypatch):
    def from_four(contrasts: Sequence[calibration.Contrast]) -> list[str]:
        """A rule that sees sizes from 3.45 on."""
        (row,) = contrasts
        middle = np.mean(row.effects) > row.delta / 2
        is_seen = row.delta * math.sqrt(calibration.N) > 3.45
        return ["inconclusive" if not is_seen else "supported" if middle else "refuted"]

    assert calibration.needed(T, from_four, repetitions=50) == pytest.approx(3.5)
    assert math.isnan(calibration.needed(T, always("supported"), repetitions=2))


def test_noise_has_no_effect_and_the_spread_of_the_differences():
    differences = [*np.random.default_rng(0).exponential(2, 60), math.inf]
    for test in ("t", "wilcoxon"):
        noise = calibration.noise_of(metric([], differences, test))
        assert noise.values is not None and len(noise.values) == 60
        assert TESTS[test].p_values(noise.values, 0) == pytest.approx((0.5, 0.5), abs=0.02)
        assert noise.sd == pytest.approx(np.std(differences[:-1]))
        assert set(noise.draw(np.random.default_rng(0))) <= set(noise.values)


def test_planted_effects_that_are_rarely_seen_fail(monkeypatch):
    monkeypatch.setattr(calibration, "REPETITIONS", 20)
    half = calibration.planted_results([T], always("supported"))[0]
    assert (half.holds, half.cells[-1]) == (False, "nan")


def test_a_share_has_its_exact_interval():
    assert Share(0, 20).interval == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert Share(8, 10).is_often() and not Share(7, 10).is_often()
    assert Share(700, 1000).is_rarer() and not Share(790, 1000).is_rarer()


def test_the_page_says_what_does_not_hold():
    results = [Result(["a", "t"], True), Result(["b", "t"], False), Result(["c", "t"])]
    positives = [Positive("d", "1", "supported"), Positive("e", "0", "inconclusive")]
    positives.append(Positive("f", "0", "inconclusive", is_judged=False))
    assert calibration.verdict(results, positives).splitlines() == [
        "2 of 4 controls hold.",
        "- not: b, t",
        "- not: e",
    ]
    *_, last = calibration.tables([], [], [], positives)
    assert [row[-1] for row in last.rows] == ["pass", "**fail**", "-"]


def test_a_whole_page(monkeypatch):
    for name, value in {"DRAWS": 5, "REPETITIONS": 5, "SIZES": (3.1,)}.items():
        monkeypatch.setattr(calibration, name, value)
    told: list[str] = []
    page = calibration.run([metric(runs(), runs(1))], [], judge, told.append)
    assert page.count("\n## ") == 4 and "controls hold" in told[-1]
