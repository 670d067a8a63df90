"""What contrasts say with Flax's default running averages, from made-up runs: the runs that this
needs, effects by hand, and how pages show them. It decides nothing, and nothing waits for it."""

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
from normlab.studies.decisions import Contrast
from normlab.studies.effects import Claim, Effect, error_difference, interaction, looks, speedup
from normlab.studies.intervals import PAIRED_T
from normlab.studies.looks import look_at_study
from normlab.studies.planning import ConfigCache, RequiredRun
from normlab.studies.protocols import WINDOW
from normlab.studies.setup import AVERAGES, FIRST_SEED, FollowUp
from normlab.studies.study import adapt, load_study, study_names

TWELVE = [*range(FIRST_SEED, FIRST_SEED + 12)]
WINDOWED = replace(
    SETUP, arms=(NONE, BATCH, GROUP), protocol=replace(WINDOW, exponents=(-2.0, -1.5, -1.0))
)


class Averaged(StudyLab):
    """Running averages lag behind by 5 points with momentum 0.99, otherwise by 2."""

    lag: Callable[[Config], float] = staticmethod(
        lambda config: 0.05 if config["norm.momentum"] == 0.99 else 0.02
    )

    def train(self, wanted: RequiredRun) -> Record:
        run, lag = super().train(wanted), self.lag(wanted.config)
        if wanted.config["norm.name"] != "batch":
            return run
        curve = [r | {"running_accuracy": r["accuracy"] - lag} for r in run.curve]
        names = ("test_accuracy", "validation_accuracy")
        final = {f"running_{name}": run.final[name] - lag for name in names}
        return replace(run, final=run.final | final, curve=curve)

    @property
    def asked(self) -> list[RequiredRun]:
        return [w for w in self.known.wanted.values() if w.stage == AVERAGES]

    @property
    def averages(self) -> Contrast:
        """Those of the only claim."""
        ((*_, last),) = self.known.paths
        assert last.averages
        return last.averages


def bowls(norm: str, exponent: float, seed: int) -> float:
    """Batch norm is better by 3 points and has the sharper optimum, at -1.25."""
    if norm == "batch":
        return 0.93 - 0.2 * (exponent + 1.25) ** 2
    return 0.90 - 0.1 * (exponent + 1.5) ** 2 - 0.001 * (seed % 3)


def lab_of(effect: Effect, setup=WINDOWED, response: Response = bowls, last: int = 12) -> Averaged:
    claim = Claim("C1", "s", "setup", effect, 1.0, looks(12, last))
    return Averaged(study_of(setup, claim), response)


WORSE = error_difference("none", "batch")


def test_arms_with_running_averages_train_again_at_their_one_rate():
    lab = lab_of(WORSE, replace(WINDOWED, settings={"eval.batch_statistics": True}))
    assert {(w.arm, w.config["optim.lr"]) for w in lab.asked} == {("batch", 0.05623)}
    assert sorted(w.config["seed"] for w in lab.asked) == TWELVE
    assert {w.config["norm.momentum"] for w in lab.asked} == {0.99}
    assert not any(w.config["eval.batch_statistics"] for w in lab.asked)
    others = [w.config for w in lab.known.wanted.values() if w.stage != AVERAGES]
    assert {config["norm.momentum"] for config in others} == {0.9}


def test_nothing_waits_for_these_runs_and_they_wait_for_all_others():
    lab = lab_of(WORSE)
    study = study_of(WINDOWED, Claim("C1", "s", "setup", WORSE, 1.0, (12,)))
    asked = {w.run_id for w in lab.asked}
    without = {name: run for name, run in lab.records.items() if name not in asked}
    known = look_at_study(study, "quick", without, MEMORY)
    (last,) = known.paths[0]
    runs = known.setups["setup"]
    assert runs.is_complete and runs.can_decide and asked <= runs.wanted.keys()
    assert last.effects == lab.verdicts["C1"].contrast.effects
    assert last.averages and last.averages.effects == {}
    missing = next(n for n, w in lab.known.wanted.items() if w.stage == "report")
    del without[missing]
    assert not asked & look_at_study(study, "quick", without, MEMORY).wanted.keys()


def test_more_seeds_need_no_more_of_these_runs():
    def response(norm: str, exponent: float, seed: int) -> float:
        worse = 0.0115 + 0.0035 * 1.4 * math.sin(seed * 12.9898) if norm == "none" else 0.0
        return 0.9 - 0.05 * (exponent + 1.5) ** 2 - worse

    lab = lab_of(WORSE, response=response, last=24)
    assert lab.verdicts["C1"].n == 24
    assert [*lab.averages.effects] == sorted(w.config["seed"] for w in lab.asked) == TWELVE


def test_errors_with_running_averages_by_hand():
    """The row counts with three rates of each arm, this with one."""
    lab = lab_of(WORSE)
    row_effect = 3.0 + 100 * (0.1 - 0.2) * 2 * 0.25**2 / 3
    assert lab.verdicts["C1"].contrast.effects == pytest.approx(
        {s: row_effect + 0.1 * (s % 3) for s in TWELVE}
    )
    assert lab.averages.effects == pytest.approx({s: 3 - 5 + 0.1 * (s % 3) for s in TWELVE})
    verdict = lab.verdicts["C1"]
    assert (verdict.word, verdict.contrast.averages) == ("supported", lab.averages)
    result = Result(report_of(), verdict)
    assert result.averages and result.averages.word == "refuted"


def test_times_with_running_averages_by_hand():
    """Curves rise from step 10 to step 300; those of running averages of batch end at 0.9."""
    setup = replace(SETUP, protocol=replace(TUNING, metric="steps"), target=0.8)
    ends = {"none": 0.90, "batch": 0.95, "group": 0.90}
    lab = lab_of(speedup("none", "batch"), setup, lambda norm, e, seed: ends[norm])
    shares = {"none": 0.7 / 0.8, "batch": 0.7 / 0.85, "averages": 0.75 / 0.85}
    for contrast, batch in ((lab.verdicts["C1"].contrast, "batch"), (lab.averages, "averages")):
        expected = math.log2(300 / 10) * (shares["none"] - shares[batch])
        assert contrast.effects == pytest.approx(dict.fromkeys(TWELVE, expected))


def test_follow_ups_keep_their_settings_and_differences_of_differences_their_signs():
    later = tuple(
        FollowUp(f"{n} later", n, n, settings={"train.steps": 400}) for n in ("none", "batch")
    )
    effect = interaction("batch later", "batch", "none later", "none")
    lab = lab_of(effect, replace(WINDOWED, follows=later))
    found = {(w.arm, w.config["train.steps"], w.config["norm.momentum"]) for w in lab.asked}
    assert found == {("batch", 300, 0.99), ("batch", 400, 0.99)} and len(lab.asked) == 24
    assert lab.averages.effects == pytest.approx(dict.fromkeys(TWELVE, 0.0))
    lab.lag = lambda config: 0.05 if config["train.steps"] == 400 else 0.0
    lab.records = {n: lab.train(w) for n, w in lab.known.wanted.items()}
    lab.known = look_at_study(
        study_of(replace(WINDOWED, follows=later), Claim("C1", "s", "setup", effect, 1.0, (12,))),
        *("quick", lab.records, MEMORY),
    )
    assert lab.averages.effects == pytest.approx(dict.fromkeys(TWELVE, 5.0))


def test_averages_that_are_useless_are_errors_and_no_failures_of_training():
    class Useless(Averaged):
        lag = staticmethod(lambda config: 0.83)

    lab = Useless(study_of(WINDOWED, Claim("C1", "s", "setup", WORSE, 1.0, (12,))), bowls)
    assert lab.averages.estimator is PAIRED_T
    assert lab.averages.effects == pytest.approx({s: 3 - 83 + 0.1 * (s % 3) for s in TWELVE})


@pytest.mark.parametrize("effect", [error_difference("none", "group"), error_difference("x", "y")])
def test_without_running_averages_there_is_nothing_to_say(effect):
    lab = lab_of(effect)
    assert not lab.asked and lab.known.paths[0][-1].averages is None


def test_exploring_leaves_them_out():
    study = adapt(study_of(WINDOWED, Claim("C1", "s", "setup", WORSE, 1.0, (12,))), seeds=5)
    lab = Averaged(study, bowls)
    assert not lab.asked and lab.verdicts["C1"].contrast.averages is None


def test_steps_and_errors_of_the_studies_are_shown_with_them(monkeypatch):
    monkeypatch.setattr("normlab.runs.config.check", lambda name, data_dir: DATASETS[name])
    cache, found = ConfigCache(), set()
    for study in map(load_study, study_names()):
        for profile in study.setups:
            contrasts = [path[-1] for path in look_at_study(study, profile, {}, cache).paths]
            found |= {name for c in contrasts if c.averages for name in c.id.split("-")[:1]}
    assert found == {*"C1a C1b C1t C4a C4b C8a C8b C8c C10a C10b C11 C13 C14b".split()}


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
