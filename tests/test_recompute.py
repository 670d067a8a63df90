"""The second writing of the rules agrees with the page, and notices a number that was changed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_runs import make_up

from benchmarks.validation import recompute, rules_again, runs_again
from benchmarks.validation.rules_again import Estimate
from benchmarks.validation.runs_again import Rates, Run
from normlab.report.model import collect
from normlab.report.write import write_report
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.studies.looks import look_at_study
from normlab.studies.planning import ConfigCache, RequiredRun
from normlab.studies.study import Study, load_study

JUDGED = {
    "convergence-mlp": ("convergence", "C1a"),
    "small-batch-mlp": ("batch_size", "C10a-layer", "C10a-group"),
    "switched-batch-mlp": ("batch_size", "C8c"),
    "learning-rate-mlp": ("learning_rate", "C2-mlp", "C2r-mlp"),
}
"""Set-up -> study and claims."""
TESTS = [test for _, *tests in JUDGED.values() for test in tests]
Rows = list[dict[str, str]]


def part_of(setup: str, name: str, *tests: str) -> Study:
    """Return a study with one set-up, whose primary arms are its only ones."""
    study = load_study(name)
    whole = next(s for s in study.setups["quick"] if s.name == setup)
    arms = tuple(arm for arm in whole.arms if arm.is_primary)
    claims = tuple(claim for claim in study.claims if claim.id in tests)
    setups = {"quick": (replace(whole, arms=arms),)}
    return replace(study, setups=setups, claims=claims, figures=(), rankings=(), benchmarks=())


def trained(study: Study) -> dict[str, Record]:
    records: dict[str, Record] = {}
    cache = ConfigCache()
    while True:
        wanted = look_at_study(study, "quick", records, cache).wanted
        missing = [run for name, run in wanted.items() if name not in records]
        if not missing:
            return records
        records |= {run.run_id: made_up(run) for run in missing}


def made_up(run: RequiredRun) -> Record:
    """Where the batch changes, one seed fails: of none at every rate, of batch at high rates."""
    record, rate = make_up(run.run_id, run.config), run.config["optim.lr"]
    failing = {"none": 0.0, "batch": 0.7}.get(run.arm, 9.0)
    if run.setup == "switched-batch-mlp" and run.config["seed"] == 10_005 and rate > failing:
        return replace(record, status="trained", final=dict.fromkeys(record.final, 0.1))
    return record


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("results")
    reports = []
    for setup, asked in JUDGED.items():
        study = part_of(setup, *asked)
        records = trained(study)
        reports += collect(Store(root), [study], "quick", records=records)
        for name, record in records.items():
            folder = root / "runs" / name
            folder.mkdir(parents=True, exist_ok=True)
            known = {"provenance": {"chance": record.provenance["chance"]}}
            (folder / "result.json").write_text(json.dumps(known))
            (folder / "curve.jsonl").write_text("\n".join(map(json.dumps, record.curve)))
    write_report(Store(root), reports)
    return root


def disagreeing(results: Path, capsys) -> tuple[set[str], int]:
    """Return the tests of which a line shows a difference, and the exit status."""
    capsys.readouterr()
    status = recompute.main(results)
    _, *lines, last = capsys.readouterr().out.splitlines()
    found = {line.split()[0] for line in lines if float(line.split()[-1]) > 1e-9}
    assert last == f"{len(TESTS) - len(found)} of {len(TESTS)} verdicts agree to 1e-09"
    return found, status


def planted(results: Path, root: Path, name: str, change: Callable[[Rows], None]) -> Path:
    """Return the same results with a table that was changed."""
    (root / "report" / "tables").mkdir(parents=True)
    (root / "runs").symlink_to(results / "runs")
    for table in ("runs.csv", "tables/verdicts.csv"):
        with (results / "report" / table).open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        if table == name:
            change(rows)
        with (root / "report" / table).open("w", newline="") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return root


@pytest.mark.parametrize(
    "low, high, word",
    [(0.0, 0.05, "supported"), (0.0, 0.051, "open"), (0.05, 0.2, "open"), (0.051, 0.2, "refuted")],
)
def test_a_limit_that_is_touched_is_kept(low, high, word):
    row = next(row for row in recompute.ROWS if row.is_limit)
    assert recompute.word(Estimate(0.05, low, high, 104), row)[0] == word


@pytest.mark.parametrize("ends, both", [(2, 0), (3, 0), (3, 1), (3, 2)])
def test_edges_at_the_end_of_the_grid_make_a_lower_bound(monkeypatch, ends, both):
    """The last rate, 1, trains in `ends` of 20 seeds of batch, in `both` of them of none too."""
    monkeypatch.setattr(runs_again, "chance_of", lambda folder: 0.1)

    def run(seed: int, notch: int, endless: int) -> Run:
        trains = notch < 0 or seed < 10_000 + endless
        accuracies = {"validation": 0.95 if trains else 0.5}
        return Run(Path(), seed, 10 ** (notch / 16), 300, True, accuracies)

    def rates(setup: str, arm: str, stage: str, n: int) -> Rates:
        endless, notches = (ends if arm == "batch" else both), (-16, -8, 0)
        seeds = range(10_000, 10_000 + n)
        grid = {notch: {s: run(s, notch, endless) for s in seeds} for notch in notches}
        return grid if stage == "edge" else {}

    results: Any = SimpleNamespace(rates=rates)
    found = rules_again.higher(results, 20, "")
    assert found.mean == pytest.approx((ends - both) / 2 / (20 - both)) and found.n == 20
    assert found.is_lower_bound == (ends - both > (20 - both) / 10)


def test_the_page_and_the_second_writing_agree(results, capsys):
    assert disagreeing(results, capsys) == (set(), 0)


@pytest.mark.parametrize(
    "test, column, value",
    [
        *(("C1a", "effect", "+"), ("C10a-layer", "effect, low", "+"), ("C8c", "effect, high", "+")),
        *(("C2-mlp", "n", "+"), ("C2r-mlp", "verdict", "open"), ("C10a-group", "qualifier", "big")),
        ("C1a", "lower bound", "no"),
    ],
)
def test_a_changed_verdict_is_noticed(results, capsys, tmp_path, test, column, value):
    def change(rows: Rows) -> None:
        row = next(row for row in rows if row["test"] == test)
        row[column] = str(float(row[column]) + 1e-6) if value == "+" else value

    changed = planted(results, tmp_path, "tables/verdicts.csv", change)
    assert disagreeing(changed, capsys) == ({test}, 1)


@pytest.mark.parametrize(
    "use, column, value, noticed",
    [
        ("small-batch-mlp/batch/report", "test_accuracy", "0.5", {"C10a-layer", "C10a-group"}),
        ("small-batch-mlp/layer/report", "test_accuracy", "0.5", {"C10a-layer"}),
        ("switched-batch-mlp/batch/follow: batch, batch 4", "test_accuracy", "0.5", {"C8c"}),
        ("convergence-mlp/none/tune", "status", "diverged", {"C1a"}),
        ("convergence-mlp/none/report", "status", "diverged", {"C1a"}),
        ("learning-rate-mlp/batch/bisect", "status", "diverged", {"C2-mlp"}),
        ("learning-rate-mlp/batch/follow: batch at 30", "validation_accuracy", "0.95", {"C2r-mlp"}),
    ],
)
def test_a_changed_run_is_noticed(results, capsys, tmp_path, use, column, value, noticed):
    def change(rows: Rows) -> None:
        for row in rows:
            if use in row["used_by"]:
                row[column] = value

    changed = planted(results, tmp_path, "runs.csv", change)
    assert disagreeing(changed, capsys) == (noticed, 1)
