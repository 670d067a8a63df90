"""The transfer panel: what its cells share, the words they keep, and that they decide nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from test_markdown import page, report_of, row

from normlab.data import DATASETS
from normlab.report.html import html
from normlab.report.model import StudyReport
from normlab.report.panel import Row, panel, rows_of
from normlab.report.terminal import headline
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.effects import Claim
from normlab.studies.looks import look_at_study
from normlab.studies.panel import VARIED, Line, kept
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.rules import rule_of
from normlab.studies.setup import FIRST_SEED, Setup, load_config
from normlab.studies.study import (
    Study,
    adapt,
    load_studies,
    load_study,
    study_names,
    varied_settings,
)
from tests.claim_worlds import faster
from tests.made_up_worlds import CACHE, Made, Make, World, errors, norm, shared

STUDY = load_study("transfer")
SOURCES = {n: load_study(n) for n in ("convergence", "batch_size", "accuracy", "placement")}
CLAIMS = {claim.id: claim for source in SOURCES.values() for claim in source.claims}
PROFILES = ("quick", "standard")
LINES = [
    pytest.param(profile, line, id=f"{profile}-{line.claim.id}")
    for profile in PROFILES
    for line in STUDY.panel[profile]
]
SHORTER = {"train.steps", "train.eval_every", "eval.batch", "eval.batch_statistics"}
"""Settings that a cell may have of its own: how long runs are, and how they are scored."""
MOVED = {("quick", "small-batch-cnn"): {"data.name", "model.stride"}}
"""Settings in which a setup is not that of its study: digits instead of Fashion-MNIST."""


@pytest.fixture(autouse=True)
def all_data_are_there(monkeypatch):
    monkeypatch.setattr("normlab.runs.config.check", lambda name, data_dir: DATASETS[name])


def setups(profile: str) -> dict[str, Setup]:
    return {setup.name: setup for setup in STUDY.setups[profile]}


def configs(setup: Setup) -> dict[str, Config]:
    base = load_config(setup.base) | setup.settings
    return {arm.name: resolve(base | arm.settings).config for arm in setup.arms}


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    return {name for name in a if a[name] != b[name]}


def source_of(profile: str, claim: Claim) -> Setup:
    """Return the setup of a contrast in its own study, in the profile or in another one."""
    study = next(s for s in SOURCES.values() if claim.id in {c.id for c in s.claims})
    found = [s for s in (*study.setups[profile], *study.all_setups) if s.name == claim.setup]
    return found[0]


@pytest.mark.parametrize("profile, line", LINES)
def test_the_cells_of_a_contrast_differ_in_the_three_settings_alone(profile, line):
    cells = {cell: setups(profile)[name] for cell, name in line.cells.items()}
    own = cells[line.own]
    found = set()
    for setup in cells.values():
        for name, config in configs(setup).items():
            assert differing(config, configs(own)[name]) <= {*VARIED}
            found.add(tuple(config[setting] for setting in VARIED))
        assert (
            replace(
                setup,
                name=own.name,
                title=own.title,
                settings=own.settings,
                protocol=own.protocol,
            )
            == own
        )
    combinations = product(("constant", "cosine"), (0.0, 5e-4), ("momentum", "adamw"))
    assert found == {*combinations} and len(cells) == 8 == len({*line.cells.values()})


@pytest.mark.parametrize("profile, line", LINES)
def test_the_own_cell_is_the_setup_of_its_study_with_fewer_steps(profile, line):
    own, source = setups(profile)[line.cells[line.own]], source_of(profile, line.claim)
    known, legal = configs(source), SHORTER | MOVED.get((profile, source.name), set())
    for name, config in configs(own).items():
        assert differing(config, known[name]) <= legal
        assert config["train.steps"] <= known[name]["train.steps"]
    assert isinstance(own.protocol, Tuning) and isinstance(source.protocol, Tuning)
    assert own.protocol.metric == source.protocol.metric
    claim = CLAIMS[line.claim.id]
    for fact in ("id", "sentence", "setup", "sesoi"):
        assert getattr(line.claim, fact) == getattr(claim, fact)
    assert line.claim.effect.comparison == claim.effect.comparison


@pytest.mark.parametrize("profile", PROFILES)
def test_arms_of_a_cell_share_grid_and_seeds(profile):
    momentum, adamw = (tuple(e / 2 for e in range(low, low + 6)) for low in (-5, -8))
    for setup in STUDY.setups[profile]:
        protocol, is_adamw = setup.protocol, setup.settings["optim.name"] == "adamw"
        assert isinstance(protocol, Tuning)
        assert protocol.exponents == (adamw if is_adamw else momentum)
        assert (protocol.seeds, protocol.reported) == ((1000, 1001, 1002), "one")
        assert (setup.seeds, setup.grows, setup.follows) == (12, False, ())
        tests = [line for line in STUDY.panel[profile] if setup.name in line.cells.values()]
        asked = {arm for line in tests for arm in line.claim.effect.arms}
        assert {arm.name for arm in setup.arms} == asked
        assert len(setup.arms) >= 2 and all(a.is_primary and not a.group for a in setup.arms)
        stops = setup.protocol.times_steps
        assert setup.report_settings == ({"train.stop_at": setup.target} if stops else {})
        assert setup.stop_at in (0, setup.target)


@pytest.mark.parametrize("profile", PROFILES)
def test_contrasts_share_the_arms_that_they_have_in_common(profile):
    """Batch norm before the activation with all 64 examples is an arm of three contrasts."""
    named = setups(profile)
    for cell in STUDY.panel[profile][0].cells:
        wanted = {}
        for line in STUDY.panel[profile]:
            runs = SetupRuns(named[line.cells[cell]], {}, CACHE).wanted.values()
            wanted[line.claim.id] = {(w.arm, w.run_id) for w in runs}
        runs = {
            arm: {run for a, run in wanted[test] if a == arm}
            for test, arm in (("C8b", "batch/64"), ("C11", "batch"), ("C13", "batch/pre"))
        }
        assert runs["batch/64"] == runs["batch"] == runs["batch/pre"] != set()


def world_of(line: Line, target: float) -> Callable[[float], Make]:
    """Return for an effect the world in which the contrast has it."""

    def pair(key: Callable, worse: Any, better: Any) -> Callable[[float], Make]:
        return lambda e: errors(
            key, "one", {worse: Made(8 + e, -1.0, 12.0), better: Made(8, -0.75, -6.0)}
        )

    name = line.claim.id
    if name == "C1b":
        return lambda e: faster(e, 0.0, f"{100 * target:g}")
    if name in ("C8a", "C8b"):
        return pair(shared, 4 if name == "C8a" else 2, 64)
    if name.startswith("C10b"):
        return pair(norm, "batch", name.partition("-")[2])
    if name == "C13":
        return pair(lambda c: c["model.placement"], "post", "pre")
    return pair(norm, "none", "batch")


def runs_in(make: Make, profile: str, line: Line, missing: str = "") -> Mapping[str, SetupRuns]:
    """Return the setups of a contrast in a world; of the cell `missing` only 5 seeds have run."""
    small = replace(
        STUDY,
        panel={},
        setups={profile: tuple(setups(profile)[name] for name in line.cells.values())},
    )
    world: Mapping[str, Record] = World(CACHE.configs, make)
    found = look_at_study(small, profile, world, CACHE).setups
    if not missing:
        return found
    gone = found[line.cells[missing]]
    done = {name: world[name] for name in gone.wanted}
    done = {n: run for n, run in done.items() if run.config["seed"] < FIRST_SEED + 5}
    return {**found, line.cells[missing]: SetupRuns(gone.setup, done, CACHE)}


def row_in(make: Make, profile: str, line: Line, missing: str = "") -> Row:
    study = replace(STUDY, panel={profile: (line,)})
    report = StudyReport(study, profile, runs_in(make, profile, line, missing), [])
    (found,) = rows_of([report])
    return found


@pytest.mark.parametrize("profile, line", LINES)
def test_every_cell_says_what_is_true_and_no_arm_is_swapped(profile, line):
    delta = line.claim.delta(profile)
    target = setups(profile)[line.cells[line.own]].target
    for effect, says in (
        (1.5 * delta, ("supported", "at least delta")),
        (0.5 * delta, ("refuted", "small")),
        (-0.5 * delta, ("refuted", "reversed")),
    ):
        make = world_of(line, target)(effect)
        verdicts = line.verdicts(runs_in(make, profile, line), profile)
        for verdict in verdicts.values():
            assert verdict and (verdict.word, verdict.qualifier) == says
            assert verdict.estimate.centre == pytest.approx(effect, abs=2e-3 * delta)
            assert [*verdict.contrast.effects] == [*range(FIRST_SEED, FIRST_SEED + 12)]
            assert verdict.contrast.sesoi == delta
        assert kept(verdicts, line.own) == (8, 8)


C11 = next(line for line in STUDY.panel["quick"] if line.claim.id == "C11")
FLIPPED, GONE = "cosine, decay 0.0005, adamw", "constant, decay 0, adamw"
TRUE, FALSE = (world_of(C11, 0.0)(effect) for effect in (1.5, 0.25))


def flips(config: Config) -> Record:
    """A run in a world whose effect is small under AdamW with a cosine."""
    settings = (config["optim.name"], config["optim.schedule"])
    return (FALSE if settings == ("adamw", "cosine") else TRUE)(config)


def test_the_share_of_cells_that_keep_the_word_by_hand():
    """Two of eight cells flip. One that has not run is left out, and without the own cell there is
    no word to keep."""
    found = row_in(flips, "quick", C11)
    assert found.kept.text == "6 of 8" and found.kept.numbers == {"": 6, "of": 8}
    words = {cell: r.verdict.word for cell, r in found.results.items() if r}
    assert {cell for cell, word in words.items() if word != "supported"} == {
        *("cosine, decay 0, adamw", FLIPPED)
    }
    assert row_in(flips, "quick", C11, GONE).kept.text == "5 of 7, 1 not run"
    assert row_in(flips, "quick", C11, C11.own).kept.text == "–"
    other = replace(C11, own=FLIPPED)
    assert row_in(flips, "quick", other).kept.text == "2 of 8"


def test_a_cell_shows_word_effect_interval_and_n_and_what_has_not_run():
    table = panel([row_in(flips, "quick", C11, GONE)])
    ((first, scope, delta, *cells, last),) = table.texts()
    assert table.columns == ["contrast", "net, data", "delta", *C11.cells, "keeps the word"]
    assert first == f"C11. {C11.claim.sentence}" and scope == C11.scope
    shown = dict(zip(C11.cells, cells, strict=True))
    effect = "1.50 [1.50, 1.50] points; n = 12"
    assert shown[C11.own] == f"✓ supported, at least delta; {effect} (own)"
    assert shown[FLIPPED] == "✗ refuted, small; 0.25 [0.25, 0.25] points; n = 12"
    assert (shown[GONE], delta, last) == ("… not run", "1 point", "5 of 7, 1 not run")
    (numbers,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert float(numbers[f"{FLIPPED}, low"]) == pytest.approx(0.25)
    assert (numbers[f"{FLIPPED}, n"], numbers["keeps the word, of"]) == ("12", "7")


def test_a_cell_with_other_seeds_or_without_an_arm_has_no_word_to_keep():
    few = adapt(STUDY, seeds=3).setups["quick"]
    runs = {
        s.name: SetupRuns(s, World(CACHE.configs, TRUE), CACHE)
        for s in few
        if s.name in C11.cells.values()
    }
    verdicts = C11.verdicts(runs, "quick")
    assert {v.word for v in verdicts.values() if v} == {"exploratory"}
    assert kept(verdicts, C11.own) is None
    assert {*C11.verdicts({}, "quick").values()} == {None}
    alone = adapt(STUDY, arms=("batch",)).setups["quick"]
    runs = {s.name: SetupRuns(s, World(CACHE.configs, TRUE), CACHE) for s in alone}
    assert runs[C11.cells[C11.own]].is_complete
    assert {*C11.verdicts(runs, "quick").values()} == {None}


def test_the_panel_is_on_all_pages_and_no_count_knows_it():
    own = row_in(flips, "quick", C11)
    plain = report_of(row("C11", "refuted"), row("C4a"))
    shown = [plain, replace(own.report, evidences={}, verdicts=[])]
    without = [plain, replace(own.report, study=replace(own.report.study, panel={}), evidences={})]
    text, bare = page(*shown), page(*without)
    assert "## Transfer" in text and "## Transfer" not in bare
    assert text.partition("\n## Transfer")[0].rstrip() == bare.rstrip()
    before, after = html(without), html(shown)
    assert 'id="transfer"' in after and 'id="transfer"' not in before
    link = '<a href="#transfer">Exploratory: other schedules</a>\n'
    assert after.count(link) == 1  # of the row that the panel has
    after = after.replace(link, "")
    part = '<section id="verdicts">', "</section>"
    assert (
        after.partition(part[0])[2].partition(part[1])[0]
        == (before.partition(part[0])[2].partition(part[1])[0])
    )
    lines, fewer = headline([plain, own.report]).splitlines(), headline([plain]).splitlines()
    assert fewer and lines == [*fewer, f"C11, {C11.scope}: supported, kept in 6 of 8 cells"]
    assert "refuted, small" in page(plain, own.report)


def test_all_studies_are_without_the_extra_ones():
    names = [name for name in study_names() if name not in ("transfer", "transformers")]
    assert [s.name for s in load_studies(["all", "depth"])] == names
    assert [s.name for s in load_studies(["transfer", "all"])] == [*names, "transfer"]
    assert [s.name for s in load_studies(["placement", "depth"])] == ["placement", "depth"]
    assert [s.name for s in load_studies(["depth", "depth"])] == ["depth"]


def test_what_the_cells_vary_cannot_be_overridden():
    assert {*VARIED} <= varied_settings(STUDY) and not {*VARIED} & varied_settings(
        SOURCES["accuracy"]
    )
    with pytest.raises(ConfigError, match="varies optim.schedule itself"):
        adapt(STUDY, overrides={"optim.schedule": "step"})


def test_the_panel_is_part_of_its_rule_and_of_no_other():
    def changed(**facts: Any) -> Study:
        first, *others = STUDY.panel["quick"]
        return replace(STUDY, panel={"quick": (replace(first, **facts), *others)})

    rule = rule_of(STUDY, "quick")
    claim = STUDY.panel["quick"][0].claim
    for facts in ({"own": GONE}, {"claim": replace(claim, sesoi=9.0)}):
        assert rule_of(changed(**facts), "quick")["panel"] != rule["panel"]
    assert "panel" not in rule_of(SOURCES["accuracy"], "quick")
