"""The controls of the rule: made-up worlds, and what is counted in them."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from benchmarks.validation import calibration
from benchmarks.validation.calibration import (
    BEST,
    DELTA,
    FLOOR,
    SETUP,
    NamedConfigs,
    World,
    checks_of,
    contradicted,
    coverage,
    differing,
    limit,
    repeat,
    run_of,
    shares,
)
from normlab.studies.metrics import error_points

CACHE = NamedConfigs()
FEW = 12


@pytest.fixture(scope="module")
def worlds():
    return {truth: repeat(truth, FEW, CACHE) for truth in (-1.0, 0.0, 1.5)}


def test_a_world_has_the_effect_that_was_planted():
    """The mean over many seeds, at each arm's best rate: a floor, and delta for the worse arm."""
    world, seeds = World(1.5, 7, CACHE.by_name), range(400)
    found = {
        arm: [error_points(run_of(world, CACHE, arm, BEST[arm], s)) for s in seeds] for arm in BEST
    }
    assert statistics.fmean(found["batch"]) == pytest.approx(FLOOR, abs=0.15)
    effects = np.subtract(found["none"], found["batch"])
    assert effects.mean() == pytest.approx(1.5 * DELTA, abs=0.15)
    assert effects.std() < 1.2 < np.hypot(np.std(found["none"]), np.std(found["batch"])) + 0.3


def test_rates_away_from_the_best_cost_and_runs_repeat():
    world = World(0.0, 7, CACHE.by_name)
    near, far = (
        statistics.fmean(error_points(run_of(world, CACHE, "none", e, s)) for s in range(200))
        for e in (BEST["none"], BEST["none"] + 1.0)
    )
    assert far - near == pytest.approx(calibration.CURVATURE, abs=0.3)
    one, same, other = (
        run_of(World(0.0, r, CACHE.by_name), CACHE, "none", -1.0, 3) for r in (7, 7, 8)
    )
    assert one == same and one.final != other.final


def test_the_words_are_those_of_the_truth(worlds):
    assert {r.word for r in worlds[1.5]} == {"supported"}
    assert {r.qualifier for r in worlds[-1.0]} == {"reversed"}
    assert {r.word for r in worlds[0.0]} == {"refuted"}
    for found in worlds.values():
        assert all(r.first.n == 12 and r.path[0] is r.first for r in found)
    assert contradicted(worlds[1.5]) == 0.0


def test_an_interval_that_is_moved_covers_nothing(worlds):
    inside, ratio = coverage(worlds[0.0], 0.0)
    assert inside >= 0.7 and 0.4 < ratio < 2.0
    assert coverage(worlds[0.0], 5.0)[0] == 0.0


def test_a_word_that_turns_is_a_contradiction(worlds):
    class Turned:
        path = (worlds[1.5][0].first, worlds[-1.0][0].first)

    assert contradicted([Turned(), *worlds[0.0][:3]]) == 0.25  # pyright: ignore


@pytest.mark.parametrize(
    "words, differ, hard",
    [
        (["open"] * 4, 0.0, 0.0),
        (["supported", "refuted"], 1.0, 1.0),
        (["supported", "supported", "open"], 2 / 3, 0.0),
        (["supported", "refuted", "open"], 1.0, 1 / 3),
    ],
)
def test_pairs_of_repetitions_are_counted(words, differ, hard):
    assert differing(words) == pytest.approx((differ, hard))


def test_shares_and_limits():
    assert shares(["open", "open", "refuted", "supported"]) == {
        "supported": 0.25,
        "refuted": 0.25,
        "open": 0.5,
    }
    assert limit("x", 0.011, most=0.01).holds is False and limit("x", 0.01, most=0.01).holds
    assert limit("x", 0.98, 0.98).holds and not limit("x", 0.979, 0.98).holds
    assert limit("x", 0.92, 0.93, 0.97).holds is False
    assert limit("x", 0.95, 0.93, 0.97).line == ["x", "93% to 97%", "95.0%", "pass"]


def test_every_control_is_judged(worlds):
    found = {check.name: check for check in checks_of(worlds)}
    assert len(found) == 9 and all(check.holds is not None for check in found.values())
    for name in ("no effect: refuted", "1.5 delta: supported", "-delta: reversed"):
        assert found[name].holds
    swapped = {-1.0: worlds[1.5], 0.0: worlds[1.5], 1.5: worlds[-1.0]}
    wrong = {check.name for check in checks_of(swapped) if not check.holds}
    assert {"no effect: refuted", "1.5 delta: supported", "-delta: reversed"} <= wrong
    assert "no effect: supported or small" in wrong


def test_the_old_rule_is_decided_at_12_seeds_and_a_coarse_rate(worlds):
    assert {r.old for r in worlds[1.5]} <= {"supported", "open"}
    assert {r.old for r in worlds[-1.0]} == {"refuted"}
    assert SETUP.protocol.seeds == (1000, 1001, 1002)
