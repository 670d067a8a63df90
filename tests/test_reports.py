"""scripts/report.py: studies of one's own, results that may not be written, single runs."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
from pathlib import Path

import pytest
from made_up_runs import STUDY, runs_for
from workspace import ROOT, Workspace, finish, run_script

from normlab.report import exports
from normlab.report.exports import curves_csv, no_longer_there, readable, write_curves
from normlab.report.job import write_variants
from normlab.report.model import collect
from normlab.report.write import write_report
from normlab.runs.errors import BadResultsDirectory
from normlab.runs.files import read_json, write_json
from normlab.runs.store import Records, Store
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import sha256_of, started_studies

RUNS = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    """A study in a file, trained, and one run of scripts/train.py."""
    work = Workspace(tmp_path_factory.mktemp("own"), steps=40)
    flags = [f"--results={work.results}", "--config.data.name=synthetic", "--config.train.steps=20"]
    flags += ["--config.norm.name=none"]
    assert run_script("train", "--config=configs/digits_mlp.py", *flags, cwd=ROOT).returncode == 0
    finish(work.start())
    return work


@pytest.fixture
def work(trained, tmp_path) -> Workspace:
    """A copy of it, with a study file of its own that is noted there."""
    shutil.copytree(trained.results, tmp_path / "results")
    copy = Workspace(tmp_path, steps=40)
    note = copy.results / "studies" / "tiny-quick.json"
    write_json(note, read_json(note) | {"file": str(copy.study)})
    return copy


def report(results: Path, *flags: str):
    done = run_script("report", f"--results={results}", *flags)
    assert done.returncode == 0, done.stderr
    return done


def lines_of(path: Path) -> list[dict[str, str]]:
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open(newline="")
    with opened as lines:
        return list(csv.DictReader(lines))


def listing(folder: Path) -> list[tuple]:
    return sorted((p, p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*"))


def test_a_study_of_ones_own_is_reported_again_with_single_runs_in_the_tables(work):
    done = report(work.results)
    assert "It is better" in done.stdout and done.stderr == ""
    page = work.results / "report"
    runs = {row["run"]: row["used_by"] for row in lines_of(page / "runs.csv")}
    assert sorted(runs) == sorted(work.done()) and len(runs) == RUNS + 1
    (single,) = [name for name, uses in runs.items() if not uses]
    rows = [row for row in lines_of(page / "curves.csv") if row["run"] == single]
    curve = work.store.read(single).curve
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in curve]
    assert all(row["running_loss"] == "" for row in rows)


def test_out_leaves_the_results_as_they_are(work, tmp_path):
    for path in [work.results, *work.results.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = listing(work.results)
    done = report(work.results, f"--out={tmp_path / 'page'}")
    assert listing(work.results) == before and "It is better" in done.stdout
    text = (tmp_path / "page" / "index.html").read_text()
    assert "It is better" in text and str(work.results) not in text
    assert len(lines_of(tmp_path / "page" / "runs.csv")) == RUNS + 1


LEFT_OUT = {
    "gone": "is gone, or cannot be read",
    "changed": "has changed since it was started",
    "older": "was started by an older normlab",
    "inside": "is no study outside of the results",
    "no study": "is no study outside of the results",
    "foreign": "is another user's",
    "damaged": "tiny-quick.json",
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_file_that_should_not_be_run_is_not(case, work, monkeypatch):
    """Whatever a results directory says: it may be somebody else's."""
    note, canary = work.results / "studies" / "tiny-quick.json", work.results / "canary"
    code = f"open({str(canary)!r}, 'w')\n"
    file = work.results / "evil.py" if case == "inside" else work.study
    file.write_text(code + ("" if case == "no study" else work.study.read_text()))
    facts = read_json(note) | {"file": str(file), "file_sha256": sha256_of(str(file))}
    write_json(note, facts if case != "older" else facts | {"file_sha256": ""})
    if case == "gone":
        file.unlink()
    if case == "changed":
        file.write_text(file.read_text() + "# more")
    if case == "damaged":
        note.write_text("{")
    if case == "foreign":
        monkeypatch.setattr("os.getuid", lambda: 12345)
    found, left_out = started_studies(work.store)
    assert found == [] and LEFT_OUT[case] in left_out["tiny-quick"]
    assert "--study=FILE" in left_out["tiny-quick"] and "\n" not in left_out["tiny-quick"]
    assert not canary.exists()


def test_a_page_stays_where_nothing_can_take_its_place(work):
    report(work.results)
    page = work.results / "report" / "index.html"
    before = page.read_bytes()
    work.study.unlink()
    done = report(work.results)
    assert page.read_bytes() == before and lines_of(page.with_name("runs.csv"))[0]["run"]
    left_out, stays = done.stderr.splitlines()
    assert "the study 'tiny-quick' is left out" in left_out and "stays" in stays


def test_a_page_that_loses_a_study_says_so(work):
    report(work.results)
    done = report(work.results, "--study=convergence")
    assert "the page no longer has 'tiny-quick'" in done.stderr


def test_a_started_file_that_has_moved_is_noted(work, tmp_path):
    moved = tmp_path / "elsewhere" / "tiny.py"
    moved.parent.mkdir()
    work.study.rename(moved)
    rule = read_json(work.results / "studies" / "tiny-quick.json")["rule"]
    again = run_script("study", f"--study={moved}", f"--results={work.results}")
    assert again.returncode == 0, again.stderr
    note = read_json(work.results / "studies" / "tiny-quick.json")
    assert note["file"] == str(moved) and note["rule"] == rule
    assert [study.name for study, _ in started_studies(work.store)[0]] == ["tiny"]


def test_single_runs_alone_give_tables(work):
    shutil.rmtree(work.results / "studies")
    shutil.rmtree(work.results / "report")
    done = report(work.results)
    assert "no page" in done.stderr and not (work.results / "report" / "index.html").exists()
    assert len(lines_of(work.results / "report" / "runs.csv")) == RUNS + 1


def test_a_damaged_run_is_left_out_of_the_tables(work):
    name = min(work.done())
    (work.results / "runs" / name / "curve.jsonl").write_text("{}\n")
    names = [run.run_id for run in readable(Records(work.store))]
    assert sorted(names) == sorted(work.done() - {name})


def test_curves_are_one_row_for_each_evaluation_and_packed_where_large(monkeypatch, tmp_path):
    runs = [*runs_for([STUDY], "quick").values()]
    whole = write_curves(tmp_path, runs)
    rows = lines_of(whole)
    assert whole.name == "curves.csv" and len(rows) == sum(len(run.curve) for run in runs)
    by_run = {run.run_id: run for run in runs}
    for row in rows:
        at = next(r for r in by_run[row["run"]].curve if r["step"] == int(row["step"]))
        assert {n: float(v) for n, v in row.items() if v and n != "run"} == at
    assert curves_csv(runs).startswith("run,step,train_loss,")
    monkeypatch.setattr(exports, "LARGEST", 1000)
    packed = write_curves(tmp_path, runs)
    assert packed.name == "curves.csv.gz" and lines_of(packed) == rows and not whole.exists()


def test_what_a_page_loses_is_read_from_its_own_table(tmp_path):
    store, records = Store(tmp_path), runs_for([STUDY], "quick")
    write_report(store, collect(store, [STUDY], "quick", records=records))
    assert no_longer_there(tmp_path / "report", []) == ["made_up-quick"]
    assert no_longer_there(tmp_path / "nowhere", []) == []
    (tmp_path / "report" / "runs.csv").write_bytes(b"\xff\n")
    assert no_longer_there(tmp_path / "report", []) == []


def test_results_that_are_only_read_need_no_right_to_write(monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda path, rights: not rights & os.W_OK)
    Store(tmp_path).check(is_written=False)
    with pytest.raises(BadResultsDirectory, match="not a readable and writable directory"):
        Store(tmp_path).check()


def test_exploratory_pages_are_made_again(work):
    flags = [f"--study={work.study}", "--arms=none,batch", "--config.model.widths=16"]
    assert run_script("study", f"--results={work.results}", *flags).returncode == 0
    (page,) = work.results.glob("report-exploratory/*/index.html")
    before = page.read_bytes()
    page.write_text("")
    done = report(work.results)
    assert page.read_bytes() == before and str(page) in done.stdout and done.stderr == ""
    note = page.with_name("variant.json")
    kept = read_json(note)
    for wrong in (
        kept | {"studies": 3},
        kept | {"studies": [kept["studies"][0] | {"file_sha256": "x"}]},
        kept | {"studies": [kept["studies"][0] | {"overrides": {"model.depth": "x"}}]},
    ):
        write_json(note, wrong)
        warned: list[str] = []
        records = Records(work.store)
        assert not write_variants(work.store, records, ConfigCache(needs_data=False), warned.append)
        assert len(warned) == 1 and "stays as it is" in warned[0] and page.read_bytes() == before
