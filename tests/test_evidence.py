"""Planning: which runs a setup asks for, stage by stage, with made-up answers to them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from lab import INSIDE, MEMORY, NONE, SEEDS, SETUP, TUNING, Lab, peak

from normlab.runs.record import Record
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.protocols import rate_of
from normlab.studies.setup import FIRST_SEED, Arm, FollowUp


def stages(look: list[RequiredRun]) -> Counter[tuple[str, str]]:
    return Counter((w.arm, w.stage) for w in look)


def test_tuning_first_then_reports_with_fresh_seeds():
    lab = Lab(SETUP, INSIDE)
    assert [set(s for _, s in stages(look)) for look in lab.looks] == [{"tune"}, {"report"}]
    assert stages(lab.looks[0]) == {
        ("none", "tune"): 18,
        ("batch", "tune"): 18,
        ("group", "tune"): 9,
    }
    assert stages(lab.looks[1]) == {
        ("none", "report"): 4,
        ("batch", "report"): 4,
        ("group", "report"): 5,  # screening
    }
    assert lab.seeds("none", "tune") == set(range(1000, 1006))
    assert lab.seeds("group", "tune") == set(range(1000, 1003))  # it decides nothing
    assert lab.seeds("none", "report") == SEEDS
    assert lab.exponents("none", "report") == [-1.5]
    assert lab.evidence.is_complete and lab.evidence.best["none"] == -1.5
    assert set(lab.evidence.runs_of("batch")) == SEEDS


@pytest.mark.parametrize(
    "best, primary, group, reports",
    [
        # one edge: both primary arms grow, the screening arm does not
        ((-1.5, -0.5, -1.5), (-2.0, 0.0), (-2.0, -1.0), (-1.5, -0.5, -1.5)),
        # a screening arm grows alone
        ((-1.5, -1.5, -3.0), (-2.0, -1.0), (-3.5, -1.0), (-1.5, -1.5, -3.0)),
        # both edges at once
        ((-2.5, -0.5, -1.5), (-3.0, 0.0), (-2.0, -1.0), (-2.5, -0.5, -1.5)),
        # at most four times
        ((-1.5, 2.0, -1.5), (-2.0, 1.0), (-2.0, -1.0), (-1.5, 1.0, -1.5)),
    ],
)
def test_a_best_rate_on_an_edge_grows_the_grid(best, primary, group, reports):
    names = ("none", "batch", "group")
    lab = Lab(SETUP, peak(dict(zip(names, best, strict=True))))
    for name, (low, high) in zip(names, (primary, primary, group), strict=True):
        assert lab.exponents(name, "tune") == [
            low + i / 2 for i in range(round(2 * (high - low)) + 1)
        ]
    assert tuple(lab.exponents(name, "report")[0] for name in names) == reports
    if primary == (-2.0, 1.0):
        assert len([look for look in lab.looks if stages(look)["batch", "tune"]]) == 5


FAILS_ONCE = {-2.0: 0.7, -1.5: 0.75, -1.0: 0.95}


@pytest.mark.parametrize(
    "response, best",
    [
        # one run at 10^-1 fails: its error is 0.9, so the mean is worse than at -1.5
        (lambda _, x, seed: 0.45 if (x, seed) == (-1, 1001) else FAILS_ONCE.get(x, 0.6), -1.5),
        (lambda *_: 0.9, -4.0),  # of equally good rates the lowest: the edge, grown four times
    ],
)
def test_failures_and_ties_choose_a_rate(response, best):
    assert Lab(replace(SETUP, arms=(NONE,)), response).evidence.best["none"] == best


def test_tuning_for_steps_ends_at_the_target_and_reports_do_not():
    setup = replace(SETUP, protocol=replace(TUNING, metric="steps"), target=0.8)
    lab = Lab(setup, INSIDE)
    stops = {(w.stage, w.config["train.stop_at"]) for w in lab.evidence.wanted.values()}
    assert stops == {("tune", 0.8), ("report", 0.0)} and lab.evidence.times_steps


def test_a_missed_target_counts_as_ten_times_the_steps():
    protocol = replace(TUNING, metric="steps")
    lab = Lab(replace(SETUP, protocol=protocol, target=0.99), INSIDE)
    run = next(iter(lab.records.values()))
    assert protocol.value(run, 0.99) == math.log2(10 * 300)
    diverged = replace(run, status="diverged", curve=[])
    assert protocol.value(diverged, 0.99) == math.log2(10 * 300)
    assert TUNING.value(diverged, 0.9) == 0.9


@pytest.mark.parametrize(
    "steps, rate",
    [
        ((64, 32, 40), -1.25),  # 1, 0 and 0.3 octaves above the best
        ((math.inf, 32, 128), -1.5),  # a miss is 6.6 octaves above, and counts as 3
        ((math.inf, 32, 32), -1.25),  # in the middle of two equal ones
        ((32, 32, 32), -2.0),  # of equal ones the lowest
    ],
)
def test_a_parabola_through_octaves_gives_the_rate(steps, rate):
    protocol = replace(TUNING, metric="steps")
    config = next(iter(SetupRuns(SETUP, {}, MEMORY).wanted.values())).config
    final = {"validation_accuracy": 0.95}
    grid = {}
    for exponent, step in zip(protocol.exponents, steps, strict=True):
        curve = [{"step": step, "accuracy": 0.9}] if step < math.inf else []
        grid[exponent] = {1000: Record("", config, "trained", final, curve)}
    assert protocol.chosen(grid, 0.9) == rate


def test_nothing_is_wanted_twice():
    lab = Lab(SETUP, peak({"none": -1.5, "batch": 0.0, "group": -3.0}))
    asked = [w for look in lab.looks for w in look]
    settings = {tuple(sorted(map(str, w.config.items()))) for w in asked}
    assert len(asked) == len({w.run_id for w in asked}) == len(lab.records) == len(settings)


def test_planning_is_a_function_of_the_records_alone():
    lab = Lab(SETUP, peak({"none": -1.5, "batch": 0.0, "group": -3.0}))
    turned = dict(reversed(lab.records.items()))
    again = SetupRuns(SETUP, turned, ConfigCache())
    assert again.wanted == lab.evidence.wanted and again.best == lab.evidence.best
    assert SetupRuns(SETUP, {}, MEMORY).wanted == SetupRuns(SETUP, {}, ConfigCache()).wanted
    strangers = lab.records | {"x": next(iter(lab.records.values()))}
    assert SetupRuns(SETUP, strangers, MEMORY).wanted == lab.evidence.wanted


def test_reports_wait_for_the_last_tuning_run():
    lab = Lab(SETUP, INSIDE)
    last = next(w.run_id for w in lab.looks[0] if w.arm == "none")
    without = {n: r for n, r in lab.records.items() if n != last}
    evidence = SetupRuns(SETUP, without, MEMORY)
    stage_of = Counter((w.arm, w.stage) for w in evidence.wanted.values())
    assert not stage_of["none", "report"] and not stage_of["batch", "report"]
    assert stage_of["group", "report"] == 5 and not evidence.is_complete
    assert "none" not in evidence.best and evidence.runs_of("none") == {}


def test_follows_take_the_rate_of_another_arm():
    follows = (
        FollowUp("batch at none's rate", arm="batch", rate_of="none"),
        FollowUp("tenfold", arm="batch", rate_of="none", factor=10, seeds=7),
        FollowUp("slow averages", "batch", "batch", settings={"norm.momentum": 0.99}),
    )
    lab = Lab(replace(SETUP, follows=follows), peak({"none": -1.5, "batch": -1.0, "group": -1.5}))
    assert lab.exponents("batch", "follow: batch at none's rate") == [-1.5]
    assert lab.seeds("batch", "follow: batch at none's rate") == SEEDS
    assert lab.exponents("batch", "follow: tenfold") == [-0.5]
    assert lab.seeds("batch", "follow: tenfold") == set(range(FIRST_SEED, FIRST_SEED + 7))
    slow = lab.evidence.follows["slow averages"]
    assert {r.config["norm.momentum"] for r in slow.values()} == {0.99}
    assert lab.exponents("batch", "follow: slow averages") == [-1.0]


@pytest.mark.parametrize("exponent, rate", [(-3, 0.001), (-2.5, 0.003162), (0.25, 1.778), (2, 100)])
def test_rates_have_one_spelling(exponent, rate):
    assert rate_of(exponent) == rate


def test_arms_that_mean_the_same_run_share_it():
    """In a network without space, layer and layer_channels are one."""
    arms = (
        Arm("layer", {"norm.name": "layer"}, is_primary=True),
        Arm("channels", {"norm.name": "layer_channels"}, is_primary=True),
    )
    evidence = SetupRuns(replace(SETUP, arms=arms), {}, MEMORY)
    assert len(evidence.wanted) == 18
