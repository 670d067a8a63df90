"""The studies: complete, fair, and with the contrasts that were fixed before anything ran."""

from __future__ import annotations

import re

import pytest

from normlab.data import DATASETS
from normlab.runs.config import ConfigError, resolve
from normlab.studies.hypothesis_tests import MAX_ERROR
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.rules import rule_of
from normlab.studies.setup import Setup, Sweep, Tuning, load_config
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
IN_FULL = {"convergence", "learning_rate", "regularization", "depth", "batch_size", "accuracy"}
PLANNED = ("quick", "standard")
# id: (test, unit, n, delta quick, delta standard, gate); None: not in that profile
RULE_BOOK = {
    "C1t-mlp": ("wilcoxon", "octaves", 12, 0.32, 0.32, ""),
    "C1t-cnn": ("wilcoxon", "octaves", 12, 0.32, 0.32, ""),
    "C3a": ("t", "decades per layer", 12, 0.05, 0.05, ""),
    "C3b": ("t", "decades per layer", 12, 0.05, 0.05, ""),
    "C3c": ("t", "decades", 12, 0.3, 0.3, ""),
    "C4a": ("t", "points", 20, 1.0, 0.5, ""),
    "C4b": ("t", "points", 20, 1.0, 0.5, ""),
    "C4c": ("t", "points", 12, 5.0, 5.0, ""),
    "C5a": ("wilcoxon", "factors of 4", 12, 1.0, 1.0, ""),
    "C5b-1": ("tail", "decades", 30, 0.3, 0.3, ""),
    "C5b-0.25": ("tail", "decades", 30, 0.3, 0.3, ""),
    "C6a": ("wilcoxon", "octaves", 12, 0.5, 0.5, ""),
    "C6b": ("wilcoxon", "octaves", 12, 0.5, 0.5, ""),
    "C7a": ("t", "octaves", 12, 0.5, 0.5, ""),
    "C7b-mlp": ("t", "-", 12, 0.05, 0.05, ""),
    "C7b-cnn": ("t", "-", 12, 0.05, 0.05, ""),
    "C7c": ("wilcoxon", "octaves", 12, 0.0, 0.0, ""),
    "C8c": ("t", "points", 12, 1.0, 1.0, ""),
    "C10b-layer": ("t", "points", 8, None, 0.5, ""),
    "C10b-group": ("t", "points", 8, None, 0.5, ""),
    "C10b-instance": ("t", "points", 8, None, 0.5, ""),
    "C13": ("t", "points", 12, 1.0, 0.3, ""),
    "C14a": ("bound", "nats", 3, 1e-4, 1e-4, ""),
    "C14b": ("t", "points", 10, 0.2, 0.2, ""),
    "C1a": ("wilcoxon", "octaves", 12, 0.32, 0.32, ""),
    "C1b": ("wilcoxon", "octaves", 12, 0.32, 0.32, ""),
    "C2-mlp": ("wilcoxon", "decades", 12, 0.3, 0.3, ""),
    "C2-cnn": ("wilcoxon", "decades", 8, 0.3, 0.3, ""),
    "C2r-mlp": ("share", "share failed", 80, 0.05, 0.05, ""),
    "C2r-cnn": ("share", "share failed", 80, 0.05, 0.05, ""),
    "C8a": ("t", "points", 12, 1.0, 1.0, ""),
    "C8b": ("t", "points", 12, 1.0, 0.5, ""),
    "C10a-layer": ("t", "points", 12, 1.0, 1.0, "C8a"),
    "C10a-group": ("t", "points", 12, 1.0, 1.0, "C8a"),
}
PLACES = ("normalized", "scaled", "received", "evaluation")
SEEDS_OF_ACCURACY = {"quick": 20, "standard": 12}
HALF_DECADES = (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5)


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


@pytest.mark.parametrize("profile", PLANNED)
def test_contrasts_are_those_of_the_rule_book(profile):
    rows = [row for study in STUDIES.values() for row in rows_of(study, profile)]
    found = {r.id: (r.test.name, r.unit.name, r.n, r.sesoi, r.prerequisite) for r in rows}
    planned = {
        name: (test, unit, n, quick if profile == "quick" else standard, gate)
        for name, (test, unit, n, quick, standard, gate) in RULE_BOOK.items()
        if profile == "standard" or quick is not None
    }
    n, delta = SEEDS_OF_ACCURACY[profile], 1.0 if profile == "quick" else 0.3
    planned["C11"] = ("t", "points", n, delta, "")
    for place in PLACES:
        for net in ("mlp", "cnn"):
            planned[f"C12-{net}-{place}"] = ("band", "share of channels", 3, 0.95, "")
    assert len(rows) == len(found) and found == planned


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
def test_everything_else_is_equal_and_as_fixed(setup):
    config = config_of(setup, **setup.arms[0].settings)
    if setup.base in ("tutorial", "cifar10_resnet"):
        return  # as the articles have them
    assert config["optim.name"] == "momentum" and config["optim.momentum"] == 0.9
    assert config["optim.weight_decay"] == 0 and config["norm.epsilon"] == 1e-5
    assert (config["optim.schedule"] == "constant") == (setup.name != "accuracy-cnn")
    assert config["init.gain"] == 1 or setup.name.startswith("initial-")
    assert config["eval.stats_examples"] == min(512, config["data.train_examples"] or 512)
    assert config["train.stop_at"] == 0


@pytest.mark.parametrize("setup", SETUPS)
def test_tuning_and_reporting_seeds_are_disjoint(setup):
    reporting = {setup.seeds, setup.screening_seeds, *(f.seeds for f in setup.follows)}
    if isinstance(setup.protocol, Tuning):
        assert setup.protocol.seeds == (1000, 1001, 1002)
        assert max(reporting) <= min(setup.protocol.seeds)
        if setup.base == "tutorial":
            assert setup.protocol.exponents == (-3.0,) and setup.protocol.extensions == 0
        elif setup.name in ("depth-relu", "depth-resnet"):
            assert setup.protocol.exponents == tuple(e / 2 for e in range(-9, 0))
        else:
            assert setup.protocol.exponents == HALF_DECADES
            assert (setup.protocol.spacing, setup.protocol.extensions) == (0.5, 4)
    assert setup.screening_seeds == 5 or setup.name.startswith("moments")


@pytest.mark.parametrize(
    "name, profile, setup, settings",
    [
        ("convergence", "quick", 0, {"train.steps": 1500, "model.act": "sigmoid"}),
        ("convergence", "quick", 1, {"train.steps": 300, "model.widths": (16, 32, 64)}),
        ("convergence", "standard", 0, {"train.steps": 10_000, "data.batch": 60}),
        ("convergence", "standard", 1, {"train.steps": 1000, "data.name": "fashion_mnist"}),
        ("learning_rate", "quick", 0, {"train.steps": 300, "model.act": "relu"}),
        ("learning_rate", "standard", 0, {"train.steps": 300, "model.act": "sigmoid"}),
        ("batch_size", "quick", 0, {"train.steps": 300, "data.batch": 64}),
        ("batch_size", "quick", 2, {"train.steps": 4800, "data.batch": 4}),
        ("batch_size", "standard", 1, {"train.steps": 600, "model.name": "cnn"}),
    ],
)
def test_sizes_are_those_of_the_rule_book(name, profile, setup, settings):
    chosen = STUDIES[name].setups[profile][setup]
    config = config_of(chosen, **chosen.arms[0].settings)
    assert {n: config[n] for n in settings} == settings


def test_targets_and_grids_of_the_rule_book():
    def targets(name: str) -> list[float]:
        return [s.target for p in PLANNED for s in STUDIES[name].setups[p]]

    assert targets("convergence") == [0.90, 0.95, 0.95, 0.85]
    assert targets("learning_rate") == [0.90, 0.90, 0.90, 0.80]
    mlp, cnn = (s.protocol for s in STUDIES["learning_rate"].setups["quick"])
    assert isinstance(mlp, Sweep) and isinstance(cnn, Sweep)
    assert (mlp.exponents[0], mlp.exponents[-1], len(mlp.exponents)) == (-2, 2, 17)
    assert (cnn.exponents[0], cnn.exponents[-1], len(cnn.exponents)) == (-1.5, 1.5, 13)
    mlp_arms = {a.name for a in STUDIES["batch_size"].setups["quick"][0].arms if a.is_primary}
    cnn_arms = {a.name for a in STUDIES["batch_size"].setups["quick"][1].arms if a.is_primary}
    assert mlp_arms == {"batch/4", "batch/64"} and cnn_arms == {"batch/2", "batch/64"}


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
