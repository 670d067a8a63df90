"""Windows whose seeds choose rates: cycles, failures, other seeds, and what that adds to errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from lab import BATCH, GROUP, MEMORY, NONE, SEEDS, SETUP, Lab, Response
from scipy import stats

from normlab.runs.record import Record
from normlab.studies.decisions import decide
from normlab.studies.effects import Claim, error_difference, interaction, weighted_errors
from normlab.studies.looks import look_at_study
from normlab.studies.metrics import error_points, trained_error
from normlab.studies.planning import RequiredRun, SetupRuns
from normlab.studies.protocols import WINDOW
from normlab.studies.rates import window
from normlab.studies.setup import FIRST_SEED, FollowUp
from normlab.studies.study import Study

ALONE = replace(
    SETUP, arms=(BATCH,), protocol=replace(WINDOW, exponents=(-2.0, -1.5, -1.0)), seeds=4
)


def bowl(best: float, exponent: float) -> float:
    return 0.95 - 0.1 * (exponent - best) ** 2


def told(errors: dict[float, float]) -> Response:
    """Tuning seeds do best at -1.5; reporting seeds have these errors."""
    return lambda norm, exponent, seed: (
        1 - errors[exponent] if seed >= FIRST_SEED else bowl(-1.5, exponent)
    )


def test_a_window_that_goes_in_a_circle_stops_at_a_rate_that_it_has():
    """The parabola of either window has its lowest point in the middle of the other one."""
    errors = (0.32, 0.25, 0.08, 0.19, 0.08, 0.22, 0.20)
    lab = Lab(ALONE, told({-2.0 + i / 4: error for i, error in enumerate(errors)}))
    assert len(lab.looks) == 3 and lab.exponents("batch", "report") == [
        -2 + i / 4 for i in range(7)
    ]
    reported = lab.evidence.reported["batch"]
    assert [*reported.runs] == window(-1.0) and reported.chosen() == [-1.5, -1.25]
    assert lab.evidence.best["batch"] == -1.5 and set(lab.evidence.runs_of("batch")) == SEEDS


@pytest.mark.parametrize(
    "best, chosen, own", [(-1.55, [-2.0, -1.75], 0.01778), (-1.45, [-1.25, -1.0], 0.05623)]
)
def test_a_rate_that_fails_is_nobodys_rate(best, chosen, own):
    """The parabola is lowest at -1.5, where a run fails. Its better neighbour counts."""

    def response(norm: str, exponent: float, seed: int) -> float:
        return 0.2 if (exponent, seed) == (-1.5, FIRST_SEED) else bowl(best, exponent)

    lab = Lab(ALONE, response)
    reported = lab.evidence.reported["batch"]
    assert reported.chosen() == chosen and lab.evidence.best["batch"] in chosen
    assert [r.config["optim.lr"] for r in lab.evidence.runs_of("batch").values()] == [own] * 4
    assert reported.share_failed == 0.0 and len(lab.evidence.tried("batch")) == 8


def test_a_window_waits_for_its_last_run_before_it_moves():
    lab = Lab(ALONE, lambda norm, e, seed: bowl(-1.5 if seed < FIRST_SEED else -1.0, e))
    assert lab.evidence.best["batch"] == -1.0 and [len(look) for look in lab.looks] == [9, 20, 8]
    for missing in lab.looks[1]:
        few = {name: run for name, run in lab.records.items() if name != missing.run_id}
        evidence = SetupRuns(ALONE, few, MEMORY)
        rates = {w.config["optim.lr"] for w in evidence.wanted.values() if w.stage == "report"}
        assert len(rates) == 5 and not evidence.is_complete


@pytest.mark.parametrize("reported", ["window", "two"])
def test_arms_that_decide_nothing_report_at_one_rate(reported):
    protocol = replace(ALONE.protocol, reported=reported)
    setup = replace(ALONE, arms=(BATCH, GROUP), protocol=protocol, screening_seeds=3)
    lab = Lab(setup, lambda norm, e, seed: bowl(-1.4, e))
    assert len(lab.exponents("batch", "report")) == (5 if reported == "window" else 2)
    assert lab.exponents("group", "report") == [-1.5]
    assert lab.evidence.reported["group"].chosen() == [-1.5]
    assert len(lab.evidence.tried("group")) == 3


def test_of_two_rates_the_one_at_which_reporting_seeds_fail_does_not_count():
    setup = replace(ALONE, protocol=replace(ALONE.protocol, reported="two"))

    def response(norm: str, exponent: float, seed: int) -> float:
        return 0.2 if (exponent, seed) == (-1.0, FIRST_SEED + 2) else bowl(-1.4, exponent)

    lab = Lab(setup, response)
    reported = lab.evidence.reported["batch"]
    assert lab.exponents("batch", "report") == [-1.5, -1.0] and reported.chosen() == [-1.5]
    expected = 100 * (1 - bowl(-1.4, -1.5)) + 1
    assert reported.values(error_points) == pytest.approx(dict.fromkeys(sorted(SEEDS), expected))


def test_two_rates_are_the_best_and_its_better_neighbour():
    """The next best of all rates is no neighbour of the best."""
    errors = {-2.0: 0.05, -1.5: 0.2, -1.0: 0.1, -0.5: 0.04, 0.0: 0.3}
    protocol = replace(ALONE.protocol, exponents=tuple(errors), reported="two")
    lab = Lab(replace(ALONE, protocol=protocol), lambda norm, e, seed: 1 - errors[e])
    assert lab.exponents("batch", "report") == [-1.0, -0.5] and lab.evidence.best["batch"] == -0.5
    assert set(lab.evidence.reported["batch"].runs) == {-1.0, -0.5}


def test_follow_ups_at_ten_times_the_rates_of_a_window():
    """One with seeds of its own has no choice of its arm to count with."""
    follows = (
        FollowUp("tenfold", "batch", "none", factor=10.0),
        FollowUp("few", "batch", "batch", seeds=2),
    )
    setup = replace(ALONE, arms=(NONE, BATCH), follows=follows)

    def response(norm: str, exponent: float, seed: int) -> float:
        return bowl(-1.75 if norm == "none" else -1.25, exponent)

    evidence = Lab(setup, response).evidence
    tenfold, none = evidence.reported["tenfold"], evidence.reported["none"]
    assert [*none.runs] == [-2.25, -2.0, -1.75, -1.5, -1.25] and none.chosen() == [-2, -1.75, -1.5]
    rates = [next(iter(runs.values())).config["optim.lr"] for runs in tenfold.runs.values()]
    assert rates == [0.05623, 0.1, 0.1778, 0.3162, 0.5623]
    errors = [100 * (1 - bowl(-1.25, e)) + 1 for e in (-1.0, -0.75, -0.5)]
    assert tenfold.values(error_points)[FIRST_SEED] == pytest.approx(np.mean(errors))
    assert {r.config["optim.lr"] for r in evidence.follows["tenfold"].values()} == {0.1778}
    assert "few" not in evidence.reported and len(evidence.follows["few"]) == 2


TWELVE = [FIRST_SEED + i for i in range(12)]
RATES = window(-1.5)
LOTTERY = replace(ALONE, arms=(NONE, BATCH), seeds=12)


def lottery(norm: str, exponent: float, seed: int) -> float:
    """Of none, the mean of all seeds prefers -1.25 by little. Without seed 3 it prefers -1.5."""
    if seed < FIRST_SEED:
        return bowl(-1.5, exponent)
    i = seed - FIRST_SEED
    likes = (exponent + 1.5) * (0.05 if i == 3 else 0.0245) * (norm == "none")
    return bowl(-1.5, exponent) - 0.03 + likes + 0.004 * math.sin(7 * i + len(norm))


class WorseInTheTest(Lab):
    """Higher rates are worse in the test than validation says."""

    def train(self, wanted: RequiredRun) -> Record:
        run = super().train(wanted)
        lost = 0.04 * (round(math.log10(run.config["optim.lr"]), 3) + 1.5)
        return replace(run, final=run.final | {"test_accuracy": run.final["test_accuracy"] - lost})


def by_hand(norm: str, seeds: Sequence[int]) -> np.ndarray:
    """Return test errors in points, by plain numpy: vertex, neighbours, mean."""
    table = np.array([[1 - lottery(norm, e, s) for s in seeds] for e in RATES])
    curve = np.polynomial.Polynomial.fit(RATES, table.mean(1), 2).convert().coef
    at = np.clip(round(-curve[1] / (2 * curve[2]) / 0.25) * 0.25, RATES[0], RATES[-1])
    near = [e for e in RATES if abs(e - at) < 0.3]
    lost = np.mean([0.04 * (e + 1.5) for e in near])
    return 100 * (np.mean([table[RATES.index(e)] for e in near], axis=0) + 0.01 + lost)


def test_the_error_of_a_window_is_the_jackknifes_that_chooses_again():
    """Against the same by hand; the SD of the effects alone would claim too little."""
    claim = Claim("C1", "s", "setup", error_difference("none", "batch"), 1.0, looks=(12,))
    contrast = claim.contrast(WorseInTheTest(LOTTERY, lottery).evidence, "quick")
    effects = by_hand("none", TWELVE) - by_hand("batch", TWELVE)
    assert [*contrast.effects.values()] == pytest.approx([*effects])
    left = [[s for s in TWELVE if s != out] for out in TWELVE]
    means = np.array([(by_hand("none", s) - by_hand("batch", s)).mean() for s in left])
    jackknife = math.sqrt(11 / 12 * np.sum((means - means.mean()) ** 2))
    plain = effects.std(ddof=1) / math.sqrt(12)
    assert jackknife > 3 * plain  # a seed does turn the choice
    found = contrast.estimate()
    assert found.centre == pytest.approx(effects.mean())
    assert found.half_width == pytest.approx(stats.t.ppf(0.995, 11) * jackknife)


def test_other_seeds_choose_for_both_arms_of_a_difference():
    measured = error_difference("none", "batch").measure(WorseInTheTest(LOTTERY, lottery).evidence)
    assert not isinstance(measured, dict) and measured.redraw is not None
    for seeds in (TWELVE, TWELVE[:3], TWELVE[4:], [TWELVE[3]] * 2 + TWELVE[5:9]):
        expected = by_hand("none", seeds) - by_hand("batch", seeds)
        assert [*measured.redraw(seeds)] == pytest.approx([*expected])


def test_a_difference_of_differences_has_the_signs_of_its_four_arms():
    """Follow-ups that are the same runs again leave nothing of the difference."""
    again = tuple(FollowUp(f"{n} again", n, n) for n in ("none", "batch"))
    evidence = WorseInTheTest(replace(LOTTERY, follows=again), lottery).evidence
    for arms, factor in (
        (("none", "batch", "none again", "batch again"), 0.0),
        (("none", "batch", "batch again", "none again"), 2.0),
        (("none", "batch", "batch again", "none"), 2.0),  # an arm twice: its weights add up
        (("none", "batch", "none", "batch again"), 0.0),
    ):
        contrast = Claim("C1", "s", "setup", interaction(*arms, "c"), 1.0, (12,)).contrast(
            evidence, "quick"
        )
        for seeds in (TWELVE, TWELVE[4:]):
            expected = factor * (by_hand("none", seeds) - by_hand("batch", seeds))
            assert contrast.redraw is not None
            assert [*contrast.redraw(seeds)] == pytest.approx([*expected])


@pytest.mark.parametrize("failing", [{"none"}, {"none", "batch"}])
def test_a_sum_of_four_arms_compares_no_errors_where_one_fails_too_often(failing):
    """One of 12 runs fails at every rate. The follow-ups have the norms of their arms."""
    again = tuple(
        FollowUp(f"{n} again", n, n, settings={"norm.momentum": 0.5}) for n in ("none", "batch")
    )

    def response(norm: str, exponent: float, seed: int) -> float:
        fails = norm in failing and seed == FIRST_SEED
        return 0.2 if fails else lottery(norm, exponent, seed)

    evidence = Lab(replace(LOTTERY, follows=again), response).evidence
    effect = interaction("none", "batch", "batch again", "none again")
    contrast = Claim("C1", "s", "setup", effect, 1.0, (12,)).contrast(evidence, "quick")
    verdict = decide([contrast])
    names = (
        "'none' and of 'none again'"
        if len(failing) == 1
        else ("'none' and of 'batch' and of 'batch again' and of 'none again'")
    )
    assert (verdict.word, verdict.n, contrast.effects) == ("not testable here", 12, {})
    assert verdict.notes == (f"more than 5 % of the runs of {names} fail",)
    assert contrast.redraw is None and math.isnan(verdict.estimate.centre)


def test_of_two_arms_the_one_with_the_positive_weight_is_the_worse():
    """None trains in 11 of 12 seeds, batch in all, whatever the order of the weights."""
    lab = Lab(
        LOTTERY,
        lambda norm, e, seed: 0.2 if norm == "none" and seed == FIRST_SEED else bowl(-1.5, e),
    )
    for weights in ({"none": 1.0, "batch": -1.0}, {"batch": -1.0, "none": 1.0}):
        found = weighted_errors(weights, lab.evidence).effects
        assert found == {s: float(s == FIRST_SEED) for s in TWELVE}


def test_another_metric_has_effects_and_redraws_of_its_own_and_is_no_test_error():
    evidence, weights = Lab(LOTTERY, lottery).evidence, {"none": 1.0, "batch": -1.0}
    once = weighted_errors(weights, evidence)
    twice = weighted_errors(weights, evidence, lambda run: 2 * trained_error(run))
    assert twice.effects == pytest.approx({s: 2 * v for s, v in once.effects.items()})
    assert once.redraw and twice.redraw
    assert [*twice.redraw([*TWELVE])] == pytest.approx([*(2 * once.redraw([*TWELVE]))])
    assert once.words.startswith("test error") and not twice.words


def test_a_study_wants_the_runs_of_all_its_looks():
    """The first 12 seeds move the window of batch, 24 do not: both looks need runs of their own."""
    effect = error_difference("none", "batch")
    claims = tuple(
        Claim(name, "s", "setup", effect, 1.0, looks=looks)
        for name, looks in (("C1", (12,)), ("C2", (24,)))
    )
    setup = replace(ALONE, arms=(NONE, BATCH))
    study = Study("s", *[""] * 7, setups={"quick": (setup,)}, claims=claims)

    def response(norm: str, exponent: float, seed: int) -> float:
        first, second = (FIRST_SEED <= seed < FIRST_SEED + 12), seed >= FIRST_SEED + 12
        best = -0.9 if first else -2.0 if second else -1.5
        return bowl(best if norm == "batch" else -1.5, exponent) - 0.01 * (seed % 3) * first

    lab, records = Lab(setup, lambda *_: 0.9), dict[str, Record]()
    lab.response = response
    known = look_at_study(study, "quick", records, MEMORY)
    while missing := {n: w for n, w in known.wanted.items() if n not in records}:
        records |= {n: lab.train(w) for n, w in missing.items()}
        known = look_at_study(study, "quick", records, MEMORY)
    assert [path[-1].n for path in known.paths] == [12, 24]
    (runs,) = known.setups.values()
    assert runs.is_complete and known.wanted.keys() == records.keys() == runs.users.keys()
    rates = {w.config["optim.lr"] for w in known.wanted.values() if w.arm == "batch"}
    assert {0.3162, 0.01} <= rates  # both windows
