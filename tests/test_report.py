"""The report: page, files and headline, from runs that are made up and never trained."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from made_up_runs import FASTER, FIGURES, PROVENANCE, STEPS, STUDY, runs_for

from normlab.report.figures.draw import KINDS, draw
from normlab.report.formatting import SYMBOLS, command
from normlab.report.model import StudyReport, collect
from normlab.report.protocol import protocol_facts
from normlab.report.terminal import headline
from normlab.report.write import draw_all, write_report
from normlab.runs.config import program_id
from normlab.runs.errors import Damaged
from normlab.runs.files import write_json
from normlab.runs.provenance import timing_place
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.studies.decisions import Look
from normlab.studies.intervals import Estimate
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.rules import rule_of, write_rule
from normlab.studies.setup import FollowUp
from normlab.studies.study import Figure, Study, load_study, study_names

ROOT = Path(__file__).resolve().parents[1]
PLAIN = replace(STUDY, figures=())


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return runs_for([STUDY], "quick")


def gather(root: Path, records: dict[str, Record], study: Study = PLAIN) -> list[StudyReport]:
    return collect(Store(root), [study], "quick", records=records)


@pytest.fixture(scope="module")
def written(records, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    return write_report(Store(root), gather(root, records, STUDY))


class Page(HTMLParser):
    """Collects what a page would run or load, its text and whether its tags match."""

    VOID = {"meta", "img", "br", "link", "hr", "input"}

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))
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


def test_the_page_runs_its_own_script_loads_nothing_and_its_links_exist(written):
    page, text = Page(written), written.read_text(encoding="utf-8")
    assert not page.open
    assert not {"img", "image", "iframe", "object", "embed", "link", "base", "form"} & {*page.tags}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    loaded = [v for n, v in page.attributes if n.endswith(("src", "href", "srcset", "data"))]
    local = [v for v in loaded if not v.startswith(("https://arxiv.org/abs/", "#"))]
    assert all((written.parent / v).is_file() for v in local)
    ids = [v for n, v in page.attributes if n == "id"]
    assert len(ids) == len(set(ids)) and {v[1:] for v in loaded if v.startswith("#")} <= set(ids)
    assert page.tags.count("svg") == 4  # three of setups, one of effects


def test_the_page_says_what_was_decided_and_how_to_repeat_it(written, records):
    text = Page(written).text
    for piece in (
        "<script>alert(1)</script>",
        "✓ 1 supported",
        "✗ refuted",
        "○ exploratory, n differs (6, planned 7)",
        "python scripts/study.py --study=made_up --profile=quick",
        "MLP, levels",
        f"{len(records)} finished",
        PROVENANCE["processor"],
        "not written yet",
        "With Flax's default running averages: ",
    ):
        assert piece in text
    assert "stale: another training version" not in text
    # each figure is in its own setup, after the heading and before the table
    parts = re.split(r"MLP, (?:steps|levels|rates) # ", text)[-3:]
    kinds = [[f.kind for f in FIGURES if KINDS[f.kind].reading in part] for part in parts]
    assert kinds == [["curves"], ["levels"], ["rates"]]


def test_studies_stand_in_the_order_of_their_first_claims(records, tmp_path):
    def study(title: str, *claims: str) -> Study:
        rows = tuple(replace(FASTER, id=claim) for claim in claims)
        return replace(PLAIN, name=title, title=title, claims=rows)

    studies = [study("the second", "C8"), study("the first", "C13", "C1")]
    page = write_report(
        Store(tmp_path), collect(Store(tmp_path), studies, "quick", records=records)
    )
    found = re.findall("<h2[^>]*>(?:[^<]*<[^h/][^>]*>)?(the (?:first|second))", page.read_text())
    assert found == ["the first", "the second"]


@pytest.mark.parametrize("origin", [{"code": "abc"}, {"training_version": 3}])
def test_step_times_are_those_of_the_machine_and_the_code_of_the_runs(records, tmp_path, origin):
    facts = {name: fact for name, fact in PROVENANCE.items() if name != "training_version"} | origin
    runs = {name: replace(run, provenance=facts) for name, run in records.items()}
    config = next(run.config for run in runs.values() if run.config["norm.name"] == "batch")
    place, program = timing_place(facts), program_id(config)
    times = {place: {program: 0.25}, "another machine": {"x": 1.0}}
    write_json(tmp_path / "steptimes.json", times)
    (report,) = gather(tmp_path, runs)
    setup = report.evidences["steps"]
    assert setup.step_seconds == {"batch": 0.25} and setup.step_bytes == {}
    assert setup.timed_on == f"{PROVENANCE['processor']}, 1 core"
    assert all(not e.step_seconds for name, e in report.evidences.items() if name != "steps")
    write_json(tmp_path / "steptimes.json", times | {f"{place}, bytes": {program: 100}})
    setup = gather(tmp_path, runs)[0].evidences["steps"]
    assert setup.step_seconds == {"batch": 0.25} and setup.step_bytes == {"batch": 100}
    for key in (place, f"{place}, bytes"):
        write_json(tmp_path / "steptimes.json", {key: {program: "x"}})
        with pytest.raises(Damaged, match="no seconds or bytes in it"):
            gather(tmp_path, runs)


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
    assert "first runs, as their sections say: made_up-quick." in page
    assert "All rules were fixed before the runs." not in page


def test_a_kept_rule_and_a_variant_with_its_command(records, tmp_path):
    store = Store(tmp_path).open()
    write_rule(store, PLAIN, "quick", ConfigCache())
    variant = replace(PLAIN, variant="model.widths=(8, 8), optim.momentum=0.8")
    reports = gather(tmp_path, records) + gather(tmp_path, records, variant)
    text = Page(write_report(store, reports)).text
    assert "as written before the first run, 20" in text and "changed since" not in text
    assert "All rules were fixed before the runs." in text
    assert "Variant: model.widths=(8, 8), optim.momentum=0.8" in text
    assert command(variant, "quick") == (
        "python scripts/study.py --study=made_up --profile=quick "
        "'--config.model.widths=(8, 8)' --config.optim.momentum=0.8"
    )


def test_exploratory_pages_and_that_of_the_verdicts_link_to_each_other(records, tmp_path):
    store = Store(tmp_path)
    write_report(store, gather(tmp_path, records))
    changed = replace(PLAIN, variant="seeds=2")
    folder = f"report-exploratory/{gather(tmp_path, records, changed)[0].stem}"
    one = write_report(store, gather(tmp_path, records, changed), folder)
    other = write_report(store, gather(tmp_path, records))
    shown = [page.read_text(encoding="utf-8") for page in (one, other)]
    assert 'href="../../report/index.html">The page with the verdicts' in shown[0]
    assert f'href="../{quote(folder)}/index.html">Exploratory: made_up-quick-seeds=2' in shown[1]
    titles = [re.findall(r"<title>(.*?)</title>", text)[0] for text in shown]
    assert titles[0] == "Exploratory: made_up-quick-seeds=2 (normlab)" != titles[1]


def test_a_verdict_leads_to_its_figure_table_runs_and_study(written):
    text = written.read_text(encoding="utf-8")
    row = text.partition('id="made_up-quick-C1a"')[2].partition("</details>")[0]
    links = re.findall(r'<a (?:class="id" )?href="#([^"]*)">(\w+)</a>', row)
    assert links == [
        ("made_up-quick-C1a", "C1a"),
        ("made_up-quick-steps-curves", "Figure"),
        ("made_up-quick-steps-table", "Table"),
        ("made_up-quick-runs", "Runs"),
        ("made_up-quick", "Study"),
    ]
    for place, tag in zip(links, ("tr", "figure", "table", "details", "section"), strict=True):
        assert re.search(rf'<{tag} [^>]*id="{place[0]}"|<{tag} id="{place[0]}"', text), place
    assert "2026-11-20" in text.partition("</header>")[0]
    assert PROVENANCE["processor"] in text.partition("</header>")[0]


def test_the_page_has_no_word_of_older_rules(written):
    text = Page(written).text.lower()
    words = (
        "holm",
        "wilcoxon",
        "inconclusive",
        "no data",
        "coverage",
        "gate",
        "mcnemar",
        "p value",
    )
    assert [word for word in words if re.search(rf"\b{word}", text)] == []


def test_every_word_that_can_be_printed_is_explained_and_has_a_colour(written):
    text, style = Page(written).text, written.read_text(encoding="utf-8")
    glossary = text.partition("What the words mean\n")[2].lower()
    for word in SYMBOLS:
        assert word in glossary
        assert f".{word.split()[0]}" in style
    for word in ("reversed", "small", "at least delta", "borderline", "not final", "at its cap"):
        assert word in glossary


def test_the_protocol_names_orders_of_the_data_and_other_numbers_of_steps():
    short = replace(STEPS.arms[1], settings={"norm.name": "batch", "train.steps": 94})
    setup = replace(STEPS, arms=(STEPS.arms[0], short), follows=(), data_orders=5)
    facts = dict(protocol_facts(SetupRuns(setup, {})))
    assert "5 splits and data orders take turns" in facts["Seeds"]
    assert facts["Evaluation"].startswith("300 steps (some arms: 94), evaluated")
    plain = dict(protocol_facts(SetupRuns(STEPS, {})))
    assert "take turns" not in plain["Seeds"] and plain["Evaluation"].startswith("300 steps, ")


def test_a_study_without_runs_says_so(tmp_path):
    reports = gather(tmp_path, {})
    assert all(draw(f, reports[0].evidences[f.setup]) is None for f in FIGURES)
    text = Page(write_report(Store(tmp_path), reports)).text
    assert "Nothing has run yet" in text and "… not run" in text


def test_another_process_writes_the_same_files_without_jax(written, tmp_path):
    """But for the figures, whose layout is solved to a thousandth of a point."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import test_report
from pathlib import Path
from urllib.parse import quote
root = Path({str(tmp_path)!r})
records = test_report.runs_for([test_report.STUDY], "quick")
reports = test_report.gather(root, records, test_report.STUDY)
test_report.write_report(test_report.Store(root), reports)
print("jax" in sys.modules or "flax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    files = [p.relative_to(written.parent) for p in written.parent.rglob("*") if p.is_file()]
    assert sum(file.suffix == ".pdf" for file in files) == 4
    for file in files:
        one, other = ((root / file).read_bytes() for root in (written.parent, tmp_path / "report"))
        if file.suffix in (".csv", ".md", ".tex"):
            assert one == other
        assert b"dc:date" not in one and b"CreationDate" not in one


def test_runs_csv_has_one_line_for_each_run(written, records):
    rows = list(csv.DictReader(io.StringIO((written.parent / "runs.csv").read_text())))
    assert len(rows) == len(records)
    for row in rows:
        record = records[row["run"]]
        assert float(row["optim.lr"]) == record.config["optim.lr"]
        assert row["status"] == record.status and row["stale"] == "no"
        for name in ("validation_accuracy", "test_accuracy"):
            assert row[name] == str(record.final.get(name, ""))
        assert row["used_by"].startswith("made_up-quick/")


def test_a_run_that_two_stages_ask_for_names_both(tmp_path):
    shared = FollowUp("batch at its own rate", "batch", "batch", seeds=4)
    study = replace(PLAIN, setups={"quick": (replace(STEPS, follows=(shared,)),)}, claims=())
    write_report(Store(tmp_path), gather(tmp_path, runs_for([study], "quick"), study))
    with (tmp_path / "report" / "runs.csv").open(newline="") as lines:
        users = [row["used_by"].split("; ") for row in csv.DictReader(lines)]
    arm = "made_up-quick/steps/batch"
    assert users.count([f"{arm}/report", f"{arm}/follow: batch at its own rate"]) == 4
    assert users.count([f"{arm}/report"]) == 2


def test_the_table_of_verdicts_has_numbers(written, records, tmp_path):
    text = (written.parent / "tables" / "verdicts.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    for row, verdict in zip(rows, gather(tmp_path, records)[0].verdicts, strict=True):
        found = [float(row[name]) for name in ("effect", "effect, low", "effect, high")]
        assert found == [verdict.estimate.centre, *verdict.estimate.interval]
        assert (row["unit"], float(row["delta"])) == ("octaves", verdict.contrast.sesoi)
        assert (row["verdict"], int(row["n"])) == (verdict.word, verdict.n)
        assert row["qualifier"] == verdict.qualifier
        assert row["path"] == ", ".join(f"{look.n} {look.word}" for look in verdict.path)
        assert row["final"] == ("yes" if verdict.is_decided else "")
        again = [float(row[name]) for name in ("replication",) if row[name]]
        assert again == ([verdict.replication] if verdict.is_decided else [])


def test_the_headline_fits_80_columns_and_leaves_nothing_out(records, tmp_path):
    reports = gather(tmp_path, records)
    strong = reports[0].verdicts[0]
    looks = tuple(Look(n, "open", "", strong.estimate) for n in (6, 12))
    weak = replace(strong, word="open", qualifier="", replication=0.5, n=12, path=looks)
    weak = replace(weak, contrast=replace(weak.contrast, looks=(6, 12, 24), is_lower_bound=True))
    nothing = Estimate(math.nan, math.nan, math.nan)
    none = replace(strong, word="not testable here", qualifier="", estimate=nothing)
    none = replace(none, notes=("it has no noise",), replication=math.nan)
    reports = [replace(reports[0], verdicts=[weak, none, *reports[0].verdicts])]
    text = headline(reports, tmp_path / "index.html")
    *lines, page = text.splitlines()
    assert max(map(len, lines)) <= 80 and page == f"page: {tmp_path / 'index.html'}"
    assert "…" not in text and "log2" not in text and "\033" not in text
    whole = " ".join(text.split())
    found = r"[\d.]+ instead of [\d.]+ steps to 90 %: "
    scope = re.escape(FASTER.scope)
    for pattern in (
        rf"C1a open, not final, borderline, n = 6 → 12: {scope} {found}≥ [\d.]+× \[",
        rf"C1a not testable here, n = 6: {scope} it has no noise ",
        rf"C1a supported, at least delta, n = 6: {scope} {found}[\d.]+× \[",
        rf"C1c exploratory, n differs, n = 6 of 7: {scope} {found}",
    ):
        assert re.search(pattern, whole), pattern
    assert headline([]) == ""


@pytest.mark.parametrize("name", study_names())
def test_no_formula_reaches_a_terminal(name):
    """Effects on the steps of two arms say how many these are."""
    for claim in load_study(name).claims:
        effect = claim.effect
        words = effect.words or ("" if effect.arms else effect.comparison)
        assert not re.search(r"log\d|\||cos\(", words), claim.id


def test_words_are_coloured_on_a_terminal_alone(records, tmp_path):
    reports = gather(tmp_path, records)
    plain = headline(reports)
    coloured = headline(reports, is_coloured=True)
    assert "\033[32msupported\033[0m, at least delta" in coloured
    assert "\033[31mrefuted\033[0m" in coloured
    assert re.sub(r"\033\[\d*m", "", coloured) == plain != coloured


def test_files_have_names_of_their_own(monkeypatch, records, tmp_path):
    studies = [replace(STUDY, variant=f"optim.momentum=0.8, {'x' * 300}{end}") for end in "ab"]
    stems = [StudyReport(study, "quick", {}, ()).stem for study in studies]
    assert len(set(stems)) == 2 and all(len(stem) == 90 for stem in stems)
    first = Figure("curves", "steps", "a", arms=("none",))
    figures = (first, Figure("curves", "steps", "b"), replace(first, key="x.y"))
    monkeypatch.setattr("normlab.report.write.draw", lambda figure, e: "a drawing")
    monkeypatch.setattr("normlab.report.write.save", lambda _, path: Path(f"{path}.svg"))
    (report,) = gather(tmp_path, records, replace(STUDY, figures=figures))
    names = [picture.svg.name for picture in draw_all(report, tmp_path)["steps"]]
    stem = "made_up-quick-steps-curves"
    assert names == [f"{stem}.svg", f"{stem}-1.svg", f"{stem}-x.y.svg"]
