"""Tables and the look of arms, from runs that are made up and never trained."""

from __future__ import annotations

import csv
import io
import math

import pytest
from made_up_runs import LEVELS, RATES, STEPS, STUDY, runs_for

from normlab.report.cells import Line, failed_cell, steps_cell
from normlab.report.figures.draw import accuracy_curves
from normlab.report.figures.style import line_styles
from normlab.report.setup_table import StepTimes, arm_table, reference_of
from normlab.report.tables import Markdown, Measured, Table
from normlab.runs.record import Record
from normlab.studies.hypothesis_tests import median
from normlab.studies.metrics import error_points, steps_to_target
from normlab.studies.planning import SetupRuns


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return runs_for([STUDY], "quick")


def cells_of(table: Table, arm: str) -> dict[str, str]:
    row = next(r for r in table.texts() if r[0] == arm)
    return dict(zip(table.columns, row, strict=True))


def test_every_arm_tells_its_n_its_rate_and_its_median(records):
    e = SetupRuns(STEPS, records)
    table = arm_table(e)
    assert {r[0]: cells_of(table, r[0])["n"] for r in table.texts()} == {
        "none": "6",
        "batch": "6",
        "group": "3",
        "batch at none's rate": "4",
    }
    steps = [steps_to_target(r, 0.9) for r in e.reports["batch"].values()]
    cell = cells_of(table, "batch")["steps to 90 %"]
    assert float(cell.split()[0]) == pytest.approx(median(steps), rel=5e-3)
    assert cells_of(table, "batch")["role"] == "primary"
    assert cells_of(table, "group")["role"] == "screening"
    assert cells_of(table, "none")["times faster than none"] == ""
    assert cells_of(table, "none")["steps, running averages"] == ""
    assert cells_of(table, "batch")["steps, running averages"] != ""
    assert "n = 3 and carry no verdict" in table.note


def test_differences_are_paired_with_the_largest_level(records):
    e = SetupRuns(LEVELS, records)
    assert {a.name: reference_of(e, a) for a in LEVELS.arms} == {
        "batch/4": "batch/64",
        "batch/16": "batch/64",
        "batch/64": "",
        "none": "batch/64",
    }
    four, whole = e.runs_of("batch/4"), e.runs_of("batch/64")
    mean = sum(error_points(four[s]) - error_points(whole[s]) for s in four) / len(four)
    cell = cells_of(arm_table(e), "batch/4")["difference to batch/64"]
    assert float(cell.split()[0].replace("−", "-")) == pytest.approx(mean, abs=0.006)


def test_a_sweep_tells_the_largest_rate_that_trains(records):
    table = arm_table(SetupRuns(RATES, records))
    assert cells_of(table, "none")["largest rate that trains"].startswith("0.1 [")
    assert cells_of(table, "batch")["times the rate of none"].startswith("31.6 [")
    assert cells_of(table, "batch")["n"] == "6"


def test_a_missed_target_is_infinite_and_a_failure_is_counted():
    config = STEPS.settings | {"optim.lr": 0.1, "norm.name": "none"}
    bad = [Record(f"{i}", config, "diverged", {}, [], 1) for i in range(3)]
    line = Line("none", "primary", dict(enumerate(bad)), {}, {}, {}, bad)
    assert steps_cell(line, 0.9) == "∞ [∞, ∞]"
    assert failed_cell(line) == "3 of 3 (3 diverged)"


def test_seconds_to_the_target_stand_only_where_a_step_was_timed(records):
    e = SetupRuns(STEPS, records)
    table = arm_table(e, StepTimes({"batch": 0.5}, "this machine"))
    steps = [steps_to_target(r, 0.9) for r in e.reports["batch"].values()]
    assert float(cells_of(table, "batch")["seconds to target"]) == pytest.approx(
        median(steps) / 2, rel=5e-3
    )
    assert cells_of(table, "none")["seconds to target"] == ""
    assert "this machine" in table.note
    assert "seconds to target" not in arm_table(e).columns


def test_cells_are_escaped_for_every_format():
    table = Table("t_1 & $", ("a|b", "=c"), (("x|y\n<b>", "=1+1"), ("-1.5", "@f"), (-2, 0.1)))
    lines = table.to_markdown().splitlines()
    assert lines[4] == r"| x\|y &lt;b&gt; | =1+1 |"
    assert len({line.replace(r"\|", "").count("|") for line in lines[2:]}) == 1
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows == [["a|b", "'=c"], ["x|y\n<b>", "'=1+1"], ["-1.5", "'@f"], ["-2", "0.1"]]
    latex = table.to_latex()
    assert r"\caption{t\_1 \& \$}" in latex
    assert r"x|y \textless{}b\textgreater{} & =1+1 \\" in latex


def test_numbers_have_columns_of_their_own_in_csv_and_markup_is_kept_where_it_is_trusted():
    measured = Measured("2× [1×, ∞]", {"": 1.0, "low": 0.0, "high": math.inf})
    rows = [("a", measured, Markdown("`x`")), ("b", "", math.nan), ("c", Measured("–", {}), None)]
    table = Table("", ("arm", "effect", "note"), rows, "n")
    assert table.to_csv().splitlines() == [
        'arm,effect,"effect, low","effect, high",note',
        "a,1.0,0.0,inf,`x`",
        "b,,,,",
        "c,,,,",
    ]
    assert table.to_markdown().startswith("| arm | effect | note |\n| --- ")
    assert r"| a | 2× \[1×, ∞\] | `x` |" in table.to_markdown()
    assert table.to_markdown().endswith("\n\nn\n")
    assert table.to_text().splitlines()[:2] == ["arm  effect      note", "a    2× [1×, ∞]  `x`"]


def test_arms_of_one_scheme_differ_in_dash_and_schemes_in_colour():
    styles = line_styles(LEVELS)
    assert styles["batch/4"].color == styles["batch/64"].color != styles["none"].color
    assert styles["batch/4"].dash != styles["batch/64"].dash
    assert line_styles(STEPS)["batch"].color == line_styles(RATES)["batch"].color


def test_a_curve_that_ends_early_falls_to_chance_only_if_it_diverged():
    rows = [{"step": s, "accuracy": a} for s, a in ((1, 0.5), (2, 0.9), (3, 0.95))]
    runs = {
        0: Record("a", {}, "trained", {}, rows),
        1: Record("b", {}, "trained", {}, rows[:2]),
        2: Record("c", {}, "diverged", {}, rows[:1], 2),
    }
    steps, values = accuracy_curves(runs)
    assert steps.tolist() == [1, 2, 3]
    assert values[:, -1].tolist() == pytest.approx([95, 90, 10])
