"""Tables: what a setup's table says of runs that are made up, and how cells are written."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, median

import numpy as np
import pytest
from made_up_runs import LEVELS, RATES, STEPS, STUDY, runs_for

from normlab.report.setup_table import reference_of, setup_table
from normlab.report.tables import Markdown, Measured, Table
from normlab.runs.record import Record
from normlab.studies.decisions import jackknife_error
from normlab.studies.effects import weighted_errors
from normlab.studies.intervals import DISCORDANT, median_interval, t_estimate, t_interval
from normlab.studies.metrics import error_points, steps_to_target
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import WINDOW, rate_of
from normlab.studies.setup import FollowUp

WINDOWS = replace(
    LEVELS,
    protocol=replace(WINDOW, exponents=LEVELS.protocol.exponents),
    follows=(FollowUp("again", "batch/4", "batch/4", settings={"optim.momentum": 0.8}),),
)


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return runs_for([STUDY], "quick")


def cells_of(table: Table, arm: str) -> dict[str, str]:
    row = next(r for r in table.texts() if r[0] == arm)
    return dict(zip(table.columns, row, strict=True))


def numbers_of(table: Table, arm: str, column: str) -> list[float]:
    """Return what the CSV has of a cell: its value, and its interval."""
    rows = csv.DictReader(io.StringIO(table.to_csv()))
    row = next(r for r in rows if r["arm"] == arm)
    return [float(row[n]) for n in row if n == column or n.startswith(f"{column}, ")]


def change(e: SetupRuns, arm: str, changed: Callable[[Record], Record], *seeds: int) -> None:
    """Change what an arm reports, at every rate; with `seeds`, of these alone."""
    runs = {
        rate: {s: changed(run) if s in seeds or not seeds else run for s, run in found.items()}
        for rate, found in e.reported[arm].runs.items()
    }
    e.reported[arm] = replace(e.reported[arm], runs=runs)
    e.reports[arm] = runs[e.best[arm]]


def test_every_arm_has_its_n_its_rate_and_its_median(records):
    e = SetupRuns(STEPS, records)

    def less(run: Record) -> Record:  # made-up runs score alike on all splits
        return replace(run, final=run.final | {"test_accuracy": run.final["test_accuracy"] - 0.1})

    change(e, "batch", less)
    table = setup_table(e)
    assert {r[0]: cells_of(table, r[0])["n"] for r in table.texts()} == {
        "none": "6",
        "batch": "6",
        "group": "3",
        "batch at none's rate": "4",
    }
    steps = [steps_to_target(r, 0.9) for r in e.reports["batch"].values()]
    batch, none = cells_of(table, "batch"), cells_of(table, "none")
    expected = [median(steps), *median_interval(steps)[:2]]
    assert numbers_of(table, "batch", "steps to 90 %") == expected
    shown = batch["steps to 90 %"].translate(str.maketrans("[],", "   ")).split()
    assert [float(text) for text in shown] == pytest.approx(expected, rel=5e-3)
    accuracies = [100 * r.final["test_accuracy"] for r in e.reports["batch"].values()]
    low, high = t_interval(accuracies)
    assert batch["test accuracy, %"].endswith(f" [{low:.1f}, {high:.1f}]")
    assert (batch["role"], cells_of(table, "group")["role"]) == ("primary", "screening")
    assert none["times faster than none"] == none["steps, running averages"] == ""
    assert batch["steps, running averages"] != ""
    assert "n = 3 and carry no verdict" in table.note
    assert numbers_of(table, "batch", "tuned rate") == [rate_of(e.best["batch"])]


def test_differences_are_paired_with_the_largest_level(records):
    e = SetupRuns(LEVELS, records)
    assert {a.name: reference_of(e, a) for a in LEVELS.arms} == {
        "batch/4": "batch/64",
        "batch/16": "batch/64",
        "batch/64": "",
        "none": "batch/64",
    }
    four, whole = e.runs_of("batch/4"), e.runs_of("batch/64")
    found = e.reported["batch/64"]  # a seed without its pair is left out
    runs = {
        rate: {s: run for s, run in own.items() if s != 10_000} for rate, own in found.runs.items()
    }
    e.reported["batch/64"] = replace(found, runs=runs)
    differences = [error_points(four[s]) - error_points(whole[s]) for s in four if s != 10_000]
    assert len(differences) == 5
    estimate = t_estimate(np.array(differences))
    shown = numbers_of(setup_table(e), "batch/4", "difference to batch/64")
    assert shown == pytest.approx([estimate.centre, *estimate.interval])


def test_an_arm_with_several_rates_shows_its_mean_over_those_that_count():
    records = runs_for([replace(STUDY, setups={"quick": (WINDOWS,)})], "quick")
    e = SetupRuns(WINDOWS, records)
    table, reported = setup_table(e), e.reported["batch/4"]
    rates = sorted(reported.chosen())
    assert len(rates) == 3 < len(reported.runs)
    low, middle, high = map(rate_of, rates)
    assert numbers_of(table, "batch/4", "tuned rate") == [middle, low, high]
    assert cells_of(table, "batch/4")["tuned rate"] == f"{middle:.3g} ({low:.3g} to {high:.3g})"
    errors = [fmean(error_points(reported.runs[e][s]) for e in rates) for s in reported.seeds]
    shown = numbers_of(table, "batch/4", "test error, points")
    assert shown == pytest.approx([fmean(errors), *t_interval(errors)])
    assert cells_of(table, "batch/4")["failed"] == "0 of 18"
    again = cells_of(table, "again")
    assert (again["tuned rate"], again["failed"]) == (
        f"{middle:.3g} ({low:.3g} to {high:.3g})",
        "0 of 18",
    )
    assert cells_of(table, "batch/16")["tuned rate"].count("to") == 0  # screened, at one rate
    assert "mean over them" in table.note


def test_the_difference_has_the_interval_that_decides():
    records = runs_for([replace(STUDY, setups={"quick": (WINDOWS,)})], "quick")
    e = SetupRuns(WINDOWS, records)

    def noisy(run: Record) -> Record:
        luck = random.Random(run.run_id).gauss(0, 0.02)
        return replace(run, final=run.final | {"validation_accuracy": 0.9 + luck})

    change(e, "batch/4", noisy)
    measured = weighted_errors({"batch/4": 1.0, "batch/64": -1.0}, e)
    assert measured.redraw is not None
    arms = ("batch/4", "batch/64")
    errors = [fmean(e.reported[arm].values(error_points).values()) for arm in arms]
    words = f"test error {errors[0]:.1f} % with batch/4, {errors[1]:.1f} % with batch/64"
    assert measured.words == words
    effects = np.array([*measured.effects.values()])
    estimate = t_estimate(effects, error=jackknife_error(measured.redraw, [*measured.effects]))
    assert estimate.half_width > 1.01 * t_estimate(effects).half_width, "rates are not chosen anew"
    shown = numbers_of(setup_table(e), "batch/4", "difference to batch/64")
    assert shown == pytest.approx([estimate.centre, *estimate.interval])


def test_errors_are_not_compared_where_an_arm_fails_too_often(records):
    e = SetupRuns(LEVELS, records)
    change(e, "batch/4", lambda run: replace(run, status="diverged"), 10_000)
    table = setup_table(e)
    assert cells_of(table, "batch/4")["difference to batch/64"] == "fails"
    assert cells_of(table, "batch/4")["failed"] == "1 of 6 (1 diverged)"
    assert "accuracy of chance" in table.note
    assert weighted_errors({"batch/4": 1.0, "batch/64": -1.0}, e).estimator is DISCORDANT


def test_edges_are_shown_as_the_highest_rate_that_trains(records):
    e = SetupRuns(RATES, records)
    table = setup_table(e)
    for arm in ("none", "batch"):
        middle = 10 ** median(e.edges[arm].values())
        assert cells_of(table, arm)["highest rate that trains"].startswith(f"{middle:.3g} [")
        assert numbers_of(table, arm, "highest rate that trains")[0] == pytest.approx(middle)
    ratios = [e.edges["batch"][s] - e.edges["none"][s] for s in e.edges["none"]]
    estimate = t_estimate(np.array(ratios))
    expected = [10**v for v in (estimate.centre, *estimate.interval)]
    assert numbers_of(table, "batch", "times the rate of none") == pytest.approx(expected)
    assert cells_of(table, "batch")["n"] == "6"
    tried = [r for runs in e.grids["none"].values() for r in runs.values()]
    assert cells_of(table, "none")["failed, all rates"].split(" (")[0].endswith(f"of {len(tried)}")


def test_an_arm_that_trains_at_no_rate_has_no_factor(records):
    e = SetupRuns(RATES, records)
    e.edges["batch"] |= dict.fromkeys([*e.edges["batch"]][:2], -math.inf)
    assert cells_of(setup_table(e), "batch")["times the rate of none"] == "–"


def test_a_rate_is_a_lower_bound_where_the_grid_ends_first(records):
    e = SetupRuns(RATES, records)
    assert not any("≥" in cell for cell in cells_of(setup_table(e), "batch").values())
    end, ratio = max(e.grids["batch"]), "times the rate of none"
    for seeds, signs in ((1, ("", "≥ ")), (6, ("≥ ", "≥ "))):
        e.edges["batch"] |= dict.fromkeys([*e.edges["batch"]][:seeds], end)
        cells = cells_of(setup_table(e), "batch")
        found = [cells[column] for column in ("highest rate that trains", ratio)]
        assert [text.startswith("≥ ") for text in found] == [*map(bool, signs)]
    assert cells_of(setup_table(e), "none")["highest rate that trains"][0] != "≥"
    e.edges["none"] = e.edges["batch"]
    assert cells_of(setup_table(e), "batch")[ratio] == ""


def test_a_missed_target_is_infinite_and_a_failure_is_counted(records):
    e = SetupRuns(STEPS, records)
    assert "≥" not in cells_of(setup_table(e), "batch")["times faster than none"]
    change(e, "none", lambda run: replace(run, status="diverged", curve=[]))
    table = setup_table(e)
    assert cells_of(table, "none")["steps to 90 %"] == "∞ [∞, ∞]"
    assert cells_of(table, "none")["failed"] == "6 of 6 (6 diverged)"
    assert numbers_of(table, "none", "failed") == [6, 6, 6]
    assert "A missed target is ∞" in table.note and "accuracy of chance" in table.note
    assert cells_of(table, "batch")["times faster than none"].startswith("≥ ")
    steps = [steps_to_target(run, 0.9) for run in e.reports["batch"].values()]
    factors = [math.log2(300 / own) for own in steps]  # the others count with all their steps
    assert numbers_of(table, "batch", "times faster than none")[0] == pytest.approx(
        2 ** fmean(factors)
    )


def test_a_factor_is_a_lower_bound_where_more_than_a_tenth_was_cut_off(records):
    for cut, sign in ((0, ""), (1, "≥ ")):
        e = SetupRuns(STEPS, records)
        for seed in range(10_000, 10_000 + cut):
            change(e, "none", lambda run: replace(run, curve=run.curve[:1]), seed)
        assert cells_of(setup_table(e), "batch")["times faster than none"].startswith(sign or "2.")


def test_seconds_to_the_target_are_shown_only_where_a_step_was_timed(records):
    e = SetupRuns(STEPS, records)
    assert "seconds to target" not in setup_table(e).columns
    e.step_seconds, e.timed_on = {"batch": 0.5}, "this machine"
    table = setup_table(e)
    steps = [steps_to_target(r, 0.9) for r in e.reports["batch"].values()]
    assert numbers_of(table, "batch", "seconds to target") == [median(steps) / 2]
    assert cells_of(table, "none")["seconds to target"] == ""
    assert "this machine" in table.note


def test_cells_are_escaped_for_every_format():
    nasty = [("x|y\n<b>", "=1+1"), ("-1.5", "@f"), (-2, 0.1), ("\r=2", "+3"), ("[a", "-b")]
    table = Table("t_1 & $", ("a|b", "=c"), nasty)
    lines = table.to_markdown().splitlines()
    assert lines[4] == r"| x\|y &lt;b&gt; | =1+1 |"
    assert len({line.replace(r"\|", "").count("|") for line in lines[2:]}) == 1
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    expected = [["a|b", "'=c"], ["x|y\n<b>", "'=1+1"], ["-1.5", "'@f"], ["-2", "0.1"]]
    assert rows == [*expected, ["'\n=2", "+3"], ["[a", "'-b"]]
    latex = table.to_latex()
    assert r"\caption{t\_1 \& \$}" in latex and "{}[a & -b" in latex
    assert r"x|y \textless{}b\textgreater{} & =1+1 \\" in latex


def test_numbers_have_columns_of_their_own_in_csv_and_trusted_markup_is_kept():
    measured = Measured("2× [1×, ∞]", {"": 1.0, "low": -math.inf, "high": math.inf})
    rows = [("a", measured, Markdown("`x`")), ("b", "", math.nan), ("c", Measured("–", {}), None)]
    table = Table("", ("arm", "effect", "note"), rows, "n")
    assert table.to_csv().splitlines() == [
        'arm,effect,"effect, low","effect, high",note',
        "a,1.0,-inf,inf,`x`",
        "b,,,,",
        "c,,,,",
    ]
    assert table.to_markdown().startswith("| arm | effect | note |\n| --- ")
    assert r"| a | 2× \[1×, ∞\] | `x` |" in table.to_markdown()
    assert table.to_markdown().endswith("\n\nn\n")
    assert table.to_text().splitlines()[:2] == ["arm  effect      note", "a    2× [1×, ∞]  `x`"]
