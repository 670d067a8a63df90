"""What makes a result stale and a rule another one: content and versions, never bytes of files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from normlab.runs.files import write_json
from normlab.runs.provenance import changed_facts, timing_place
from normlab.runs.record import Record, is_stale
from normlab.runs.store import Store
from normlab.settings import SETTINGS
from normlab.studies import effects, intervals, metrics, planning, rates, rules, setup
from normlab.studies.intervals import DISCORDANT
from normlab.studies.planning import ConfigCache
from normlab.studies.protocols import Tuning
from normlab.studies.rules import UNKNOWN, differences, read_rule, rule_of, write_rule
from normlab.studies.setup import ROOT, FollowUp
from normlab.studies.study import adapt, load_study
from normlab.studies.units import OCTAVES
from normlab.training.version import HASHES_BEFORE_VERSIONS, TRAINING_VERSION

SOURCE = (ROOT / "experiments" / "batch_size.py").read_text()
STUDY = load_study("batch_size")
OLD = next(iter(HASHES_BEFORE_VERSIONS))


def run(**provenance) -> Record:
    return Record("a", {}, "trained", {}, [], provenance=provenance)


NOW = {"training_version": TRAINING_VERSION}


@pytest.mark.parametrize(
    "provenance, stale",
    [
        (NOW, False),
        ({"training_version": TRAINING_VERSION - 1}, True),
        (NOW | {"restarts": [{"changed": {"cores": [1, 2]}}]}, False),
        (NOW | {"restarts": [{"changed": {"training_version": [0, 1]}}]}, True),
        ({"code": "another"}, True),
        ({}, True),
    ],
)
def test_a_run_is_stale_when_its_training_version_is_another(provenance, stale):
    assert is_stale(run(**provenance)) == stale


def test_results_that_keep_a_hash_have_the_version_of_that_hash(monkeypatch):
    assert is_stale(run(code=OLD)) == (HASHES_BEFORE_VERSIONS[OLD] != TRAINING_VERSION)
    monkeypatch.setitem(HASHES_BEFORE_VERSIONS, OLD, TRAINING_VERSION)
    assert not is_stale(run(code=OLD))
    assert changed_facts({"code": OLD}, {"training_version": TRAINING_VERSION}) == {}
    changed = changed_facts({"code": "x"}, {"training_version": TRAINING_VERSION})
    assert changed == {"training_version": [0, TRAINING_VERSION]}


def test_step_times_are_found_where_older_results_keep_them():
    assert timing_place({"processor": "A", "code": "x"}) == "A, code x"
    assert timing_place({"processor": "A", "training_version": 3}) == "A, training version 3"


def test_a_comment_or_another_file_changes_no_rule(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"# a comment\n{SOURCE}".replace('"batch_size",', '"mine",'))
    moved = load_study(str(path))
    for profile in STUDY.setups:
        rule = rule_of(STUDY, profile)
        assert rule == rule_of(moved, profile) and rule["claims"] and rule["setups"]


def test_the_rule_kept_before_the_first_run_is_compared_with_todays(tmp_path, monkeypatch):
    store = Store(tmp_path / "results").open()
    assert read_rule(store, STUDY, "quick") is None
    write_rule(store, STUDY, "quick", ConfigCache())
    kept = read_rule(store, STUDY, "quick")
    assert kept and kept.changes == () and kept.written.startswith("20")
    for variant in (
        adapt(STUDY, overrides={"optim.momentum": 0.8}),
        adapt(STUDY, arms=("batch/4", "batch/64"), seeds=3),
    ):
        kept = read_rule(store, variant, "quick")
        assert kept and kept.changes == ()  # it explores; the rule is that of the file
    mlp, *others = STUDY.setups["quick"]
    grid = replace(mlp.protocol, exponents=mlp.protocol.exponents[1:])
    changed = replace(
        STUDY,
        setups={"quick": (replace(mlp, protocol=grid, settings={"train.steps": 301}), *others)},
    )
    kept = read_rule(store, changed, "quick")
    assert kept
    lines = "\n".join(kept.changes)
    assert f"{mlp.name}, protocol, exponents: [-3.0, -2.5" in lines
    assert f"{mlp.name}, settings, train.steps: " in lines and "→ 301" in lines
    epsilon = replace(SETTINGS["norm.epsilon"], default=0.01, frozen=1e-5)
    monkeypatch.setitem(SETTINGS, "norm.epsilon", epsilon)
    monkeypatch.setattr(setup, "_config", setup._config.__wrapped__)  # none with the old default
    kept = read_rule(store, STUDY, "quick", ConfigCache())
    assert kept and any("norm.epsilon: none → 0.01" in change for change in kept.changes)


CLAIM = next(claim for claim in STUDY.claims if claim.id == "C8a")
DECIDING = {
    "sentence": ({"sentence": "another"}, "another"),
    "contrast": ({"effect": replace(CLAIM.effect, comparison="another")}, "another"),
    "unit": ({"effect": replace(CLAIM.effect, unit=OCTAVES)}, "octaves"),
    "interval": ({"effect": replace(CLAIM.effect, estimator=DISCORDANT)}, "discordant"),
    "delta": ({"sesoi": 0.9}, "0.9"),
    "n": ({"looks": (12, 13)}, "[12, 13]"),
}
"""Key of a rule -> a change of the claim, and what its difference shows."""


@pytest.mark.parametrize("what", DECIDING)
def test_whatever_decides_a_claim_is_part_of_its_rule(what):
    change, shown = DECIDING[what]
    others = tuple(claim for claim in STUDY.claims if claim is not CLAIM)
    changed = replace(STUDY, claims=(replace(CLAIM, **change), *others))
    (line,) = differences(rule_of(STUDY, "quick"), rule_of(changed, "quick"))
    assert line.startswith(f"claims, C8a, {what}: ") and line.endswith(f" → {shown}")


def test_a_rule_that_is_kept_is_never_replaced(tmp_path):
    store = Store(tmp_path).open()
    write_rule(store, STUDY, "quick", ConfigCache())
    path = tmp_path / "studies" / "batch_size-quick.json"
    before = path.read_bytes()
    claims = tuple(replace(claim, sesoi=77.0) for claim in STUDY.claims)
    write_rule(store, replace(STUDY, claims=claims), "quick", ConfigCache())
    assert path.read_bytes() == before


def test_results_that_keep_a_hash_of_the_study_file_have_another_rule(tmp_path):
    store = Store(tmp_path).open()
    (tmp_path / "studies").mkdir()
    facts = {"rule_hash": "0123", "file": "batch_size", "written": "2026-11-20"}
    write_json(tmp_path / "studies" / "batch_size-quick.json", facts)
    kept = read_rule(store, STUDY, "quick")
    assert kept and kept.changes == (UNKNOWN,) and kept.written == "2026-11-20"


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": Tuning()},
        {"data_orders": 2},
        {"target": 0.5},
        {"stop_at": 0.95},
        {"screening_seeds": 9},
        {"report_settings": {"train.eval_every": 7}},
        {"follows": (FollowUp("again", "batch/4", "batch/64", factor=2.0),)},
    ],
)
def test_whatever_decides_in_a_setup_is_part_of_its_rule(change):
    mlp, *others = STUDY.setups["quick"]
    changed = replace(STUDY, setups={"quick": (replace(mlp, **change), *others)})
    lines = [*differences(rule_of(STUDY, "quick"), rule_of(changed, "quick"))]
    assert lines and all(line.startswith(f"setups, {mlp.name}, ") for line in lines)


@pytest.mark.parametrize(
    "module, name, value",
    [
        (intervals, "CONFIDENCE", 0.95),
        (intervals, "PERCENTILE", 80),
        (intervals, "RESAMPLES", 99),
        (metrics, "ABOVE_CHANCE", 0.5),
        (metrics, "MISSED_STEPS", 5),
        (rates, "MAY_FAIL", 0.25),
        (rates, "STEP", 0.125),
        (rates, "REACH", 3),
        (planning, "MOST_MOVES", 2),
        (planning, "SCREENING_SEEDS", 4),
        (effects, "MAY_BE_CUT_OFF", 0.3),
        (effects, "TRAINED_SEEDS", 96),
        (effects, "MATCHED_LOSSES", (1.0, 0.5)),
        (rules, "FIRST_SEED", 0),
    ],
)
def test_whatever_decides_in_all_studies_is_part_of_every_rule(module, name, value, monkeypatch):
    before = rule_of(STUDY, "quick")
    monkeypatch.setattr(module, name, value)
    (line,) = differences(before, rule_of(STUDY, "quick"))
    assert line.startswith("decision, ")


def test_how_far_a_rate_bends_a_parabola_is_part_of_a_rule(monkeypatch):
    before = rule_of(STUDY, "quick")
    monkeypatch.setattr(Tuning, "cap", 0.5)
    lines = [*differences(before, rule_of(STUDY, "quick"))]
    assert len(lines) == len(STUDY.setups["quick"])
    assert all(line.endswith(", protocol, cap: 0.2 → 0.5") for line in lines)


def test_seeds_of_a_setup_whose_contrast_counts_other_runs_are_part_of_its_rule():
    study = load_study("learning_rate")
    claims = tuple(replace(c, setup_seeds=13) if c.id == "C2r-mlp" else c for c in study.claims)
    changed = rule_of(replace(study, claims=claims), "quick")
    (line,) = differences(rule_of(study, "quick"), changed)
    assert line == "claims, C2r-mlp, seeds of its setup: 12 → 13"


def test_a_ranking_is_part_of_its_rule():
    study = load_study("which_norm")
    first, *others = study.rankings
    changed = replace(study, rankings=(replace(first, sesoi=9.0), *others))
    (line,) = differences(rule_of(study, "quick"), rule_of(changed, "quick"))
    assert line.startswith("rankings: ")


def test_how_runs_of_text_fail_is_part_of_the_rules_with_text_alone():
    study = load_study("transformers")
    assert "failed above, on text" not in rule_of(study, "quick")["decision"]
    limit = rule_of(study, "standard")["decision"]["failed above, on text"]
    assert limit == "0.9 x the loss of the tokens' shares"
