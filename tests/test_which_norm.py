"""Which norm: comparisons with the best by hand and by simulation, and the matrix of the page."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_runs import make_up
from scipy import stats

from normlab.norms.table import NORMS
from normlab.report import model
from normlab.report.markdown import write_claims_page
from normlab.report.model import StudyReport
from normlab.report.provenance import ProvenanceSummary
from normlab.report.setup_table import setup_table
from normlab.report.tables import Measured
from normlab.report.terminal import headline
from normlab.report.which_norm import EQUAL, Column, columns_of, matrix, tried_runs
from normlab.report.write import write_report
from normlab.runs.store import Store
from normlab.studies.intervals import Estimate
from normlab.studies.looks import look_at_study
from normlab.studies.metrics import is_failed, trained_error
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.protocols import Edges
from normlab.studies.ranking import (
    ERROR,
    SPEED,
    TOLERANCE,
    Standing,
    edge_costs,
    error_costs,
    error_redraws,
    standings,
    step_costs,
)
from normlab.studies.reported import ReportedRates
from normlab.studies.setup import FIRST_SEED, all_norms
from normlab.studies.study import load_study

STUDY = load_study("which_norm")


def costs(**values: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(found)) for name, found in values.items()}


def test_averages_that_training_reads_follow_faster():
    setup = next(s for s in load_study("which_norm").setups["quick"] if "small" in s.name)
    momenta = {a.name: a.settings.get("norm.momentum") for a in setup.arms}
    assert (momenta["batch_renorm"], momenta["power"], momenta["batch"]) == (0.9, 0.9, None)


def test_how_far_behind_by_hand():
    """The worse of two, by 1 on average with SD 1 over 4 seeds: 1 + t(0.95, 3) / 2."""
    differences = np.array([-0.5, 0.5, 1.5, 2.5])
    differences = 1 + (differences - 1) / differences.std(ddof=1)
    best, worse = standings(costs(b=[1, 2, 3, 4], a=list(differences + [1, 2, 3, 4])), ERROR, 1.0)
    assert (best.name, worse.name) == ("b", "a")
    assert worse.behind == pytest.approx(1 + stats.t.ppf(0.95, 3) / 2)
    assert best.behind == pytest.approx(max(0.0, -1 + stats.t.ppf(0.95, 3) / 2))
    assert best.is_equal and not worse.is_equal
    assert worse.value.centre == pytest.approx(3.5)


def test_the_choice_of_rates_widens_the_bounds():
    """Draws with seed 0 choose a rate that is worse by 2. The other scheme chooses nothing."""
    a, b = [1.0, 2.0, 3.0, 4.0], [1.0, 1.5, 3.5, 3.0]

    def redraw(seeds):
        return np.array([a[s] + 2.0 * (0 in seeds) for s in seeds])

    found = {s.name: s for s in standings(costs(a=a, b=b), ERROR, 1.0, {"a": redraw})}
    draws = [[*draw] for draw in np.ndindex(4, 4, 4, 4)]  # all of the bootstrap
    jumps = [np.mean([a[s] - b[s] for s in draw]) + 2.0 * (0 in draw) for draw in draws]
    error = math.sqrt(4 / 3) * np.std(jumps)
    assert error > 2 * np.subtract(a, b).std(ddof=1) / 2
    bound = 0.25 + stats.t.ppf(0.95, 3) * error
    assert found["a"].behind == pytest.approx(bound, rel=0.1)
    plain = standings(costs(a=a, b=b), ERROR, 1.0)
    same = standings(costs(a=a, b=b), ERROR, 1.0, {"a": lambda seeds: np.array(a)[[*seeds]]})
    for one, other in zip(same, plain, strict=True):
        assert other.behind - 1e-12 <= one.behind <= 1.1 * other.behind


def test_a_bad_scheme_between_two_windows_spoils_no_bound():
    """Its mean is 4 or 2 points behind, as one seed decides. The best is not 1 point behind it."""
    rng = np.random.default_rng(0)
    best, bad = rng.normal(1.0, 0.2, 12), rng.normal(5.0, 0.2, 12)

    def redraw(seeds):
        return bad[[*seeds]] - 2.0 * (0 not in seeds)

    found = {
        s.name: s for s in standings(costs(best=[*best], bad=[*bad]), ERROR, 1.0, {"bad": redraw})
    }
    assert found["best"].is_equal and found["best"].behind < 0.1 and found["bad"].behind > 4


def test_a_rate_with_a_failed_run_remains_out_when_that_seed_is_left_out():
    def run(error: float) -> Any:
        final = {"validation_accuracy": 1 - error, "test_accuracy": 1 - error}
        config = {"data.name": "digits", "train.stop_at_loss": 0.0}
        facts: dict = {"provenance": {"chance": 0.1}, "config": config}
        return SimpleNamespace(status="trained", final=final, curve=[], **facts)

    errors = {-1.0: 0.05, -0.75: 0.04, -0.5: 0.01}
    runs = {at: {s: run(error) for s in range(12)} for at, error in errors.items()}
    runs[-0.5][0] = run(0.9)
    rates = ReportedRates(runs, 1.0, is_window=True)
    others = range(1, 12)
    assert rates.chosen() == [-1.0, -0.75] and -0.5 in rates.chosen(others)
    assert rates.eligible_alone().chosen(others) == rates.chosen()


def test_more_schemes_need_wider_bounds():
    """Three schemes share the 5 %: two comparisons with the best, each at 2.5 %."""
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 10))
    found = {s.name: s for s in standings(costs(a=list(a), b=list(b), c=list(c)), ERROR, 1.0)}

    def bound(one, other):
        d = one - other
        return d.mean() + stats.t.ppf(0.975, 9) * d.std(ddof=1) / math.sqrt(10)

    assert found["a"].behind == pytest.approx(max(0.0, bound(a, b), bound(a, c)))


def test_all_bounds_hold_together():
    """In 95 % of repetitions no scheme is farther behind than its bound; most are far from it."""
    rng = np.random.default_rng(1)
    true = np.array([0.0, 0.0, 0.3, 1.0, 3.0])
    kept, bounds = 0, []
    for _ in range(400):
        shared = rng.normal(size=12)
        table = {
            str(i): dict(enumerate(m + shared + rng.normal(size=12))) for i, m in enumerate(true)
        }
        behind = {s.name: s.behind for s in standings(table, ERROR, 1.0)}
        kept += all(behind[str(i)] >= m for i, m in enumerate(true))
        bounds.append(behind["4"])
    assert kept >= 0.95 * 400 and 3 < np.mean(bounds) < 5


def test_more_is_better_where_the_purpose_says_so():
    high, low = standings(costs(low=[-1.0, -1.1, -1.0], high=[-2.0, -2.1, -2.1]), TOLERANCE, 0.3)
    assert (high.name, low.name) == ("high", "low") and high.is_equal and not low.is_equal
    assert high.value.centre == pytest.approx(2.0667, abs=1e-4) and TOLERANCE.text(2.0) == "100"


def test_only_shared_seeds_and_schemes_with_runs_count():
    few = {"a": {0: 1.0, 1: 1.0, 2: 9.0}, "b": {0: 2.0, 1: 2.0}, "c": {0: 1.0}}
    found = standings(few, ERROR, 1.0)
    assert [(s.name, s.n, s.value.centre) for s in found] == [("a", 2, 1.0), ("b", 2, 2.0)]
    assert standings({"a": {0: 1.0, 1: 1.0}}, ERROR, 1.0) == [] == standings({}, ERROR, 1.0)


def test_what_the_purposes_measure():
    arms = [SimpleNamespace(name=n, is_primary=n != "screened") for n in ("a", "b", "screened")]
    setup = SimpleNamespace(target=0.9, arms=arms)
    rows = [{"step": 10, "accuracy": 0.5}, {"step": 40, "accuracy": 0.9}]
    run = SimpleNamespace(
        status="trained",
        final={"validation_accuracy": 0.9},
        provenance={"chance": 0.1},
        config={"data.name": "digits", "train.steps": 64, "train.stop_at_loss": 0.0},
        curve=rows,
    )
    never = SimpleNamespace(**{**vars(run), "curve": rows[:1]})
    runs = {"a": {0: run, 1: never}}
    e: Any = SimpleNamespace(setup=setup, runs_of=lambda arm: runs.get(arm, {}))
    assert step_costs(e) == {"a": {0: pytest.approx(math.log2(40)), 1: 6.0}, "b": {}}
    edges = {"a": {0: 0.5}, "b": {0: 0.5, 1: -math.inf}, "screened": {0: 0.5}}
    e = SimpleNamespace(setup=setup, edges=edges)
    assert edge_costs(e) == {"a": {0: -0.5}}

    def reported(share: float, is_window: bool = True) -> Any:
        return SimpleNamespace(
            seeds=[0, 1],
            share_failed=share,
            is_window=is_window,
            values=lambda metric: {0: 1.0, 1: math.nan},
            eligible_alone=lambda: SimpleNamespace(redraw=lambda metric: metric),
        )

    found = {"a": reported(0.05), "b": reported(0.06), "screened": reported(0.0)}
    e = SimpleNamespace(setup=setup, reported=found)
    assert error_costs(e) == {"a": {0: 1.0}}
    assert error_redraws(e) == {"a": trained_error}
    e.reported = {"a": reported(0, False)}
    assert error_redraws(e) == {}


def test_every_scheme_that_can_run_is_an_arm_once():
    dense = {arm.name: arm for arm in all_norms("digits_mlp", {})}
    space = {arm.name: arm for arm in all_norms("digits_cnn", {})}
    assert "instance" not in dense and "layer_channels" not in dense  # no space; the same as layer
    assert {"instance", "layer_channels", "weight_norm"} <= space.keys()
    assert set(NORMS) - space.keys() <= {"unit", "local_response"}
    assert all(arm.is_primary and arm.group == name for name, arm in space.items())
    assert space["spectral"].settings == {"norm.name": "none", "norm.kernel": "spectral"}


def test_each_purpose_has_its_protocol_in_both_profiles():
    for profile, setups in STUDY.setups.items():
        kinds = {s.name: s.protocol for s in setups}
        for ranking in (r for r in STUDY.rankings if r.setup in kinds):
            protocol = kinds[ranking.setup]
            assert protocol.times_steps == (ranking.purpose is SPEED)
            assert (protocol.kind == "edges") == (ranking.purpose is TOLERANCE)
            assert ranking.delta(profile) > 0
        assert {s.settings.get("data.batch", 64) for s in setups} == {64, 4, 2}
    assert STUDY.rankings[-1].delta("quick") == 1.0 and STUDY.rankings[-1].delta("standard") == 0.5


@pytest.mark.parametrize("profile", STUDY.setups)
def test_networks_with_time_have_statistics_over_all_steps(profile):
    """As the study says: a GRU for its products with the input, a transformer for its patches."""
    setups = {s.name: s for s in STUDY.setups[profile]}
    gru, vit = setups["which-gru-error"], setups["which-vit-error"]
    assert {s.settings["norm.time"] for s in (gru, vit)} == {"sequence"}
    own = ("model.normed", "data.length", "data.length_spread")
    assert [gru.settings[name] for name in own] == ["input", 12, 8]
    assert vit.settings["data.patch"] == {"quick": 2, "standard": 7}[profile]
    assert [s.base for s in (gru, vit)] == ["digits_rnn", "digits_encoder"]


def test_small_batches_are_asked_again_with_seeds_that_share_nothing():
    setups = {s.name: s for s in STUDY.setups["standard"]}
    first, again = setups["which-mlp-small"], setups["which-mlp-again"]
    assert first.settings == again.settings and first.arms == again.arms
    for arm in first.arms:
        assert not {*first.seeds_of(arm)} & {*again.seeds_of(arm)}
    assert not {*first.protocol.seeds} & {*again.protocol.seeds}
    assert replace(first.protocol, seeds=()) == replace(again.protocol, seeds=())
    wanted = [SetupRuns(s, {}, ConfigCache(needs_data=False)).wanted.keys() for s in (first, again)]
    assert wanted[0] and not wanted[0] & wanted[1]


def small_report() -> StudyReport:
    """The study with three schemes and two setups, on runs that were never trained."""

    def change(setup):
        arms = tuple(a for a in setup.arms if a.name in ("none", "batch", "group"))
        return replace(setup, arms=arms, seeds=4)

    study = STUDY.changed(change)
    names = ("which-mlp-steps", "which-mlp-error")
    study = replace(
        study, setups={"quick": tuple(s for s in study.setups["quick"] if s.name in names)}
    )
    records: dict = {}
    cache = ConfigCache(needs_data=False)
    while True:
        known = look_at_study(study, "quick", records, cache)
        missing = [w for name, w in known.wanted.items() if name not in records]
        if not missing:
            return StudyReport(study, "quick", known.setups, [])
        records |= {w.run_id: make_up(w.run_id, w.config) for w in missing}


def test_the_matrix_has_a_line_for_each_scheme_and_a_column_for_each_purpose():
    columns = columns_of([small_report()])
    assert [c.purpose for c in columns] == [SPEED, ERROR]
    assert columns[0].title == "steps to the target 90 %, MLP 3x100, 8x8 digits, batch 64"
    table = matrix(columns)
    assert table.columns == ["norm", *(c.title for c in columns), "failed runs"]
    assert {row[0] for row in table.texts()} == {"none", "batch", "group"}
    marked = [row for row in table.texts() if EQUAL in row[1]]
    assert [row[0] for row in marked] == columns[0].equals == ["batch"]
    times = [sum(row[0] in c.equals for c in columns) for row in table.texts()]
    assert times == sorted(times, reverse=True) and times[0] > times[-1]
    advice = "Take batch: no other is better by 0.32 octaves (1.25×), with 95 % confidence."
    assert columns[0].advice == advice
    lines = headline([small_report()]).splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].startswith(columns[0].title[:60])
    assert f"{columns[0].title}: {advice} " in " ".join(" ".join(lines).split())
    assert columns_of([]) == [] and all(", n = 4" in row[1] for row in table.texts())


def test_the_markdown_page_of_a_study_without_claims_is_the_matrix_alone(tmp_path):
    report = small_report()
    write_claims_page(tmp_path / "which.md", [report])
    text = (tmp_path / "which.md").read_text()
    assert text.startswith("# Which norm\n") and matrix(columns_of([report])).to_markdown() in text
    assert "… not run" not in text and "All claims" not in text and "# Claims" not in text


def test_the_page_of_a_study_without_claims_has_no_verdicts_and_explains_its_schemes(tmp_path):
    page = write_report(Store(tmp_path), [small_report()]).read_text()
    assert 'id="verdicts"' not in page and 'href="#verdicts"' not in page
    for name, text in (("batch", "statistics over N, H, W"), ("group", "group norm; statistics")):
        assert f'<th scope="row"><a href="#scheme-{name}">' in page
        assert f'<dt id="scheme-{name}">{name}</dt>' in page and text in page
    assert '<th scope="row">none</th>' in page


def test_failures_of_searches_are_counted_apart():
    report = small_report()
    steps, error = report.evidences.values()
    failed = [sum(is_failed(e.records[n]) for n in e.wanted) for e in (steps, error)]
    assert min(failed) > 0
    assert ProvenanceSummary([steps, error]).failures == f"{sum(failed)} failed"
    steps.setup = replace(steps.setup, protocol=Edges((-1.0, 0.0)))
    searched = ProvenanceSummary([steps, error]).failures
    assert searched == (
        f"{sum(failed)} failed, {failed[0]} of them in searches for the highest rate"
    )


def test_intervals_of_errors_end_where_errors_do():
    assert [ERROR.text(value) for value in (-3.0, 1.5, 104.0)] == ["0.00", "1.50", "100.00"]
    e = small_report().evidences["which-mlp-error"]

    def scored(run):
        value = 0.2 if run.config["seed"] == FIRST_SEED else 0.999
        return replace(run, final={**run.final, "test_accuracy": value})

    records = {name: scored(run) for name, run in e.records.items()}
    table = setup_table(SetupRuns(e.setup, records, e.cache))
    for title, end in (("test error, points", "low"), ("test accuracy, %", "high")):
        place = table.columns.index(title)
        cells = [row[place] for row in table.rows]
        ends = [c.numbers[end] or 0.0 for c in cells if isinstance(c, Measured)]
        assert (min if end == "low" else max)(ends) == {"low": 0.0, "high": 100.0}[end]


def test_the_matrix_ends_with_what_schemes_cost():
    """Times of a step where measured, and failures of runs that were not meant to fail."""
    report = small_report()
    steps, error = report.evidences.values()
    steps.step_seconds = {"none": 2e-3, "batch": 3e-3}
    error.step_bytes = {"none": 1000, "batch": 1500, "group": 2500}
    (rate,) = steps.reported["batch"].chosen()
    runs = dict(steps.reported["batch"].runs[rate])
    runs[min(runs)] = replace(runs[min(runs)], status="diverged", final={})
    steps.reported["batch"] = replace(steps.reported["batch"], runs={rate: runs})
    columns = columns_of([report])
    assert columns[1].step_times == columns[0].step_times == {"none": 1.0, "batch": 1.5}
    table = matrix(columns)
    title = "step time, none = 1, MLP 3x100, 8x8 digits, batch 64"
    memory = "memory, none = 1, MLP 3x100, 8x8 digits, batch 64"
    assert table.columns[-3:] == [title, memory, "failed runs"]
    found = {row[0]: row[-3:] for row in table.texts()}
    assert [found[name][1] for name in ("none", "batch", "group")] == ["1.00", "1.50", "2.50"]
    kept = {row["norm"]: row for row in csv.DictReader(table.to_csv().splitlines())}
    assert [float(kept["group"][f"{memory}{end}"]) for end in ("", ", bytes")] == [2.5, 2500]
    del error.step_bytes["group"]
    assert [row[-2] for row in matrix(columns_of([report])).texts()].count("–") == 1
    assert [found[name][0] for name in ("none", "batch", "group")] == ["1.00", "1.50", "–"]
    all_runs = 4 + 4 * len(error.reported["batch"].chosen())
    assert found["batch"][2] == f"1 of {all_runs}" and found["none"][2] == f"0 of {all_runs}"
    searched = replace(steps.setup, protocol=Edges((-1.0, 0.0)))
    assert tried_runs(SetupRuns(searched, {})) == {}


def test_the_page_counts_the_choice_of_rates(monkeypatch):
    chosen = []

    def follow(costs, purpose, sesoi, redraws):
        chosen.append((purpose, sorted(redraws)))
        return standings(costs, purpose, sesoi, redraws)

    monkeypatch.setattr(model, "standings", follow)
    columns_of([small_report()])
    assert chosen == [(SPEED, []), (ERROR, ["batch", "group", "none"])]


def test_nothing_is_advised_while_runs_are_missing():
    report = small_report()
    runs = report.evidences["which-mlp-error"]
    lost = {n for n, w in runs.wanted.items() if (w.arm, w.stage) == ("batch", "report")}
    kept = {n: record for n, record in runs.records.items() if n not in lost}
    fewer = {"which-mlp-error": SetupRuns(runs.setup, kept, runs.cache)}
    columns = columns_of([replace(report, evidences={**report.evidences, **fewer})])
    steps, error = columns
    assert error.advice == "Not decided: runs of 1 of 3 schemes are missing."
    assert error.equals == [] and steps.equals == ["batch"] and not steps.lacking
    table = {row[0]: row[2] for row in matrix(columns).texts()}
    assert table["batch"] == "not run" and EQUAL not in table["none"] + table["group"]


@pytest.mark.parametrize(
    "equals, advice",
    [
        ((), "a is the best, but not surely within 1 point of all others."),
        (("a",), "Take a: no other is better by 1 point, with 95 % confidence."),
        (
            ("batch", "none"),
            "Take one of batch, no norm: no other is better by 1 point, with 95 % confidence; no "
            "norm has the shortest step.",
        ),
    ],
)
def test_the_advice(equals, advice):
    names = equals or ("a", "b")
    one = Estimate(1.0, 0.9, 1.1)
    found = [Standing(name, one, 12, 0.0, name in equals) for name in names]
    times = {"batch": 1.2, "none": 1.0, "other": 0.5}
    assert Column(ERROR, "net", "", "1 point", found, step_times=times).advice == advice
    untimed = Column(ERROR, "net", "", "1 point", found).advice
    assert untimed == advice.partition(";")[0].removesuffix(".") + "."
