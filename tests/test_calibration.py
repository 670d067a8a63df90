"""Calibration of the rule: the rule passes the checks, and a broken rule does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from normlab.studies.hypothesis_tests import PAIRED_T, SIGNED_RANK, HypothesisTest
from scipy import stats

from benchmarks import runner
from benchmarks.runner import Check
from benchmarks.validation import calibration, calibration_runs
from benchmarks.validation.calibration import Metric, Noise, Proportion, judge
from normlab.studies import decisions, effects
from normlab.studies.decisions import Contrast
from normlab.studies.units import POINTS

T = Noise("normal", PAIRED_T)


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    monkeypatch.setattr(decisions, "SEARCH", calibration.N)


def always(word: str) -> calibration.Judge:
    return lambda contrasts: [word] * len(contrasts)


def by_sign(contrasts: Sequence[Contrast]) -> list[str]:
    """A rule that takes any mean above 0 for support."""
    return ["supported" if mean_of(c) > 0 else "refuted" for c in contrasts]


def mean_of(contrast: Contrast) -> float:
    return float(np.mean(list(contrast.effects.values())))


def metric(
    values: Sequence[float], differences: Sequence[float] = (), test: HypothesisTest = PAIRED_T
) -> Metric:
    return Metric("figure", POINTS, test, 0.5, values, lambda a, b: a - b, differences)


def runs(seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(3, 1, calibration.RUNS))


def test_pairs_are_of_different_runs():
    values = list(range(30))
    pairs = calibration.disjoint(values, np.random.default_rng(0))
    assert len(pairs) == calibration.N
    assert len({run for pair in pairs for run in pair}) == 2 * calibration.N
    with pytest.raises(ValueError):
        calibration.disjoint(values[: 2 * calibration.N - 1], np.random.default_rng(0))


@pytest.mark.parametrize("test", [PAIRED_T, SIGNED_RANK])
def test_one_arm_against_itself_is_rarely_supported(test):
    held, failed = (calibration.null_check(metric(runs(), test=test), j) for j in (judge, by_sign))
    assert (held.holds, failed.holds, failed.line[-1]) == (True, False, "**fail**")
    assert calibration.null(metric(runs()), judge, 7).total() == 7


def test_planted_effects_are_found_as_often_as_calculated():
    for found in calibration.both(T, judge, repetitions=200):
        low, high = stats.binom.interval(0.999, found.of, calibration.t_power(calibration.SIZE))
        assert low <= found.times <= high
    assert calibration.t_power(calibration.SIZE) == pytest.approx(0.8, abs=0.02)


def test_planted_words_are_counted_for_the_truth_they_belong_to():
    def knows(contrasts: Sequence[Contrast]) -> list[str]:
        return ["supported" if mean_of(c) > c.sesoi / 2 else "refuted" for c in contrasts]

    words = calibration.planted(T, [True, False, False], knows, size=30, repetitions=10)
    assert words == {(True, "supported"): 10, (False, "refuted"): 20}
    assert [p.times for p in calibration.both(T, always("supported"), repetitions=10)] == [10, 0]


def test_holm_makes_each_of_several_rows_rarer():
    truth = [True, False, False, False]
    words = calibration.planted(T, truth, judge, repetitions=200)
    strict = stats.t.ppf(1 - decisions.LEVEL / 4, calibration.N - 1)
    low, high = stats.binom.interval(
        0.999, 200, stats.nct.sf(strict, calibration.N - 1, calibration.SIZE)
    )
    assert low <= words[True, "supported"] <= high < 200 * 0.72


def test_what_a_test_needs_is_the_smallest_size_that_is_often_enough():
    def from_four(contrasts: Sequence[Contrast]) -> list[str]:
        """A rule that sees sizes from 3.45 on."""
        (contrast,) = contrasts
        is_seen = contrast.sesoi * math.sqrt(calibration.N) > 3.45
        word = "supported" if mean_of(contrast) > contrast.sesoi / 2 else "refuted"
        return [word if is_seen else "inconclusive"]

    assert calibration.needed(T, from_four, repetitions=50) == pytest.approx(3.5)
    assert math.isnan(calibration.needed(T, always("supported"), repetitions=2))


def test_noise_has_no_effect_and_the_spread_of_the_differences():
    differences = [*np.random.default_rng(0).exponential(2, 60), math.inf]
    for test in (PAIRED_T, SIGNED_RANK):
        noise = calibration.noise_of(metric([], differences, test))
        assert noise.values is not None and len(noise.values) == 60
        assert test.p_values(noise.values, 0) == pytest.approx((0.5, 0.5), abs=0.02)
        assert noise.sd == pytest.approx(np.std(differences[:-1]))
        assert set(noise.draw(np.random.default_rng(0))) <= set(noise.values)


def test_planted_effects_that_are_rarely_seen_fail(monkeypatch):
    monkeypatch.setattr(calibration, "REPETITIONS", 20)
    half = calibration.planted_check(T, always("supported"))
    assert (half.holds, half.cells[-1]) == (False, "nan")


def test_a_proportion_has_its_exact_interval():
    assert Proportion(0, 20).interval == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert Proportion(8, 10).is_often() and not Proportion(7, 10).is_often()
    assert Proportion(700, 1000).is_rarer() and not Proportion(790, 1000).is_rarer()


def test_the_page_says_what_does_not_hold():
    checks = [Check("a", ["1"], True), Check("b", ["2"], False), Check("c", ["3"])]
    assert runner.verdict("checks", checks).splitlines() == ["1 of 2 checks hold.", "- not: b"]
    assert [check.line for check in checks] == [["1", "pass"], ["2", "**fail**"], ["3", "-"]]


def test_a_whole_page(monkeypatch, capsys):
    for name, value in {"DRAWS": 5, "REPETITIONS": 5, "SIZES": (3.1,)}.items():
        monkeypatch.setattr(calibration, name, value)
    positives = [Check("large", ["large", "5 points", "supported"], True)]
    page = calibration.judge_all([metric(runs(), runs(1))], positives, judge)
    assert page.count("\n| --- ") == 4 and "of 5 checks hold" in capsys.readouterr().out


def test_effects_of_real_runs_have_their_sign(monkeypatch):
    """A run is here the pair (steps to the target, error)."""
    monkeypatch.setattr(calibration_runs, "steps_to_target", lambda run, target: run[0])
    for module in (calibration_runs, effects):
        monkeypatch.setattr(module, "error_points", lambda run: run[1])
    monkeypatch.setattr(effects, "is_failed", lambda run: False)
    batch: Any = [(100, 3.0), (100, 3.5)]
    layer: Any = [(200, 5.0), (400, 4.5)]
    steps, errors = calibration_runs.metrics_of(batch, layer, 0.9)
    assert (steps.values, steps.differences) == ([100, 100], [1, 2])
    assert (errors.values, errors.differences) == ([3.0, 3.5], [2.0, 1.0])
    assert (steps.effect(400, 100), errors.effect(5.0, 3.0)) == (2, 2)
    by_rule, as_points = calibration_runs.fixed_contrasts(worse=layer, better=batch)
    assert by_rule.effects == as_points.effects == {0: 2.0, 1: 1.0}
