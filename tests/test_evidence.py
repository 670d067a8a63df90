"""Planning: which runs a setup asks for, stage by stage, with made-up answers instead of training.

`Lab` plays the part of the workers: a response function says how accurate a run of an arm ends at
a rate, and every look at the setup trains what is wanted, until nothing is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.setup import Arm, FollowUp, Setup, Sweep, Tuning, rate_of

Response = Callable[[str, float, int], float]
"""(norm, exponent of the rate, seed) -> final accuracy."""

NONE = Arm("none", {"norm.name": "none"}, is_primary=True)
BATCH = Arm("batch", {"norm.name": "batch"}, is_primary=True)
GROUP = Arm("group", {"norm.name": "group"})
TUNING = Tuning((-2.0, -1.5, -1.0), 0.5, "error")
SETUP = Setup("setup", "title", "digits_mlp", (NONE, BATCH, GROUP), TUNING, seeds=4)


class Lab:
    """Answers what a setup asks for; `looks` holds what was wanted anew at each look."""

    def __init__(self, setup: Setup, response: Response):
        self.setup, self.response = setup, response
        self.records: dict[str, Record] = {}
        self.looks: list[list[RequiredRun]] = []
        self.evidence = SetupRuns(setup, self.records, MEMORY)
        while not self.evidence.is_complete:
            wanted = self.evidence.wanted.values()
            self.looks.append([w for w in wanted if w.run_id not in self.records])
            self.records |= {w.run_id: self.train(w) for w in self.looks[-1]}
            self.evidence = SetupRuns(setup, self.records, MEMORY)

    def train(self, wanted: RequiredRun) -> Record:
        config = wanted.config
        exponent = round(math.log10(config["optim.lr"]), 3)
        end = self.response(config["norm.name"], exponent, config["seed"])
        curve = [{"step": 10, "accuracy": 0.1}, {"step": 300, "accuracy": end}]
        return Record(wanted.run_id, config, "trained", {"validation_accuracy": end}, curve)

    def configs(self, arm: str, stage: str) -> list[Config]:
        wanted = self.evidence.wanted.values()
        return [w.config for w in wanted if (w.arm, w.stage) == (arm, stage)]

    def exponents(self, arm: str, stage: str) -> list[float]:
        rates = {config["optim.lr"] for config in self.configs(arm, stage)}
        return sorted(round(math.log10(r), 2) for r in rates)

    def seeds(self, arm: str, stage: str) -> set[int]:
        return {config["seed"] for config in self.configs(arm, stage)}


MEMORY = ConfigCache()


def peak(best: dict[str, float]) -> Response:
    """Return accuracies that fall with the distance from each norm's best rate."""
    return lambda norm, exponent, seed: 0.95 - 0.05 * abs(exponent - best[norm])


INSIDE = peak({"none": -1.5, "batch": -1.5, "group": -1.5})


def stages(look: list[RequiredRun]) -> Counter[tuple[str, str]]:
    return Counter((w.arm, w.stage) for w in look)


def test_tuning_first_then_reports_with_fresh_seeds():
    lab = Lab(SETUP, INSIDE)
    assert [set(s for _, s in stages(look)) for look in lab.looks] == [{"tune"}, {"report"}]
    assert stages(lab.looks[0]) == {(a, "tune"): 9 for a in ("none", "batch", "group")}
    assert stages(lab.looks[1]) == {
        ("none", "report"): 4,
        ("batch", "report"): 4,
        ("group", "report"): 5,  # screening
    }
    assert lab.seeds("none", "tune") == {1000, 1001, 1002}
    assert lab.seeds("none", "report") == {0, 1, 2, 3}
    assert lab.exponents("none", "report") == [-1.5]
    assert lab.evidence.is_complete and lab.evidence.best["none"] == -1.5
    assert set(lab.evidence.runs_of("batch")) == {0, 1, 2, 3}


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
    assert lab.seeds("batch", "follow: batch at none's rate") == {0, 1, 2, 3}
    assert lab.exponents("batch", "follow: tenfold") == [-0.5]
    assert lab.seeds("batch", "follow: tenfold") == set(range(7))
    slow = lab.evidence.follows["slow averages"]
    assert {r.config["norm.momentum"] for r in slow.values()} == {0.99}
    assert lab.exponents("batch", "follow: slow averages") == [-1.0]


SWEEP = replace(SETUP, protocol=Sweep((-1.0, -0.5, 0.0), 0.5), target=0.9, screening_seeds=2)


def up_to(limits: dict[str, float]) -> Response:
    return lambda norm, exponent, seed: 0.95 if exponent <= limits[norm] else 0.2


def test_a_sweep_grows_upwards_until_two_rates_fail_for_all_seeds():
    lab = Lab(SWEEP, up_to({"none": -0.5, "batch": 1.0, "group": -0.5}))
    grid = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert lab.exponents("batch", "sweep") == lab.exponents("none", "sweep") == grid
    assert lab.exponents("group", "sweep") == [-1.0, -0.5, 0.0, 0.5]
    assert lab.evidence.largest_rates("batch") == {s: 1.0 for s in range(4)}
    assert lab.evidence.best == {"none": -0.5, "batch": 1.0, "group": -0.5}
    assert set(lab.evidence.runs_of("none")) == {0, 1, 2, 3}


def test_one_seed_that_trains_keeps_a_sweep_growing():
    limits = {0: -0.5, 1: -0.5, 2: -0.5, 3: 1.0}
    setup = replace(SWEEP, arms=(NONE, BATCH))
    lab = Lab(setup, lambda _, exponent, seed: 0.95 if exponent <= limits[seed] else 0.2)
    assert lab.exponents("none", "sweep")[-1] == 2.0
    assert lab.evidence.largest_rates("none") == limits
    assert lab.evidence.best["none"] == -0.5  # the median, low


def test_a_sweep_below_the_target_trains_nothing_and_one_above_ends_after_its_extensions():
    lab = Lab(SWEEP, lambda norm, exponent, seed: 0.89)
    assert lab.exponents("none", "sweep") == [-1.0, -0.5, 0.0]
    assert set(lab.evidence.largest_rates("none").values()) == {-math.inf}
    assert lab.evidence.best["none"] == -math.inf
    assert Lab(SWEEP, lambda *_: 0.95).exponents("none", "sweep")[-1] == 4.0


def test_a_follow_up_of_a_sweep_takes_the_median_largest_rate_if_there_is_one():
    follow_up = FollowUp("tenfold", arm="batch", rate_of="none", factor=10, seeds=80)
    setup = replace(SWEEP, follows=(follow_up,))
    lab = Lab(setup, up_to({"none": -0.5, "batch": 0.0, "group": 0.0}))
    assert {r.config["optim.lr"] for r in lab.evidence.follows["tenfold"].values()} == {3.162}
    assert len(lab.evidence.follows["tenfold"]) == 80
    never = Lab(setup, up_to({"none": -9, "batch": 0.0, "group": 0.0}))
    assert never.evidence.follows == {} and never.evidence.is_complete


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
    assert len(evidence.wanted) == 9
