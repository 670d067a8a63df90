"""Tables: what a setup's table says of runs that are made up, and how cells are written."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from made_up_runs import LEVELS, RATES, STEPS, STUDY, runs_for

from normlab.report.setup_table import reference_of, setup_table
from normlab.report.tables import Markdown, Measured, Table
from normlab.runs.record import Record
from normlab.studies.intervals import CONFIDENCE, median_interval, t_estimate, t_interval
from normlab.studies.metrics import error_points, steps_to_target
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import rate_of


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
    return [float(row[name]) for name in row if name.split(", ")[0] == column.split(", ")[0]]


def test_every_arm_has_its_n_its_rate_and_its_median(records):
    e = SetupRuns(STEPS, records)
    for seed, run in e.reports["batch"].items():  # made-up runs score alike on all splits
        final = run.final | {"test_accuracy": run.final["test_accuracy"] - 0.1}
        e.reports["batch"][seed] = replace(run, final=final)
    runs = {e.best["batch"]: e.reports["batch"]}
    e.reported["batch"] = replace(e.reported["batch"], runs=runs)
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
    differences = [error_points(four[s]) - error_points(whole[s]) for s in four]
    known = t_estimate(np.array(differences), CONFIDENCE)
    expected = [sum(differences) / len(differences), *known.interval]
    found = numbers_of(setup_table(e), "batch/4", "difference to batch/64")
    assert found == pytest.approx(expected)


def test_an_arm_with_several_rates_counts_with_their_mean(records):
    """A second rate 3 points worse: the error is 1.5 points higher, the difference too."""
    e = SetupRuns(LEVELS, records)
    before = setup_table(e)
    (rate,) = e.reported["batch/4"].runs
    runs = e.reported["batch/4"].runs[rate]
    worse = {
        s: replace(r, final=r.final | {"test_accuracy": r.final["test_accuracy"] - 0.03})
        for s, r in runs.items()
    }
    e.reported["batch/4"] = replace(e.reported["batch/4"], runs={rate: runs, rate + 0.25: worse})
    after = setup_table(e)
    for column in ("test error, points", "difference to batch/64"):
        new, old = (numbers_of(t, "batch/4", column)[0] for t in (after, before))
        assert new == pytest.approx(old + 1.5)


def test_edges_have_the_highest_rate_that_trains(records):
    e = SetupRuns(RATES, records)
    table = setup_table(e)
    edge = 10 ** median(e.edges["none"].values())
    assert numbers_of(table, "none", "highest rate that trains")[0] == pytest.approx(edge)
    ratio = [e.edges["batch"][s] - e.edges["none"][s] for s in e.edges["none"]]
    found = numbers_of(table, "batch", "times the rate of none")
    assert found[0] == pytest.approx(10 ** (sum(ratio) / len(ratio)))
    assert cells_of(table, "batch")["n"] == "6"
    tried = [r for runs in SetupRuns(RATES, records).grids["none"].values() for r in runs.values()]
    assert cells_of(table, "none")["failed, all rates"].split(" (")[0].endswith(f"of {len(tried)}")


def test_a_missed_target_is_infinite_and_a_failure_is_counted(records):
    e = SetupRuns(STEPS, records)
    bad = {s: replace(r, status="diverged", curve=[]) for s, r in e.reports["none"].items()}
    e.reports["none"] = bad
    e.reported["none"] = replace(e.reported["none"], runs={e.best["none"]: bad})
    table = setup_table(e)
    assert cells_of(table, "none")["steps to 90 %"] == "∞ [∞, ∞]"
    assert cells_of(table, "none")["failed"] == "6 of 6 (6 diverged)"
    assert numbers_of(table, "none", "failed") == [6, 6, 6]
    assert "A diverged run counts with the accuracy of chance" in table.note


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
