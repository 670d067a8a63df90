"""The report: page, files and headline, from runs that are made up and never trained."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_runs import FIGURES, PROVENANCE, STUDY, runs_for

from normlab.report.figures.draw import draw
from normlab.report.formatting import command
from normlab.report.report import StudyReport, collect, headline, judge_overall, write_report
from normlab.runs.files import write_json
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.studies.decisions import decide
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import rule_of, write_rule
from normlab.studies.study import Study
from normlab.studies.units import POINTS


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return runs_for([STUDY], "quick")


def gather(tmp_path: Path, records: dict[str, Record], study: Study = STUDY) -> list[StudyReport]:
    return collect(Store(tmp_path), [study], "quick", records=records)


@pytest.fixture(scope="module")
def written(records, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    return write_report(Store(root), gather(root, records))


class Page(HTMLParser):
    """Collects what a page would run or load, its text and whether its tags match."""

    VOID = {"meta", "img", "br", "link", "hr", "input"}

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_runs_nothing_and_loads_nothing(written):
    page = Page(written.read_text(encoding="utf-8"))
    assert not page.open
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    loaded = [v for n, v in page.attributes if n in ("src", "href", "srcset", "data", "poster")]
    assert [v for v in loaded if v.startswith(("data:image/svg+xml;base64,", "#"))]
    local = [v for v in loaded if not v.startswith(("data:image/svg+xml;base64,", "#"))]
    assert all((written.parent / v).is_file() for v in local)
    assert page.tags.count("img") == 4  # three of setups, one of effects
    assert "<script>alert(1)</script>" in page.text


def test_the_pictures_in_the_page_run_nothing(written):
    page = Page(written.read_text(encoding="utf-8"))
    images = [v for n, v in page.attributes if n == "src"]
    for image in images:
        svg = base64.b64decode(image.partition(",")[2])
        assert b"<script" not in svg and b"<image" not in svg and b"onerror" not in svg


def test_every_target_of_a_link_inside_the_page_exists(written):
    page = Page(written.read_text(encoding="utf-8"))
    ids = [v for n, v in page.attributes if n == "id"]
    assert len(ids) == len(set(ids))
    assert {v[1:] for n, v in page.attributes if n == "href" and v.startswith("#")} <= set(ids)


def test_the_page_says_what_was_decided_and_how_to_repeat_it(written, records):
    text = Page(written.read_text(encoding="utf-8")).text
    for piece in (
        "✓ supported",
        "✗ refuted",
        "○ exploratory, n differs (6, planned 7)",
        "python scripts/study.py --study=made_up --profile=quick",
        "MLP, levels",
        f"{len(records)} finished",
        PROVENANCE["processor"],
    ):
        assert piece in text
    assert "stale: another training version" not in text


def test_stale_runs_and_a_changed_rule_are_flagged(records, tmp_path):
    old = {n: replace(r, provenance=PROVENANCE) for n, r in records.items()}
    rule = rule_of(STUDY, "quick")
    next(iter(rule["claims"].values()))["delta"] = 77
    (tmp_path / "studies").mkdir()
    kept = {"rule": rule, "written": "2001-02-03"}
    write_json(tmp_path / "studies" / "made_up-quick.json", kept)
    page = write_report(Store(tmp_path), gather(tmp_path, old)).read_text(encoding="utf-8")
    assert f"{len(records)} of {len(records)} runs are stale" in page
    assert "changed since 2001-02-03" in page and ", delta: 77 → " in page


def test_a_rule_that_stayed_as_it_was_is_said_to_have(records, tmp_path):
    store = Store(tmp_path).open()
    write_rule(store, STUDY, "quick", ConfigCache())
    page = write_report(store, gather(tmp_path, records)).read_text(encoding="utf-8")
    assert "as written before the first run, 20" in page and "changed since" not in page


def test_a_variant_stands_under_its_own_heading_with_its_command(records, tmp_path):
    variant = replace(STUDY, variant="model.widths=(8, 8), optim.momentum=0.8")
    reports = gather(tmp_path, records) + gather(tmp_path, records, variant)
    text = Page(write_report(Store(tmp_path), reports).read_text(encoding="utf-8")).text
    assert "Variant: model.widths=(8, 8), optim.momentum=0.8" in text
    assert command(variant, "quick") == (
        "python scripts/study.py --study=made_up --profile=quick "
        "'--config.model.widths=(8, 8)' --config.optim.momentum=0.8"
    )


def test_a_study_without_runs_says_so(tmp_path):
    reports = gather(tmp_path, {})
    assert all(draw(f, reports[0].evidences[f.setup]) is None for f in FIGURES)
    text = Page(write_report(Store(tmp_path), reports).read_text(encoding="utf-8")).text
    assert "Nothing has run yet" in text
    assert "no data" in text


def test_the_same_runs_make_the_same_bytes(records, written, tmp_path):
    write_report(Store(tmp_path), gather(tmp_path, records))

    def digests(folder: Path) -> dict[str, str]:
        files = [f for f in folder.rglob("*") if f.is_file()]
        return {
            f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in files
        }

    first = digests(written.parent)
    assert first == digests(tmp_path / "report")
    assert sum(name.endswith(".pdf") for name in first) == 4


def test_runs_csv_has_one_line_for_each_run(written, records):
    rows = list(csv.DictReader(io.StringIO((written.parent / "runs.csv").read_text())))
    assert {row["run"] for row in rows} == set(records)
    assert len(rows) == len(records)
    row = next(r for r in rows if r["status"] == "trained")
    record = records[row["run"]]
    assert float(row["optim.lr"]) == record.config["optim.lr"]
    assert float(row["test_accuracy"]) == record.final["test_accuracy"]
    assert row["used_by"].startswith("made_up-quick/")


def test_the_headline_fits_a_terminal(records, tmp_path):
    text = headline(gather(tmp_path, records), tmp_path / "index.html")
    lengths = [len(line) for line in text.splitlines()[:-1]]
    assert max(lengths) == 100 and any("C1a" in line for line in text.splitlines())
    assert text.splitlines()[-1] == f"page: {tmp_path / 'index.html'}"
    assert "supported" in text and "C1a" in text
    assert headline([]) == ""


def test_a_verdict_that_many_rows_undo_does_not_stand_overall(records, tmp_path):
    report = gather(tmp_path, records)[0]
    effects = {s: e for s, e in enumerate((0.4, 0.1, 0.9, -0.1, 0.7, 0.5, 0.2, 0.6))}
    row = replace(
        report.verdicts[0].contrast, effects=effects, n=8, sesoi=0.1, id="weak", unit=POINTS
    )
    alone = judge_overall([replace(report, verdicts=decide([row]))])
    assert [(v.word, v.stands_overall) for v in alone[0].verdicts] == [("supported", True)]
    crowd = [replace(report, verdicts=decide([replace(row, id=f"{i}")])) for i in range(20)]
    assert not any(v.stands_overall for r in judge_overall(crowd) for v in r.verdicts)


def test_a_report_is_made_without_jax(tmp_path):
    root = Path(__file__).resolve().parents[1]
    code = f"""
import sys
sys.path[:0] = [{str(root)!r}, {str(root / "tests")!r}]
import test_report
records = test_report.runs_for([test_report.STUDY], "quick")
root = test_report.Path({str(tmp_path)!r})
test_report.write_report(test_report.Store(root), test_report.gather(root, records))
print("jax" in sys.modules or "flax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_name_of_a_long_variant_is_cut_and_stays_its_own():
    studies = [replace(STUDY, variant=f"optim.momentum=0.8, {'x' * 300}{end}") for end in "ab"]
    stems = [StudyReport(study, "quick", {}, ()).stem for study in studies]
    assert len(set(stems)) == 2 and all(len(stem) == 90 for stem in stems)
    assert StudyReport(STUDY, "quick", {}, ()).stem == "made_up-quick"
