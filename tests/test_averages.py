"""What contrasts say with Flax's default running averages, from made-up runs: effects by hand, and
how pages show them. It decides nothing, and no run is made for it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from lab import BATCH, GROUP, MEMORY, NONE, SETUP, TUNING, Response, StudyLab, study_of
from test_markdown import block, page, report_of, row

from normlab.data import DATASETS
from normlab.report.claims import Result, verdict_table
from normlab.report.html import html
from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.averages import scored
from normlab.studies.decisions import Contrast
from normlab.studies.effects import Claim, Effect, error_difference, interaction, looks, speedup
from normlab.studies.intervals import PAIRED_T
from normlab.studies.looks import look_at_study
from normlab.studies.metrics import growth
from normlab.studies.planning import ConfigCache, RequiredRun
from normlab.studies.protocols import WINDOW
from normlab.studies.setup import FIRST_SEED, FollowUp
from normlab.studies.study import adapt, load_study, study_names

TWELVE = [*range(FIRST_SEED, FIRST_SEED + 12)]
WINDOWED = replace(
    SETUP, arms=(NONE, BATCH, GROUP), protocol=replace(WINDOW, exponents=(-2.0, -1.5, -1.0))
)


class Averaged(StudyLab):
    """Running averages lag behind by 5 points."""

    lag: Callable[[Config], float] = staticmethod(lambda config: 0.05)

    def train(self, wanted: RequiredRun) -> Record:
        run, lag = super().train(wanted), self.lag(wanted.config)
        if wanted.config["norm.name"] != "batch":
            return run
        curve = [r | {"running_accuracy": r["accuracy"] - lag} for r in run.curve]
        names = ("test_accuracy", "validation_accuracy")
        final = {f"running_{name}": run.final[name] - lag for name in names}
        return replace(run, final=run.final | final, curve=curve)

    @property
    def averages(self) -> Contrast | None:
        """Those of the only claim."""
        known = look_at_study(self.study, "quick", self.records, MEMORY, with_averages=True)
        ((*_, last),) = known.paths
        return last.averages


def effects_of(lab: Averaged) -> dict[int, float]:
    assert lab.averages
    return dict(lab.averages.effects)


def bowls(norm: str, exponent: float, seed: int) -> float:
    """Batch norm is better by 3 points and has the sharper optimum, at -1.25."""
    if norm == "batch":
        return 0.93 - 0.2 * (exponent + 1.25) ** 2
    return 0.90 - 0.1 * (exponent + 1.5) ** 2 - 0.001 * (seed % 3)


def lab_of(effect: Effect, setup=WINDOWED, response: Response = bowls, last: int = 12) -> Averaged:
    claim = Claim("C1", "s", "setup", effect, 1.0, looks(12, last))
    return Averaged(study_of(setup, claim), response)


WORSE = error_difference("none", "batch")


def test_averages_have_the_momentum_of_flax_and_ask_for_no_run():
    lab = lab_of(WORSE)
    configs = [w.config for w in lab.known.wanted.values() if w.config["norm.name"] == "batch"]
    assert {config["norm.momentum"] for config in configs} == {0.99}
    known = look_at_study(lab.study, "quick", lab.records, MEMORY, with_averages=True)
    assert known.wanted.keys() == lab.known.wanted.keys() == lab.records.keys()
    assert known.settled == {"C1"}


def test_the_seeds_are_those_of_the_look_that_decides():
    def response(norm: str, exponent: float, seed: int) -> float:
        worse = 0.0115 + 0.0035 * 1.4 * math.sin(seed * 12.9898) if norm == "none" else 0.0
        return 0.9 - 0.05 * (exponent + 1.5) ** 2 - worse

    lab = lab_of(WORSE, response=response, last=24)
    assert lab.verdicts["C1"].n == len(effects_of(lab)) == 24


def test_each_row_has_the_seeds_of_its_own_last_look():
    """Another row may need more seeds, and the runs of the next look may be missing."""

    def response(norm: str, exponent: float, seed: int) -> float:
        worse = 0.03 + 0.02 * math.sin(seed * 12.9898) if norm == "none" else 0.0
        return 0.9 - 0.05 * (exponent + 1.5) ** 2 - worse

    claims = [
        Claim(f"C{i}", "s", "setup", WORSE, d, looks(12, 24)) for i, d in ((1, 0.5), (2, 2.9))
    ]
    lab = Averaged(study_of(WINDOWED, *claims), response)
    known = look_at_study(lab.study, "quick", lab.records, MEMORY, with_averages=True)
    found = [path[-1] for path in known.paths]
    assert [c.n for c in found] == [12, 24]
    assert [len(c.averages.effects) for c in found if c.averages] == [12, 24]
    few = {n: r for n, r in lab.records.items() if r.config["seed"] < FIRST_SEED + 20}
    known = look_at_study(lab.study, "quick", few, MEMORY, with_averages=True)
    assert [len(p[-1].averages.effects) for p in known.paths if p[-1].averages] == [12, 12]


def test_errors_with_running_averages_by_hand():
    """Rates are chosen as for the row: by validation with re-estimated statistics."""
    lab = lab_of(WORSE)
    row_effect = 3.0 + 100 * (0.1 - 0.2) * 2 * 0.25**2 / 3
    verdict = lab.verdicts["C1"]
    assert verdict.contrast.effects == pytest.approx(
        {s: row_effect + 0.1 * (s % 3) for s in TWELVE}
    )
    lab.lag = lambda config: 0.05 if config["optim.lr"] < 0.05 else 0.02  # of one rate of three
    lab.records = {n: lab.train(w) for n, w in lab.known.wanted.items()}
    assert effects_of(lab) == pytest.approx(
        {s: row_effect - (5 + 2 + 2) / 3 + 0.1 * (s % 3) for s in TWELVE}
    )
    contrast = replace(verdict.contrast, averages=lab.averages)
    result = Result(report_of(), replace(verdict, contrast=contrast))
    assert (verdict.word, result.averages and result.averages.word) == ("supported", "refuted")


def test_times_with_running_averages_by_hand():
    """Curves rise from step 10 to step 300; those of running averages of batch end at 0.9."""
    setup = replace(SETUP, protocol=replace(TUNING, metric="steps"), target=0.8)
    ends = {"none": 0.90, "batch": 0.95, "group": 0.90}
    lab = lab_of(speedup("none", "batch"), setup, lambda norm, e, seed: ends[norm])
    shares = {"none": 0.7 / 0.8, "batch": 0.7 / 0.85, "averages": 0.75 / 0.85}
    found = {"batch": lab.verdicts["C1"].contrast.effects, "averages": effects_of(lab)}
    for batch, effects in found.items():
        expected = math.log2(300 / 10) * (shares["none"] - shares[batch])
        assert effects == pytest.approx(dict.fromkeys(TWELVE, expected))


def test_times_of_follow_ups_have_averages():
    setup = replace(SETUP, protocol=replace(TUNING, metric="steps"), target=0.8)
    slower = FollowUp("batch at none's rate", "batch", "none")
    lab = lab_of(
        speedup("none", slower.name), replace(setup, follows=(slower,)), lambda norm, e, seed: 0.95
    )
    assert lab.verdicts["C1"].contrast.effects == pytest.approx(dict.fromkeys(TWELVE, 0.0))
    expected = math.log2(300 / 10) * (0.7 / 0.85 - 0.75 / 0.85)
    assert effects_of(lab) == pytest.approx(dict.fromkeys(TWELVE, expected))


def test_follow_ups_have_averages_and_differences_of_differences_their_signs():
    later = tuple(
        FollowUp(f"{n} later", n, n, settings={"train.steps": 400}) for n in ("none", "batch")
    )
    effect = interaction("batch later", "batch", "none later", "none")
    lab = lab_of(effect, replace(WINDOWED, follows=later))
    assert effects_of(lab) == pytest.approx(dict.fromkeys(TWELVE, 0.0))
    lab.lag = lambda config: 0.05 if config["train.steps"] == 400 else 0.0
    lab.records = {n: lab.train(w) for n, w in lab.known.wanted.items()}
    assert effects_of(lab) == pytest.approx(dict.fromkeys(TWELVE, 5.0))


def test_averages_that_are_useless_are_errors_and_no_failures_of_training():
    class Useless(Averaged):
        lag = staticmethod(lambda config: 0.83)

    lab = Useless(study_of(WINDOWED, Claim("C1", "s", "setup", WORSE, 1.0, (12,))), bowls)
    row = lab.verdicts["C1"].contrast.effects
    assert lab.averages and lab.averages.estimator is PAIRED_T
    assert effects_of(lab) == pytest.approx({s: effect - 83 for s, effect in row.items()})


@pytest.mark.parametrize("effect", [error_difference("none", "group"), error_difference("x", "y")])
def test_without_running_averages_there_is_nothing_to_say(effect):
    assert lab_of(effect).averages is None


def test_exploring_leaves_them_out():
    study = adapt(study_of(WINDOWED, Claim("C1", "s", "setup", WORSE, 1.0, (12,))), seeds=5)
    assert Averaged(study, bowls).averages is None


def test_longer_sequences_have_their_running_averages_too():
    final = {"test_accuracy": 0.9, "long_accuracy": 0.8, "running_long_accuracy": 0.6}
    final |= {"running_test_accuracy": 0.85, "validation_accuracy": 0.9}
    config = {"data.name": "digits", "train.stop_at_loss": 0.0}
    run = Record("", config, "trained", final, [], provenance={"chance": 0.1})
    assert growth(run) == pytest.approx(10) and growth(scored({3: run})[3]) == pytest.approx(25)
    assert math.isnan(growth(replace(run, status="diverged")))


def test_steps_and_errors_of_the_studies_are_shown_with_them(monkeypatch):
    monkeypatch.setattr("normlab.runs.config.check", lambda name, data_dir: DATASETS[name])
    cache, found = ConfigCache(), set()
    for study in map(load_study, study_names()):
        for profile in study.setups:
            contrasts = [
                path[-1]
                for path in look_at_study(study, profile, {}, cache, with_averages=True).paths
            ]
            found |= {name for c in contrasts if c.averages for name in c.id.split("-")[:1]}
    assert found == {
        *"C1a C1b C1t C4a C4b C8a C8b C8c C9a C9b C9c C9d C9e C9f C9g C9h".split(),
        *"C10a C10b C10c C11 C13 C14b C16c C16d".split(),
    }


def shown(**facts: Any) -> tuple[str, str, dict[str, str]]:
    """Return what Markdown, page and CSV say of a supported row."""
    report = report_of(row("C1a", **facts))
    (line,) = csv.DictReader(io.StringIO(verdict_table([report]).to_csv()))
    return block(page(report), "C1a"), html([report]), line


def test_pages_show_effect_interval_n_and_a_word_that_differs():
    text, shown_html, line = shown(averages=row("C1a", "refuted"))
    for where, begin in ((text, "  - with"), (shown_html, '<p class="contrast">With')):
        effect = r"−2\.00 \\?\[−2\.\d+, −1\.\d+\\?\] points, n = 6; the word would be refuted\b"
        assert re.search(f"{begin} Flax's default(?: running averages)?: {effect}", where)
    assert float(line["with Flax's default"]) == -2.0 and line["word with it"] == "refuted"
    low, high, n = (float(line[f"with Flax's default, {name}"]) for name in ("low", "high", "n"))
    assert (low < -2.0 < high, low + high, n) == (True, pytest.approx(-4.0), 6)
    same, *_ = shown(averages=row("C1a"))
    assert "with Flax's default: 2.00 " in same and "would be" not in same


@pytest.mark.parametrize("word", ["not run", "not measured"])
def test_missing_runs_are_said_to_be_missing(word):
    text, shown_html, line = shown(averages=row("C1a", word))
    assert f"  - with Flax's default: {word}\n" in text
    assert f"With Flax's default running averages: {word}</p>" in shown_html
    assert line["with Flax's default"] == line["word with it"] == ""  # a number's column


def test_rows_without_them_have_no_such_line():
    text, shown_html, line = shown()
    assert "Flax" not in text and "With Flax's default running" not in shown_html
    report = report_of(row("C1a", "not run", averages=row("C1a", "not run")))
    assert "Flax" not in block(page(report), "C1a")
