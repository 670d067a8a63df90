"""Tuning of further settings with the rate: every combination is tried, validation chooses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from lab import BATCH, NONE, SEEDS, SETUP, TUNING, Lab, study_of

from normlab.report.protocol import protocol_facts
from normlab.runs.errors import ConfigError
from normlab.runs.record import Record
from normlab.studies.planning import ConfigCache, RequiredRun
from normlab.studies.rules import rule_of
from normlab.studies.setup import FollowUp, Setup
from normlab.studies.study import adapt

DECAYS = (1e-4, 1e-3, 1e-2)
ALSO = (("optim.weight_decay", DECAYS),)
TWICE = replace(
    SETUP, arms=(NONE, BATCH), protocol=replace(TUNING, also=ALSO, reported="window", extensions=2)
)
BEST = {"none": (-1.5, 1e-4), "batch": (-1.0, 1e-3)}
"""Exponent of the rate and weight decay at which each arm is best."""
SETUP_ALONE = replace(SETUP, arms=(NONE, BATCH))
MORE = (*ALSO, ("optim.momentum", (0.8, 0.9)))


class Decays(Lab):
    """Runs that are the worse the farther rate and weight decay are from the best of their arm."""

    fails: tuple[float, ...] = ()
    """Weight decays at which one run of six fails, by little."""
    cost: float = 0.5
    """Of a decade of weight decay, in decades of the rate."""

    def train(self, wanted: RequiredRun) -> Record:
        run, (rate, decay) = super().train(wanted), BEST[wanted.config["norm.name"]]
        away = abs(math.log10(wanted.config["optim.lr"]) - rate)
        away += self.cost * abs(math.log10(max(1e-4, wanted.config["optim.weight_decay"]) / decay))
        end = 0.95 - 0.05 * away + 0.01 * (wanted.config["optim.momentum"] == 0.8)
        if wanted.config["optim.weight_decay"] in self.fails and wanted.config["seed"] == 1000:
            end = 0.45
        return replace(run, final={f"{part}_accuracy": end for part in ("validation", "test")})


def lab_of(setup: Setup, **facts: object) -> Lab:
    return type("Some", (Decays,), facts)(setup, lambda *_: 0.5)


def decays(lab: Lab, arm: str, stage: str) -> set[float]:
    return {config["optim.weight_decay"] for config in lab.configs(arm, stage)}


def test_each_arm_takes_the_best_combination_and_reports_there():
    lab = lab_of(TWICE)
    for arm, (rate, decay) in BEST.items():
        assert lab.evidence.also[arm] == {"optim.weight_decay": decay}
        assert decays(lab, arm, "report") == {decay} and lab.seeds(arm, "report") == SEEDS
        assert lab.evidence.best[arm] == rate
        assert decays(lab, arm, "tune") == set(DECAYS)


def test_all_arms_have_the_same_trials_and_the_grid_grows_for_all_combinations():
    """The best rate of batch is the last one at first."""
    lab = lab_of(TWICE)
    assert lab.exponents("none", "tune") == lab.exponents("batch", "tune") == [-2, -1.5, -1, -0.5]
    for arm in BEST:
        assert len(lab.configs(arm, "tune")) == 4 * len(DECAYS) * len(TUNING.seeds)


def test_two_further_settings_are_tried_in_every_combination():
    lab = lab_of(replace(TWICE, protocol=replace(TWICE.protocol, also=MORE)))
    taken = {
        arm: {"optim.weight_decay": at, "optim.momentum": 0.8} for arm, (_, at) in BEST.items()
    }
    assert lab.evidence.also == taken
    assert len(lab.configs("none", "tune")) == 4 * len(DECAYS) * 2 * len(TUNING.seeds)


def test_a_combination_that_fails_too_often_is_not_taken():
    """Though its mean is the best: the next one is 20 points worse."""
    lab = lab_of(TWICE, fails=(1e-4,), cost=4.0)
    assert lab.evidence.also["none"] == {"optim.weight_decay": 1e-3}


def test_a_follow_up_has_the_combination_of_its_arm():
    lab = lab_of(replace(TWICE, follows=(FollowUp("batch as none", "batch", "none"),)))
    assert decays(lab, "batch", "follow: batch as none") == {1e-3}


def test_the_page_has_a_line_with_what_was_taken_and_the_edges():
    facts = dict(protocol_facts(lab_of(TWICE).evidence))
    assert facts["Tuned with the rate"] == (
        "optim.weight_decay of 0.0001, 0.001, 0.01, in every combination with the whole grid of "
        "rates, on validation. Taken: none optim.weight_decay=0.0001 (optim.weight_decay at the "
        "edge); batch optim.weight_decay=0.001."
    )
    assert "Tuned with the rate" not in dict(protocol_facts(lab_of(SETUP_ALONE).evidence))


def test_the_rule_names_it_and_rules_without_it_stay_as_they_were():
    plain, further = (
        rule_of(study_of(setup), "quick", ConfigCache())["setups"]["setup"]["protocol"]
        for setup in (SETUP_ALONE, replace(TWICE, protocol=replace(TUNING, also=ALSO)))
    )
    assert "also" not in plain
    assert further == plain | {"also": [["optim.weight_decay", list(DECAYS)]]}


def test_what_is_tuned_cannot_be_overridden():
    with pytest.raises(ConfigError, match=r"varies optim\.weight_decay itself"):
        adapt(study_of(TWICE), overrides={"optim.weight_decay": 0.1})
