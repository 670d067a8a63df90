"""Windows that move, edges by bisection, and seeds that grow, with made-up answers to runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lab import BATCH, GROUP, MEMORY, NONE, SEEDS, SETUP, Lab, Response, StudyLab, study_of

from normlab.runs.record import Record
from normlab.studies.decisions import decide
from normlab.studies.effects import TRAINED_SEEDS, Claim, Effect, decades, error_difference, looks
from normlab.studies.intervals import AT_MOST
from normlab.studies.looks import SetupLooks, look_at_study
from normlab.studies.metrics import error_points, is_failed
from normlab.studies.planning import MOST_MOVES, SetupRuns
from normlab.studies.protocols import WINDOW, Edges, eligible
from normlab.studies.rates import bisected, neighbours, snapped, vertex, window
from normlab.studies.setup import FIRST_SEED, FollowUp
from normlab.studies.study import adapt
from normlab.studies.units import FAILED

PAIR = replace(SETUP, arms=(NONE, BATCH))
QUARTERS = (-2.0, -1.75, -1.5, -1.25, -1.0)


@pytest.mark.parametrize(
    "best, at",
    [(-1.4, -1.5), (-1.36, -1.25), (-1.0, -1.0), (-2.3, -2.0), (-0.2, -1.0), (-1.5, -1.5)],
)
def test_the_vertex_of_a_parabola_is_found_and_snapped(best, at):
    """Never outside of the given rates."""
    assert vertex({e: 0.1 + (e - best) ** 2 for e in QUARTERS}, 10.0) == at


def test_one_hopeless_rate_does_not_bend_the_parabola():
    values = {-2.0: 0.14, -1.5: 0.05, -1.0: 0.9}
    assert vertex(values, 0.2) == -1.5 and vertex(values, 10.0) == -1.75
    assert vertex({-2.0: 0.3, -1.0: 0.1}, 0.2) == -1.0  # fewer than three: the best
    assert vertex({-2.0: 0.1, -1.5: 0.1, -1.0: 0.1}, 0.2) == -2.0  # flat: the lowest
    assert vertex({-2.0: 0.1, -1.5: 0.3, -1.0: 0.2}, 0.2) == -2.0  # a hill: the best


def test_neighbours_windows_and_quarters():
    values = dict.fromkeys(QUARTERS, 0.0)
    assert [*neighbours(values, -1.5, 0.25)] == [-1.75, -1.5, -1.25]
    assert [*neighbours(values, -1.0, 0.25)] == [-1.25, -1.0]
    assert window(-1.0) == [-1.5, -1.25, -1.0, -0.75, -0.5]
    assert [snapped(e) for e in (-1.13, -1.12, 0.4)] == [-1.25, -1.0, 0.5]
    noise = 1e-12
    assert [snapped(0.375 + e) for e in (-noise, 0.0, noise, 1e-3)] == [0.25, 0.25, 0.25, 0.5]
    halfway = {0.0: 0.8955555555555555, 0.5: 0.8944444444444444, 1.0: 0.8977777777777777}
    for by in (-1.0, 0.0, 2.5):
        assert vertex({e + by: v for e, v in halfway.items()}, 0.2) == by + 0.25


@pytest.mark.parametrize(
    "failed, able",
    [
        ({-2.0: 0.0, -1.0: 0.05, 0.0: 0.051}, [-2.0, -1.0]),
        ({-2.0: 0.4, -1.0: 0.2, 0.0: 0.2}, [-1.0, 0.0]),  # none: those with the fewest
        ({-1.0: 1.0}, [-1.0]),
    ],
)
def test_rates_at_which_too_many_fail_are_not_eligible(failed, able):
    assert eligible(failed) == able


@pytest.mark.parametrize("edge", [-0.99, -0.7, -0.51, -0.93])
def test_three_bisections_find_an_edge_to_a_sixteenth(edge):
    low, is_known = bisected(-1.0, -0.5, 3, lambda e: e <= edge)
    assert is_known and low <= edge < low + 1 / 16 + 1e-4
    assert bisected(-1.0, -0.5, 3, lambda e: None) == (-1.0, False)
    assert bisected(-1.0, -0.5, 0, lambda e: None) == (-1.0, True)


WINDOWED = replace(PAIR, protocol=replace(WINDOW, exponents=(-2.0, -1.5, -1.0)))


def bowl(best: Mapping[str, float], shift: float = 0.0) -> Response:
    """Return accuracies on a parabola; reporting seeds have their best `shift` decades higher."""

    def response(norm: str, exponent: float, seed: int) -> float:
        at = best[norm] + (shift if seed >= FIRST_SEED else 0.0)
        return 0.95 - 0.1 * (exponent - at) ** 2 - 0.001 * (seed % 4)

    return response


def test_a_window_has_five_rates_and_counts_with_three():
    lab = Lab(WINDOWED, bowl({"none": -1.5, "batch": -1.25}))
    assert lab.seeds("none", "tune") == {1000, 1001, 1002} and lab.seeds("none", "report") == SEEDS
    assert lab.exponents("none", "report") == [-2.0, -1.75, -1.5, -1.25, -1.0]
    assert lab.evidence.best == {"none": -1.5, "batch": -1.25}
    reported = lab.evidence.reported["batch"]
    assert reported.chosen() == [-1.5, -1.25, -1.0]
    mean = np.mean([0.95, 0.95 - 0.1 / 16, 0.95 - 0.1 / 16])
    for seed, value in reported.values(error_points).items():
        assert value == pytest.approx(100 * (1 - mean + 0.001 * (seed % 4) + 0.01))
    assert set(lab.evidence.runs_of("batch")) == SEEDS


@pytest.mark.parametrize("shift, moved", [(0.25, 0), (0.5, 1), (1.0, 2), (-0.75, 1)])
def test_a_window_moves_until_its_lowest_point_is_inside(shift, moved):
    lab = Lab(WINDOWED, bowl({"none": -1.5, "batch": -1.5}, shift))
    asked = lab.exponents("none", "report")
    assert lab.evidence.best["none"] == -1.5 + shift
    assert [*lab.evidence.reported["none"].runs] == window(
        -1.5 + (np.sign(shift) * 0.5 * moved if moved else 0.0)
    ) or len(asked) > 5
    assert len(lab.looks) == 2 + moved and lab.evidence.is_complete
    assert -1.5 + shift in lab.evidence.reported["none"].chosen()


def test_a_window_of_an_arm_that_never_trains_stops_moving():
    lab = Lab(WINDOWED, lambda norm, exponent, seed: 0.1 if norm == "none" else 0.9)
    assert lab.evidence.is_complete and len(lab.looks) <= MOST_MOVES + 8
    assert lab.evidence.reported["none"].share_failed == 1.0


def test_a_neighbour_at_which_runs_fail_does_not_count():
    def response(norm: str, exponent: float, seed: int) -> float:
        return 0.2 if exponent > -1.4 and seed == FIRST_SEED else 0.95 - 0.1 * (exponent + 1.5) ** 2

    lab = Lab(replace(WINDOWED, arms=(BATCH,)), response)
    assert lab.evidence.reported["batch"].chosen() == [-1.75, -1.5]


def test_other_seeds_can_choose_other_rates():
    """A jackknife and a bootstrap choose again: seed 0 alone prefers the high rates."""

    def response(norm: str, exponent: float, seed: int) -> float:
        best = -1.0 if seed == FIRST_SEED else -1.75
        return 0.95 - 0.1 * (exponent - best) ** 2

    reported = Lab(replace(WINDOWED, arms=(BATCH,)), response).evidence.reported["batch"]
    first, *others = sorted(SEEDS)
    assert max(reported.chosen([first])) > max(reported.chosen(others))
    draw = reported.redraw(error_points)
    table = {e: reported.runs[e][first] for e in reported.chosen([first])}
    expected = np.mean([error_points(run) for run in table.values()])
    assert draw([first, first]) == pytest.approx([expected, expected])


def test_two_rates_count_with_their_mean():
    setup = replace(PAIR, protocol=replace(SETUP.protocol, reported="two"))
    lab = Lab(setup, bowl({"none": -1.4, "batch": -1.6}))
    assert lab.exponents("none", "report") == [-1.5, -1.0]
    assert lab.exponents("batch", "report") == [-2.0, -1.5]
    runs = lab.evidence.reported["none"].runs
    seed = FIRST_SEED
    expected = np.mean([error_points(runs[e][seed]) for e in (-1.5, -1.0)])
    assert lab.evidence.reported["none"].values(error_points)[seed] == pytest.approx(expected)


def test_follow_ups_run_at_every_rate_of_a_window_and_count_with_their_arms_choice():
    follow = FollowUp("again", "batch", "batch", settings={"norm.momentum": 0.99})
    lab = Lab(replace(WINDOWED, follows=(follow,)), bowl({"none": -1.5, "batch": -1.25}))
    again, batch = (lab.evidence.reported[name] for name in ("again", "batch"))
    assert [*again.runs] == [*batch.runs] and again.chosen() == batch.chosen()
    momenta = {r.config["norm.momentum"] for runs in again.runs.values() for r in runs.values()}
    assert momenta == {0.99}


EDGES = replace(SETUP, protocol=Edges((-1.0, -0.5, 0.0)), screening_seeds=2)


def up_to(limits: Mapping[str, float]) -> Response:
    return lambda norm, exponent, seed: 0.95 if exponent <= limits[norm] else 0.8


def test_edges_grow_upwards_and_are_halved_for_each_seed():
    lab = Lab(EDGES, up_to({"none": -0.4, "batch": 1.3, "group": -0.4}))
    assert lab.exponents("batch", "edge") == [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert lab.exponents("group", "edge") == [-1.0, -0.5, 0.0, 0.5]
    assert lab.evidence.edges["none"] == dict.fromkeys(SEEDS, -0.4375)
    assert lab.evidence.edges["batch"] == dict.fromkeys(SEEDS, 1.25)
    assert lab.evidence.edges["group"] == dict.fromkeys(sorted(SEEDS)[:2], -0.5)  # screening
    assert lab.exponents("none", "bisect") == [-0.44, -0.37, -0.25]
    assert lab.evidence.best["batch"] == 1.25 and set(lab.evidence.runs_of("none")) == SEEDS


@pytest.mark.parametrize("loss, edge", [(0.10, 0.0), (0.11, -0.5), (0.0, 0.0)])
def test_a_rate_passes_within_10_points_of_the_seeds_own_best(loss, edge):
    setup = replace(EDGES, arms=(NONE,), protocol=replace(EDGES.protocol, bisections=0))

    def response(norm: str, exponent: float, seed: int) -> float:
        own = 0.9 - 0.05 * (seed % 2)
        return own if exponent <= -0.5 else round(own - loss, 6) if exponent <= 0 else 0.2

    assert set(Lab(setup, response).evidence.edges["none"].values()) == {edge}


def test_each_seed_has_its_own_edge_and_follow_ups_take_the_low_median():
    limits = dict(zip(sorted(SEEDS), (-0.5, 0.0, 0.5, 1.0), strict=True))
    follow = FollowUp("tenfold", arm="batch", rate_of="none", factor=10, seeds=80)
    setup = replace(EDGES, arms=(NONE, BATCH), follows=(follow,))
    lab = Lab(setup, lambda norm, e, seed: 0.95 if e <= limits.get(seed, 9) else 0.5)
    edges = lab.evidence.edges["none"]
    assert all(abs(edges[s] - limits[s]) < 1e-9 for s in SEEDS)
    assert lab.evidence.best["none"] == 0.0
    assert {r.config["optim.lr"] for r in lab.evidence.follows["tenfold"].values()} == {10.0}
    assert len(lab.evidence.follows["tenfold"]) == 80


def test_edges_wait_for_the_bisection_of_every_seed():
    setup = replace(EDGES, arms=(NONE,))
    lab = Lab(setup, up_to({"none": -0.4}))
    bisections = [name for name, w in lab.evidence.wanted.items() if w.stage == "bisect"]
    assert len(bisections) == 3 * len(SEEDS)
    for missing in bisections:
        few = {name: run for name, run in lab.records.items() if name != missing}
        evidence = SetupRuns(setup, few, MEMORY)
        assert evidence.edges == evidence.best == {} and missing in evidence.wanted
        asked = {w.config["seed"] for w in evidence.wanted.values() if w.stage == "bisect"}
        assert asked == SEEDS and not evidence.is_complete


def test_a_run_that_fails_passes_no_rate_however_low_its_seeds_best_is():
    """It ends within 10 points of that, but near chance."""
    setup = replace(EDGES, arms=(NONE,), protocol=replace(EDGES.protocol, bisections=0))
    lab = Lab(setup, lambda norm, e, seed: 0.5 if e <= -1.0 else 0.45)
    assert set(lab.evidence.edges["none"].values()) == {-1.0}


def test_edges_grow_past_a_rate_at_which_no_seed_trains():
    """Two in a row end it: 0 fails, 0.5 trains again."""
    setup = replace(EDGES, arms=(NONE,), protocol=replace(EDGES.protocol, bisections=0))
    lab = Lab(setup, lambda norm, e, seed: 0.95 if e in (-1.0, -0.5, 0.5) else 0.2)
    assert lab.exponents("none", "edge")[-1] == 1.5
    assert set(lab.evidence.edges["none"].values()) == {0.5}


def test_an_arm_that_trains_at_no_rate_has_no_edge_and_no_follow_ups():
    follow = FollowUp("tenfold", arm="batch", rate_of="none", factor=10)
    setup = replace(EDGES, arms=(NONE, BATCH), follows=(follow,))
    lab = Lab(setup, lambda norm, e, seed: 0.2 if norm == "none" else 0.9 - 0.3 * (e > 0))
    assert set(lab.evidence.edges["none"].values()) == {-math.inf}
    assert lab.evidence.follows == {} and lab.evidence.is_complete


@pytest.mark.parametrize(
    "ends, both, is_bound",
    [(2, 0, False), (3, 0, True), (3, 1, True), (3, 3, False), (0, 0, False)],
)
def test_edges_at_the_end_of_the_grid_make_a_lower_bound(ends, both, is_bound):
    """Batch trains at every rate in `ends` of 20 seeds, in `both` of which none does too."""
    setup = replace(PAIR, protocol=Edges((-1.0, -0.5, 0.0), extensions=0), seeds=20)

    def response(norm: str, exponent: float, seed: int) -> float:
        is_endless = seed < FIRST_SEED + (ends if norm == "batch" else both)
        return 0.95 if is_endless or exponent <= -0.7 else 0.5

    evidence = Lab(setup, response).evidence
    assert evidence.at_the_end("batch") == set(range(FIRST_SEED, FIRST_SEED + ends))
    found, edge = decades(evidence, "none", "batch"), -0.75
    expected = [math.nan] * both + [0.0 - edge] * (ends - both) + [0.0] * (20 - ends)
    assert [*found.effects.values()] == pytest.approx(expected, nan_ok=True)
    assert found.is_lower_bound == is_bound
    cut = f"arm 'batch' trains at the highest rate tried in {ends - both} of {20 - both} seeds"
    assert found.remark == (cut if ends > both else "")
    rate = 10 ** ((edge * (20 - ends)) / (20 - both))
    assert both or found.words == f"trains up to rate {rate:.2g} instead of 0.18"


WORSE = error_difference("none", "batch")


def claim(name: str, sesoi: float, last: int = 48) -> Claim:
    return Claim(name, name, "setup", WORSE, sesoi=sesoi, looks=looks(12, last))


def noisy(difference: float, spread: float) -> Response:
    """Return accuracies of which none's are lower, by `difference` points, a little less or more
    from seed to seed."""

    def response(norm: str, exponent: float, seed: int) -> float:
        z = math.sin(seed * 12.9898) * 1.4  # about SD 1, a function of the seed
        worse = (difference + spread * z) / 100 if norm == "none" else 0.0
        return 0.9 - 0.05 * (exponent + 1.5) ** 2 - worse

    return response


@pytest.mark.parametrize(
    "difference, spread, word, path",
    [
        (3.0, 0.5, "supported", [12]),
        (1.15, 0.35, "supported", [12, 24]),  # supported at 12, too wide
        (1.0, 1.0, "open", [12, 24, 48]),
        (0.0, 0.3, "refuted", [12]),
    ],
)
def test_seeds_grow_until_the_word_is_clear(difference, spread, word, path):
    lab = StudyLab(study_of(PAIR, claim("C1", 1.0)), noisy(difference, spread))
    verdict = lab.verdicts["C1"]
    assert (verdict.word, [look.n for look in verdict.path], verdict.n) == (word, path, path[-1])
    assert len(lab.known.setups["setup"].runs_of("none")) == path[-1]


def test_a_contrast_keeps_its_word_when_another_needs_more_seeds_or_is_gone():
    clear, slow = claim("C1", 1.0), claim("C2", 3.9)
    response = noisy(3.0, 1.5)
    both = StudyLab(study_of(PAIR, clear, slow), response)
    alone = StudyLab(study_of(PAIR, clear), response)
    assert both.verdicts["C2"].n > both.verdicts["C1"].n == alone.verdicts["C1"].n == 12
    assert both.verdicts["C1"].estimate == alone.verdicts["C1"].estimate


def test_a_look_that_is_not_complete_leaves_the_word_of_the_last_one():
    study, response = study_of(PAIR, claim("C1", 1.0)), noisy(1.0, 1.0)
    lab = StudyLab(study, response, upto=3)  # tuning, 12 seeds, and then 12 more were asked for
    known = look_at_study(study, "quick", lab.records, MEMORY)
    few = {n: r for n, r in lab.records.items() if r.config["seed"] < FIRST_SEED + 20}
    for records, n in ((lab.records, len(known.paths[0])), (few, 1)):
        paths = look_at_study(study, "quick", records, MEMORY).paths
        assert [c.n for c in paths[0]] == [12, 24][:n]
    assert decide(look_at_study(study, "quick", few, MEMORY).paths[0]).word == "supported"


def test_runs_that_decide_nothing_hold_up_no_look():
    """A run that never finishes leaves the word of the last look, if a contrast depends on it."""
    follows = tuple(
        FollowUp(name, "batch", "none", settings={"norm.momentum": momentum}, is_secondary=second)
        for name, momentum, second in (("counts", 0.5, False), ("shown", 0.6, True))
    )
    study = study_of(replace(SETUP, follows=follows), claim("C1", 1.0))
    lab = StudyLab(study, noisy(1.0, 1.0))
    assert [look.n for look in lab.verdicts["C1"].path] == [12, 24, 48]
    for arm, stage, path in (
        ("none", "report", [12, 24]),
        ("batch", "follow: counts", [12, 24]),
        ("batch", "follow: shown", [12, 24, 48]),
        ("group", "report", [12, 24, 48]),
        ("group", "tune", [12, 24, 48]),
    ):
        (*_, lost) = (n for n, w in lab.known.wanted.items() if (w.arm, w.stage) == (arm, stage))
        few = {name: run for name, run in lab.records.items() if name != lost}
        known = look_at_study(study, "quick", few, MEMORY)
        assert [contrast.n for contrast in known.paths[0]] == path, stage
        assert lost in known.wanted and known.wanted.keys() <= lab.known.wanted.keys()


def test_an_arm_that_is_followed_decides_although_it_is_screened():
    follow = FollowUp("again", "batch", "group")
    for is_secondary, decides in ((False, True), (True, False)):
        setup = replace(SETUP, follows=(replace(follow, is_secondary=is_secondary),))
        found = [setup.decides(arm, "tune") for arm in (NONE, BATCH, GROUP)]
        assert found == [True, True, decides]
        assert setup.decides(BATCH, "follow: again") == decides


def test_an_arm_that_fails_at_every_rate_is_compared_by_whether_it_trains():
    lab = StudyLab(
        study_of(PAIR, claim("C1", 1.0)),
        lambda norm, exponent, seed: 0.2 if norm == "none" and seed % 3 else 0.9 - 0.001 * seed % 2,
    )
    verdict = lab.verdicts["C1"]
    assert (verdict.word, verdict.n) == ("supported", TRAINED_SEEDS)
    assert verdict.contrast.estimator.name == "discordant" and verdict.contrast.sesoi == 0.0
    assert set(verdict.contrast.effects.values()) == {0.0, 1.0}
    fewer = sum(verdict.contrast.effects.values())  # seeds in which batch alone trains
    assert verdict.estimate.centre == 1.0 and [look.n for look in verdict.path] == [48]
    assert verdict.estimate.interval == pytest.approx((2 * 0.005 ** (1 / fewer) - 1, 1.0))


@pytest.mark.parametrize("last, word", [(12, "exploratory"), (48, "refuted")])
def test_whether_arms_train_is_said_at_its_own_number_of_seeds_alone(last, word):
    """Here the better arm is the one that fails, in half of its seeds."""

    def response(norm: str, exponent: float, seed: int) -> float:
        return 0.2 if norm == "batch" and seed % 2 else 0.9

    study = study_of(PAIR, claim("C1", 1.0, last=12))
    lab = StudyLab(study, response)
    few = {n: r for n, r in lab.records.items() if r.config["seed"] < FIRST_SEED + last}
    verdict = decide(look_at_study(study, "quick", few, MEMORY).paths[0])
    assert (verdict.word, verdict.n) == (word, last)
    assert verdict.qualifier == ("reversed" if word == "refuted" else "")
    assert verdict.contrast.looks == (TRAINED_SEEDS,)


def test_a_contrast_that_counts_other_runs_keeps_the_seeds_of_its_setup():
    follow = FollowUp("many", "batch", "none", seeds=80)
    setup = replace(PAIR, follows=(follow,), seeds=12)
    share = Effect(
        AT_MOST,
        FAILED,
        "share",
        lambda e: {s: float(is_failed(run)) for s, run in e.runs_of("many").items()},
    )
    risk = Claim("C1", "s", "setup", share, sesoi=0.05, looks=(80,), setup_seeds=3)
    lab = StudyLab(
        study_of(setup, risk),
        lambda norm, exponent, seed: 0.2 if seed % 2 else 0.9 - 0.01 * exponent,
    )
    assert (lab.verdicts["C1"].word, lab.verdicts["C1"].n) == ("refuted", 80)
    assert lab.verdicts["C1"].estimate.centre == 0.5
    assert len(lab.known.setups["setup"].runs_of("none")) == 3


def test_seeds_without_a_finite_effect_are_counted_as_not_measured():
    found = {0: 1.0, 1: math.nan, 2: math.inf, 3: 2.0}
    difference = replace(WORSE, measure=lambda e: found)
    setup = replace(PAIR, seeds=4, grows=False)
    lab = StudyLab(study_of(setup, replace(claim("C1", 1.0), effect=difference)), noisy(0.0, 0.0))
    contrast = lab.verdicts["C1"].contrast
    assert contrast.effects == {0: 1.0, 3: 2.0}
    assert (contrast.not_measured, contrast.n) == (2, 4)


def test_other_seeds_make_a_verdict_exploratory():
    study = study_of(PAIR, claim("C1", 1.0))
    for seeds, word in ((5, "exploratory"), (12, "supported")):
        lab = StudyLab(adapt(study, seeds=seeds), noisy(3.0, 0.5))
        assert (lab.verdicts["C1"].word, lab.verdicts["C1"].n) == (word, seeds)


def test_nothing_is_asked_twice_and_the_order_of_the_records_does_not_matter():
    study = study_of(WINDOWED, claim("C1", 1.0))
    lab = StudyLab(study, bowl({"none": -1.5, "batch": -1.0}))
    turned: dict[str, Record] = dict(reversed(lab.records.items()))
    again = look_at_study(study, "quick", turned | {"x": next(iter(turned.values()))})
    assert again.wanted == lab.known.wanted and len(lab.records) == len(lab.known.wanted)
    e: Any = SetupLooks(WINDOWED, lab.records, MEMORY)
    assert isinstance(e.at(4), SetupRuns) and e.at(4) is e.at(4)
