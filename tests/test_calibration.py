"""Calibration of the rule: the rule keeps the limits, and a broken rule does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.validation import calibration, calibration_runs
from benchmarks.validation.calibration import CONTROLS, Outcome, judged, repeat
from benchmarks.validation.calibration_runs import Pool
from benchmarks.validation.calibration_surfaces import (
    MadeUp,
    Noise,
    Search,
    Surface,
    differing,
    last_look,
    old_word,
    real_surface,
    with_failures,
)
from normlab.runs.store import Store
from normlab.studies import decisions
from normlab.studies.decisions import Look, decide
from normlab.studies.intervals import Estimate
from normlab.studies.metrics import error_points, is_failed
from normlab.studies.setup import FIRST_SEED
from normlab.studies.study import load_study

EXPONENTS = tuple(i / 4 for i in range(-8, 1))
NORMAL = Noise("normal", None, 1.2)


def errors_of(spread: float = 1.0) -> np.ndarray:
    """Return what runs on digits look like: a parabola, a part of the seed, noise of the run."""
    random = np.random.default_rng(0)
    curve = 3 + 3 * (np.array(EXPONENTS) + 0.9) ** 2
    seed, run = random.normal(0, 0.5, (1, 1, 48, 2)), random.normal(0, 0.5, (2, 9, 48, 2))
    return curve[:, None, None] + spread * (seed + run)


SURFACE = real_surface(errors_of(), EXPONENTS)


@pytest.mark.parametrize("reported", ["window", "one"])
def test_the_look_that_decides_is_that_of_the_project(reported):
    for seed, truth in enumerate((0.0, 0.9, 1.5)):
        search = Search(SURFACE, reported)
        found = last_look(search.start(truth, np.random.default_rng(seed)))
        at, claim = search.begin(truth, np.random.default_rng(seed))
        verdict = decide(at.follow(claim, ""))
        assert (found.n, found.word, found.qualifier, found.estimate) == (
            *(verdict.n, verdict.word, verdict.qualifier, verdict.estimate),
        )


def test_made_up_runs_are_those_of_the_surface():
    """Of their arm, rate and seed: tuning seeds first, reporting seeds after them."""
    setup = Search(SURFACE).setup
    errors = np.arange(2 * 9 * 15 * 2, dtype=float).reshape(2, 9, 15, 2) / 20
    runs = MadeUp(errors=errors, exponents=EXPONENTS)
    for seed, place in ((1002, 2), (FIRST_SEED, 3), (FIRST_SEED + 11, 14)):
        name, _ = runs.look_up(setup, {"norm.name": "better", "optim.lr": 0.1778, "seed": seed})
        splits = [error_points(runs.records[name], split) for split in ("validation", "test")]
        assert splits == pytest.approx(errors[1, 5, place])


def test_arms_are_equal_before_an_effect_is_planted():
    pool = errors_of()
    pool[0] += 2.0
    drawn = real_surface(pool, EXPONENTS).draw(np.random.default_rng(0), 4000)
    assert drawn.mean(2)[0] == pytest.approx(drawn.mean(2)[1], abs=0.07)
    assert drawn.mean((2, 3))[0] == pytest.approx(pool[0].mean((1, 2)), abs=0.07)
    pairs = np.corrcoef(drawn[0, 4, :, 1], drawn[1, 4, :, 1])[0, 1]
    assert pairs == pytest.approx(0.5, abs=0.2)  # a seed keeps its runs together


def test_the_planted_effect_is_what_is_measured():
    for source, size in ((Search(SURFACE), 1.0), (NORMAL, 1.2)):
        found = [source.start(1.5, np.random.default_rng(i))(24)[0] for i in range(30)]
        assert np.mean([f.estimate.centre for f in found]) == pytest.approx(1.5 * size, abs=0.15)


def test_a_failed_run_counts_with_the_points_that_are_asked_for():
    failing = with_failures(real_surface(errors_of(0.0), EXPONENTS), share=1.0)
    for points in (90.0, 50.0):
        search = Search(failing, scored=points)
        at, _ = search.begin(0, np.random.default_rng(0))
        runs = [run for run in at.at(12).records.values()]
        assert all(map(is_failed, runs)) and {error_points(run) for run in runs} == {points}
    drawn = with_failures(SURFACE, 0.25).draw(np.random.default_rng(0), 500)
    assert np.isnan(drawn).mean() == pytest.approx(0.25, abs=0.02)


def test_the_points_of_a_failed_run_change_no_word(monkeypatch):
    monkeypatch.setattr(calibration, "TIMES", 20)
    assert calibration.failure_check(Search(SURFACE), 0.01).holds


def test_the_old_word_has_one_coarse_rate_and_twelve_seeds():
    def at_rate(best: int) -> Surface:
        """Both arms differ by 1 point where the worse arm is best on validation, else by -1."""
        errors = np.full((2, 9, 15, 2), 5.0)
        errors[:, best, :, 0] = 1.0
        errors[0, :, :, 1] = 4.0
        errors[0, best, :, 1] = 6.0
        noise = np.random.default_rng(0).normal(0, 0.1, errors.shape)
        return Surface(lambda random, seeds: errors[:, :, :seeds] + noise, EXPONENTS)

    random = np.random.default_rng(0)
    assert old_word(at_rate(2), 0.5, random) == "supported"
    assert old_word(at_rate(3), 0.5, random) == "refuted"  # a quarter decade, not on its grid


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        (["open"] * 4, (0, 0)),
        (["supported", "refuted"], (1, 1)),
        (["supported", "supported", "open"], (2 / 3, 0)),
        (["supported", "refuted", "open"], (1, 1 / 3)),
    ],
)
def test_pairs_of_words_are_counted(words, shares):
    assert differing(words) == pytest.approx(shares)


def look(word: str, n: int = 12, centre: float = 0.0, qualifier: str = "") -> Look:
    return Look(n, word, qualifier, Estimate(centre, centre - 1, centre + 1))


def test_a_word_contradicts_only_the_opposite_one_with_half_the_seeds():
    for words, expected in (("sos", False), ("sr", True), ("osr", True), ("ss", False)):
        names = {"s": "supported", "o": "open", "r": "refuted"}
        looks = [look(names[word]) for word in words]
        assert Outcome(looks[0], looks).contradicts is expected


def test_precision_is_that_of_the_claimed_error():
    """Centres of SD 2, and claimed standard errors that are right, too small, too large."""
    centres = 2 * stats.norm.ppf((np.arange(400) + 0.5) / 400)
    for scale, ratio, share in ((1.0, 1.0, 0.972), (0.5, 2.0, 0.73), (2.0, 0.5, 1.0)):
        half = 2 * scale * stats.t.ppf(0.995, 11)
        looks = [Look(12, "open", "", Estimate(c, c - half, c + half)) for c in centres]
        found = calibration.precision([Outcome(at, [at]) for at in looks], 0)
        assert found == pytest.approx((ratio, share), abs=0.02)


def test_shares_over_the_contrasts_leave_out_the_middle_only_where_asked():
    words = {truth: ["open"] * 2 for truth in calibration.TRUTHS}
    words |= {0.8: ["supported", "refuted"], 0.9: ["supported", "refuted"]}
    near = calibration.over_rows(words, 1)
    assert near == pytest.approx(1 / len(calibration.ROWS))  # 0.85, and 0.7 and 0.54 not at all
    assert calibration.over_rows(words, 1, is_far=True) == 0


def test_each_contrast_has_its_own_noise():
    """Only the noise of steps gives different words, then only that of a window."""
    same = {truth: ["open"] * 2 for truth in calibration.TRUTHS}
    opposite = {truth: ["supported", "refuted"] for truth in calibration.TRUTHS}
    titles = {row.noise for row in calibration.ROWS}
    assert titles == {calibration.WINDOW, calibration.ONE, calibration.OCTAVES, calibration.NORMAL}
    for noise, rows, far in ((calibration.OCTAVES, 6, 5), (calibration.WINDOW, 6, 6)):
        worlds = dict.fromkeys(titles, same) | {noise: opposite}
        for place in (0, 1):
            assert calibration.with_own_noise(worlds, place) == pytest.approx(rows / 20)
        assert calibration.with_own_noise(worlds, 0, is_far=True) == pytest.approx(far / 18)
        checks = calibration.own_noise_checks(worlds)
        assert not any(check.holds for check in checks)
        shown = calibration.rows_table(worlds).texts()
        assert [line[3] for line in shown if line[2] == noise] == ["100.0"] * rows
        assert {line[3] for line in shown if line[2] != noise} == {"0.0"}
    assert all(c.holds for c in calibration.own_noise_checks(dict.fromkeys(titles, same)))
    half = {truth: ["supported", "open"] for truth in calibration.TRUTHS}
    shown = calibration.rows_table(dict.fromkeys(titles, half)).texts()
    assert {(line[3], line[4]) for line in shown} == {("100.0", "0.0")}


def outcomes(source: Noise, times: int = 20) -> calibration.Outcomes:
    truths = calibration.TRUTHS
    return {truth: repeat(source, truth, times if truth else 6 * times) for truth in truths}


def failing(found: calibration.Outcomes) -> set[str]:
    checks = judged("x", found)
    return {c[0] for c, check in zip(CONTROLS, checks, strict=True) if not check.holds}


def test_a_broken_rule_is_seen(monkeypatch):
    assert failing(outcomes(NORMAL, 100)) <= {
        CONTROLS[-1][0]
    }  # no rule of one interval reaches that
    monkeypatch.setattr(decisions, "word_of", lambda *_: ("supported", "small"))
    assert {c[0] for c in CONTROLS[:2]} | {CONTROLS[3][0]} <= failing(outcomes(NORMAL))
    monkeypatch.setattr(decisions, "word_of", lambda *_: ("refuted", ""))
    assert {c[0] for c in CONTROLS[2:4]} <= failing(outcomes(NORMAL))
    word = lambda found, *_: ("supported" if found.centre > 0 else "refuted", "")  # noqa: E731
    monkeypatch.setattr(decisions, "word_of", word)
    monkeypatch.setattr(decisions, "stops", lambda *_: True)
    assert {CONTROLS[i][0] for i in (0, 1, 8, 9, 10, 11)} <= failing(outcomes(NORMAL))


def test_an_interval_that_is_too_narrow_is_seen(monkeypatch):
    def narrow(self):
        found = real(self)
        return replace(found, low=(found.low + found.centre) / 2, high=found.centre)

    real = decisions.Contrast.estimate
    monkeypatch.setattr(decisions.Contrast, "estimate", narrow)
    assert {c[0] for c in CONTROLS[4:8]} <= failing(outcomes(NORMAL))


def test_limits_are_written_as_they_are_judged():
    texts = [calibration.limit_text(name, least, most) for name, least, most, _ in CONTROLS]
    assert [texts[i] for i in (0, 1, 4, 6)] == [
        *("at most 1.0%", "at least 98.0%", "93% to 97%", "at most 1.10"),
    ]


def test_a_whole_page(monkeypatch, tmp_path, capsys):
    for name, value in {"NULLS": 3, "TIMES": 4, "TRUTHS": (-1, 0, 1, 1.5)}.items():
        monkeypatch.setattr(calibration, name, value)
    pool = Pool(errors_of(), np.random.default_rng(0).normal(2, 0.3, 48))
    page = calibration.judge_all(pool, EXPONENTS, [], tmp_path / "figure.svg")
    assert page.count("\n| --- ") == 5 and "of 53 controls hold" in capsys.readouterr().out
    assert "pairs that differ" in page and (tmp_path / "figure.svg").stat().st_size > 1000


def test_real_contrasts_change_what_they_say(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        calibration_runs, "train_missing", lambda store, wanted: asked.update(wanted())
    )
    setups = {s.name: s for n in calibration_runs.STUDIES for s in load_study(n).setups["quick"]}
    both = setups["convergence-mlp"], setups["stats-batch-mlp"]
    found = calibration_runs.real_contrasts(Store(tmp_path).open(), *both)
    assert [word for _, word in found] == ["refuted", "supported", "supported"]
    changed = {(c["norm.name"], c["norm.epsilon"], c["norm.stats_batch"]) for c in asked.values()}
    assert {("batch", 2e-5, 0), ("batch", 1e-5, 2), ("none", 1e-5, 0)} <= changed
    contrast = replace(found[0][0][0], effects=dict(enumerate([0.1, -0.1] * 6)), looks=(12,))
    for word in ("refuted", "supported"):
        assert calibration_runs.real_check([contrast], word).holds is (word == "refuted")
