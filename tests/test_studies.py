"""The studies: complete, fair, and with the contrasts that were fixed before anything ran."""

from __future__ import annotations

import re

import pytest
from normlab.studies.hypothesis_tests import MAX_ERROR

from normlab.data import DATASETS
from normlab.runs.config import ConfigError, resolve
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.rules import HASHES_BEFORE_CONTENT, digest, rule_of
from normlab.studies.setup import Setup, load_config
from normlab.studies.study import (
    PROFILES,
    Study,
    adapt,
    check_study,
    load_study,
    study_names,
    varied_settings,
)

STUDIES = {name: load_study(name) for name in study_names()}
SETUPS = [
    pytest.param(setup, id=f"{profile}-{setup.name}")
    for study in STUDIES.values()
    for profile, setups in study.setups.items()
    for setup in setups
]
CASES = [(name, profile) for name, study in STUDIES.items() for profile in study.setups]
CHANGED: dict[tuple[str, str], str] = {}
"""(study, profile) -> why its rule is no longer that of the first results."""
IN_FULL = {"convergence", "learning_rate", "regularization", "depth", "batch_size", "accuracy"}


@pytest.fixture(autouse=True)
def all_data_are_there(monkeypatch):
    """Studies of the standard profile resolve without their data sets prepared here."""
    monkeypatch.setattr("normlab.runs.config.check", lambda name, data_dir: DATASETS[name])


def rows_of(study: Study, profile: str) -> list:
    memory = ConfigCache()
    setups = {s.name: SetupRuns(s, {}, memory) for s in study.setups.get(profile, ())}
    return study.contrasts(setups, profile)


def config_of(setup: Setup, **settings) -> dict:
    return resolve(load_config(setup.base) | setup.settings | settings).config


@pytest.mark.parametrize("name", STUDIES)
def test_study_says_all_it_must(name):
    study = STUDIES[name]
    assert study.name == name and {"quick", "standard"} <= set(study.setups) <= set(PROFILES)
    assert ("full" in study.setups) == (name in IN_FULL)
    for text in (study.title, study.question, study.source, study.expect, study.refuted_if):
        assert text.strip()
    assert study.fair_test and study.cost
    assert name == "tutorial" or re.search(r"arXiv:\d{4}\.\d{5}", study.source)
    assert study.variant == "" and study.planned is None


@pytest.mark.parametrize("name, profile", CASES)
def test_study_can_run(name, profile):
    check_study(STUDIES[name], profile)
    for setup in STUDIES[name].setups[profile]:
        assert SetupRuns(setup, {}).wanted
        for follow in setup.follows:
            arm, of = setup.arm(follow.arm), setup.arm(follow.rate_of)
            assert arm and of
            resolve(load_config(setup.base) | setup.settings | arm.settings | follow.settings)
    for figure in STUDIES[name].figures:
        assert profile == "full" or figure.setup in {s.name for s in STUDIES[name].setups[profile]}


@pytest.mark.parametrize("name, profile", CASES)
def test_rules_are_those_of_the_results(name, profile):
    """Every claim, arm, setting, rate and seed: results are decided by the rule of their time."""
    known = HASHES_BEFORE_CONTENT.get(name, {"digests": {}})["digests"].get(profile)
    today = digest(rule_of(STUDIES[name], profile))
    assert known in (None, today) or (name, profile) in CHANGED


@pytest.mark.parametrize("name, profile", CASES)
def test_rows_match_what_is_planned(name, profile):
    """The n of a row is the number of seeds that its setup really runs."""
    setups = {s.name: s for s in STUDIES[name].setups[profile]}
    ids = {row.id for row in rows_of(STUDIES[name], profile)}
    for row in rows_of(STUDIES[name], profile):
        setup = setups[row.setup]
        planned = {setup.seeds} | {f.seeds for f in setup.follows}
        assert row.effects == {}
        if row.test is not MAX_ERROR:  # the benchmark's, with its own n and scope
            assert row.n in planned and row.scope == setup.title
        assert not row.prerequisite or row.prerequisite in ids


@pytest.mark.parametrize("setup", SETUPS)
def test_primary_arms_differ_in_the_norm_alone(setup):
    """Those that are tuned together; the question itself may be a placement."""
    groups: dict[str, list] = {}
    for arm in setup.arms:
        if arm.is_primary:
            groups.setdefault(arm.group, []).append(config_of(setup, **arm.settings))
    for configs in groups.values():
        assert len(configs) >= 2 or setup.name.startswith("moments")
        for config in configs[1:]:
            differing = {n for n in config if config[n] != configs[0][n]}
            legal = {"model.placement"} if setup.name == "placement-cnn" else set()
            assert all(n.startswith("norm.") or n in legal for n in differing), differing


@pytest.mark.parametrize("setup", SETUPS)
def test_tuning_and_reporting_seeds_are_disjoint(setup):
    reporting = {setup.seeds, setup.screening_seeds, *(f.seeds for f in setup.follows)}
    assert not setup.protocol.seeds or max(reporting) <= min(setup.protocol.seeds)


@pytest.mark.parametrize("name", STUDIES)
def test_the_planned_n_does_not_follow_the_command_line(name):
    planned = {row.id: row.n for row in rows_of(STUDIES[name], "standard")}
    fewer = {row.id: row.n for row in rows_of(adapt(STUDIES[name], seeds=2), "standard")}
    assert fewer == planned and 2 not in planned.values()


STUDY = STUDIES["batch_size"]


@pytest.mark.parametrize("name, value", [("norm.name", "group"), ("optim.lr", 0.1), ("seed", 3)])
def test_overriding_what_is_varied_is_refused(name, value):
    assert name in varied_settings(STUDY)
    with pytest.raises(ConfigError, match=rf"varies {name} itself.*--only={name}={value}$"):
        adapt(STUDY, overrides={name: value})


def test_unknown_overrides_and_arms_are_refused():
    with pytest.raises(ConfigError, match="unknown setting 'optim.momntum'; did you mean 'optim.m"):
        adapt(STUDY, overrides={"optim.momntum": 0.8})
    with pytest.raises(ConfigError) as refusal:
        adapt(STUDY, arms=("batch", "nope"))
    assert "has no arm 'nope'" in str(refusal.value) and "batch/64" in str(refusal.value)
    with pytest.raises(ConfigError, match="no profile 'full' .profiles: quick, standard"):
        check_study(STUDIES["moments"], "full")
    with pytest.raises(ConfigError, match="unknown study .nope. .studies: accuracy, .*all"):
        load_study("nope")


def test_an_override_is_a_variant_with_runs_of_its_own():
    variant = adapt(STUDY, overrides={"optim.momentum": 0.8, "host.chunk": 7})
    assert variant.variant == "optim.momentum=0.8"  # the host's settings change no result
    plain, changed = (set(SetupRuns(s.setups["quick"][0], {}).wanted) for s in (STUDY, variant))
    assert plain and not plain & changed
    assert rule_of(variant, "quick") == rule_of(STUDY, "quick")


def test_a_bad_override_is_refused_for_every_arm():
    with pytest.raises(ConfigError, match="norm.groups = 7 does not divide the 100 channels"):
        check_study(adapt(STUDY, overrides={"norm.groups": 7}), "quick")


def test_fewer_arms_and_other_seeds():
    study = adapt(STUDIES["learning_rate"], arms=("batch", "layer"), seeds=3)
    for setup in study.setups["quick"]:
        assert [a.name for a in setup.arms] == ["batch", "layer"]
        assert (setup.seeds, setup.screening_seeds) == (3, 3)
        assert setup.follows == ()  # it needs the rate of none
    assert study.variant == ""
    whole = adapt(STUDIES["learning_rate"], seeds=3).setups["quick"][0]
    assert [f.seeds for f in whole.follows] == [0]
    assert adapt(STUDY).setups == STUDY.setups


def test_claims_stand_when_arms_are_left_out():
    for name, study in STUDIES.items():
        primary = [a.name for s in study.setups["quick"] for a in s.arms if a.is_primary]
        few = adapt(study, arms=(primary[-1],))
        assert name == "moments" or all(row.effects == {} for row in rows_of(few, "quick"))
