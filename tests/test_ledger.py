"""The ledger of claims: from verdicts that are made up; nothing is trained."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from made_up_runs import NASTY, PROVENANCE, STUDY

from normlab.report.formatting import effect_text
from normlab.report.html import render
from normlab.report.markdown import ledger, markdown, short_form, write_ledger
from normlab.report.report import StudyReport, draw_all, judge_overall
from normlab.report.summary import row_facts
from normlab.report.tables import markdown_text as escaped
from normlab.runs.errors import StorageError
from normlab.runs.record import Record
from normlab.studies.decisions import Contrast, decide
from normlab.studies.hypothesis_tests import MAX_ERROR, PAIRED_T, QUANTILE, THRESHOLDS
from normlab.studies.literature import claims, entries, entry_of
from normlab.studies.study import ROOT, Figure
from normlab.studies.units import NATS, POINTS, Unit

SHARE = Unit("share", is_proportion=True)

RULE_BOOK = (
    "C1a C1b C1t C2 C2r C3a C3b C3c C4a C4b C4c C5a C5b C6a C6b C7a C7b C7c C8a C8b C8c C9 C10a "
    "C10b C11 C12 C13 C14a C14b"
).split()
EFFECTS = {"supported": 2.0, "refuted": -2.0, "inconclusive": 0.5}
PLAIN = replace(
    STUDY,
    name="plain",
    title="Plain",
    setups={"quick": STUDY.setups["quick"], "standard": STUDY.setups["quick"]},
    figures=(Figure("curves", "steps", "Curves."),),
)
DISAGREES = "isagrees with the literature"


def row(name: str, word: str = "supported", **facts: Any) -> Contrast:
    """Return a row whose verdict is that word."""
    spread = 3.0 if word == "inconclusive" else 0.1
    values = {s: EFFECTS.get(word, 0.0) + spread * (s - 2.5) / 2.5 for s in range(6)}
    told: dict[str, Any] = {
        "claim": f"C{re.sub('[^0-9]', '', name.partition('-')[0])}",
        "sentence": "Faster",
        "comparison": "a - b",
        "scope": f"net of {name}",
        "effects": {} if word == "no data" else values,
        "unit": POINTS,
        "sesoi": 1.0,
        "n": 7 if word == "exploratory" else 6,
        "test": PAIRED_T,
        "setup": "steps",
    }
    return Contrast(id=name, **(told | facts))


def report_of(*rows: Contrast, study=PLAIN, profile: str = "quick") -> StudyReport:
    return StudyReport(study, profile, {}, decide(rows))


def told(*reports: StudyReport, figures: dict[tuple[str, int], Path] | None = None) -> str:
    return markdown(reports, figures or {}, Path("docs"))


def block(text: str, name: str) -> str:
    """Return what the page says of one row."""
    return re.split(r"^###? ", text.partition(f"### {name}. ")[2], flags=re.MULTILINE)[0]


def html(*reports: StudyReport) -> str:
    return render(reports, {}, {}, {})


@pytest.mark.parametrize("reports", [(), (report_of(row("C4a"), row("C10a-layer")),)])
def test_every_row_of_the_rule_book_stands_there_once_and_in_order(reports):
    text = told(*reports)
    assert re.findall(r"^### (C\w+)\. ", text, re.MULTILINE) == RULE_BOOK
    assert re.findall(r"^## (C\d+)\. ", text, re.MULTILINE) == [f"C{i}" for i in range(1, 15)]
    assert re.findall(r"^\| (C\w+)", short_form(reports), re.MULTILINE) == RULE_BOOK
    page = html(*reports)
    assert [name for name in RULE_BOOK if len(re.findall(rf"<dt>{name}\b", page)) != 1] == []


def test_every_entry_says_what_who_and_what_was_measured():
    assert list(entries()) == RULE_BOOK and list(claims()) == [f"C{i}" for i in range(1, 15)]
    for entry in entries().values():
        assert entry.sentence.endswith(".") and entry.who and entry.measured.endswith((".", "%"))
        assert entry.differs or not entry.expects, f"{entry.id}: nothing to say if it disagrees"
        assert re.search(r"arXiv:\d{4}\.\d{5}\b|articles", entry.who)


@pytest.mark.parametrize(
    "name, entry",
    [
        ("C2-mlp", "C2"),
        ("C2r-mlp", "C2r"),
        ("C10a-layer", "C10a"),
        ("C5b-gain1", "C5b"),
        ("C12-normalized-train", "C12"),
        ("C1", None),
        ("C10", None),
        ("C10alayer", None),
    ],
)
def test_a_row_with_a_suffix_finds_its_entry(name, entry):
    found = entry_of(name)
    assert (found.id if found else None) == entry
    rows = [r for c in ledger([report_of(row(name))]) for r in c.rows if r.views]
    assert [r.entry.id for r in rows] == ([entry] if entry else [])


def test_rows_without_a_verdict_say_why():
    text = told(report_of(row("C4a", "no data")))
    assert "- **… no data**: n = 0 of 6" in block(text, "C4a")
    assert "- **… no data**: no study shown here tests it" in block(text, "C11")
    assert "- **… not decided**: no recurrent net yet" in block(text, "C9")
    assert "| C9 | Batch norm suits sequences badly | … not decided |" in text
    assert "not decided: no recurrent" not in block(told(report_of(row("C9"))), "C9")
    assert "**✓ supported**: 2.00" in block(told(report_of(row("C9"))), "C9")


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({"prerequisite": "C8a"}, "its gate C8a is inconclusive"),
        ({"unmet": "C1a is refuted"}, "C1a is refuted"),
    ],
)
def test_a_closed_gate_gives_its_reason(facts, reason):
    report = report_of(row("C8a", "inconclusive"), row("C10a-layer", **facts))
    text = block(told(report), "C10a")
    assert re.search(rf"- \*\*∅ not testable here\*\*: 2.00 .* points, n = 6; {reason}\n", text)
    assert f"Because {reason}" in html(report)
    assert DISAGREES not in told(report) + html(report)


@pytest.mark.parametrize("word", ["supported", "refuted", "inconclusive", "exploratory", "no data"])
def test_disagreement_is_shown_exactly_where_a_verdict_goes_against_what_is_expected(word):
    asked = [e for e in entries().values() if not e.absent]
    report = report_of(*(row(f"{e.id}-net", word) for e in asked))
    assert {v.word for v in report.verdicts} == {word}
    against = [e for e in asked if {e.expects, word} == {"supported", "refuted"}]
    assert bool(against) is (word in ("supported", "refuted"))
    text, page = told(report), html(report)
    assert text.count(DISAGREES) == page.count(DISAGREES) == len(against)
    for entry in asked:
        assert (DISAGREES in block(text, entry.id)) is (entry in against)
        assert (escaped(entry.differs) in block(text, entry.id)) is (entry in against)


def test_a_claim_has_the_joint_word_of_the_rows_that_belong_to_it():
    words = {c.claim: c.word for c in ledger([report_of(row("C2-mlp"), row("C2r-mlp", "refuted"))])}
    assert words["C2"] == "✓ supported"
    both = report_of(row("C8a"), row("C8b", "refuted"), row("C8c"))
    text = told(both)
    assert "## C8. Batch norm fails at small or changing batches: ± depends" in text
    assert "Supported: C8a (net of C8a); C8c (net of C8c). Refuted: C8b (net of C8b)." in text
    three = report_of(row("C8a"), row("C8b", "refuted"))
    assert "changing batches: ✓ 1 supported, ✗ 1 refuted, … 1 no data" in told(three)


def test_a_study_with_several_sentences_for_one_entry_tells_each():
    names = ("layer", "group")
    rows = [row(f"C10a-{name}", sentence=f"{name} repairs", scope="net") for name in names]
    text, short = told(report_of(*rows)), short_form([report_of(*rows)])
    for name in names:
        assert f"- {name} repairs; C10a-{name}, net, profile quick: a - b" in block(text, "C10a")
        assert f"| C10a-{name} | {name} repairs (net) |" in short
    same = report_of(row("C2-mlp"), row("C2-cnn"))
    assert "Faster" not in told(same) + short_form([same])
    assert "| C2-cnn | (net of C2-cnn) |" in short_form([same])


def test_both_profiles_are_told_and_variants_are_left_out():
    variant = replace(PLAIN, variant="optim.momentum=0.8")
    outside = replace(PLAIN, norms=("my_norm",))
    reports = [report_of(row("C11")), report_of(row("C11", "refuted"), profile="standard")]
    others = [report_of(row("C12"), study=study) for study in (variant, outside)]
    text, short = told(*reports, *others), short_form([*reports, *others])
    assert text.count("net of C11") == 4 and "net of C12" not in text + short
    assert "± depends" in text and "(net of C11, standard)" in short
    assert "profile standard: a - b" in block(text, "C11")


NASTY_STUDY = replace(PLAIN, figures=(Figure("curves", "steps", f"](x) {NASTY} `"),))


def nasty_report() -> StudyReport:
    evil = f"\n\n# {NASTY} ![x](y) `a` _b_"
    facts = {"sentence": evil, "comparison": evil, "scope": evil}
    rows = row("C1a", **facts), row("C1b", unit=Unit(evil)), row("C8a", unmet=evil)
    return report_of(*rows, study=NASTY_STUDY)


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)


def test_nothing_in_the_texts_becomes_markup(tmp_path):
    report = nasty_report()
    figures = {(report.stem, 0): Path("docs/claims/a b.svg")}
    text = told(report, figures=figures)
    assert not re.findall("[<>]", text) and "script" not in Tags(html(report)).found
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", text)
    assert [link for link in links if not link.startswith("https://arxiv.org/abs/")] == [
        "claims/a%20b.svg"
    ] * 3
    assert re.findall(r"^#+ \S+", text, re.MULTILINE) == re.findall(
        r"^#+ \S+", told(), re.MULTILINE
    )
    assert not re.findall(r"(?<!\\)[`$_]", text)
    lines = short_form([report]).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}


def test_the_figures_of_its_rows_lie_beside_the_page_and_are_shown_once(tmp_path):
    figures = (
        Figure("curves", "steps", "Curves."),
        Figure("rates", "steps", "Rates."),
        Figure("levels", "levels", "Levels."),
    )
    report = report_of(row("C2-mlp"), row("C2r-mlp"), study=replace(PLAIN, figures=figures))
    drawn = {(report.stem, i): tmp_path / f"drawn{i}.svg" for i in (0, 2)}
    for i, file in enumerate(drawn.values()):
        file.write_text(f"<svg>{i}</svg>")
    page = tmp_path / "docs" / "claims.md"
    write_ledger(page, [report], drawn)
    text = page.read_text(encoding="utf-8")
    assert [f.name for f in (tmp_path / "docs" / "claims").iterdir()] == ["drawn0.svg"]
    assert (tmp_path / "docs" / "claims" / "drawn0.svg").read_text() == "<svg>0</svg>"
    assert text.count("![Curves.](claims/drawn0.svg)") == 1
    assert "[Curves.](claims/drawn0.svg)" in block(text, "C2r")
    with pytest.raises(StorageError, match="ending .md"):
        write_ledger(tmp_path / "claims.html", [report], drawn)


def test_two_figures_of_one_kind_and_setup_get_two_files(monkeypatch, tmp_path):
    kinds = [Figure("curves", "steps", "a", arms=("none",)), Figure("curves", "steps", "b")]
    study = replace(PLAIN, figures=(*kinds, replace(kinds[0], key="x.y")))
    monkeypatch.setattr("normlab.report.report.draw", lambda figure, e: "a drawing")
    monkeypatch.setattr("normlab.report.report.save", lambda _, path: [Path(f"{path}.svg")])
    evidences: Any = {"steps": SimpleNamespace()}
    files = draw_all([StudyReport(study, "quick", evidences, [])], tmp_path)
    names = [file.name for file in files.values()]
    assert names[0] == "plain-quick-steps-curves.svg" and len(set(names)) == 3
    assert names[2] == "plain-quick-steps-curves-x.y.svg"


def test_a_row_links_to_its_study_where_the_page_lies_in_the_repository():
    study = replace(PLAIN, name="convergence")
    text = markdown([report_of(row("C1a"), study=study)], {}, ROOT / "docs")
    (link,) = re.findall(r"\(study \[convergence\]\((.*?)\)", text)
    assert (ROOT / "docs" / unquote(link)).resolve() == ROOT / "experiments" / "convergence.py"
    outside = markdown([report_of(row("C1a"), study=study)], {}, Path("/elsewhere"))
    assert "(study convergence)" in outside


def test_the_head_says_where_the_runs_come_from():
    def evidence(name: str, ended: str) -> Any:
        run = Record(name, {}, "diverged", {}, [], 1, 0.5, PROVENANCE | {"ended": ended})
        return SimpleNamespace(wanted={name: None, f"{name}2": None}, records={name: run})

    quick = replace(report_of(row("C1a")), evidences={"steps": evidence("a", "2026-11-18T10:00")})
    standard = replace(quick, evidences={"steps": evidence("b", "2026-11-19T09:00")})
    text = told(quick, replace(standard, profile="standard"))
    for line in (
        "- profile: quick, standard",
        "- runs: 2 finished of at least 4 planned; 2 failed; 2 by another training version",
        "- newest run: 2026-11-19",
        "- machine: A processor, 1 cores of it, Linux",
        "- versions: jax 0.10.2",
        "- git commit: 0123456789ab",
    ):
        assert f"\n{line}" in text
    assert "- runs: 0 finished" in told() and "- newest run: none" in told()


def test_tests_without_p_values_say_what_decides():
    bound = row(
        "C14a", effects={0: 1e-6, 1: 2e-6, 2: 3e-5}, test=MAX_ERROR, sesoi=1e-4, n=3, unit=NATS
    )
    band = row(
        "C12-x",
        effects={0: 0.99, 1: 1.0, 2: 0.98},
        test=THRESHOLDS,
        n=3,
        unit=SHARE,
    )
    tail = row("C5b-gain1", effects={s: (2.0 + s, 0.1 * s) for s in range(6)}, test=QUANTILE)
    (report,) = judge_overall([report_of(bound, band, tail)])
    facts = [dict(row_facts(v, "quick")) for v in report.verdicts]
    assert [f["Test"] for f in facts] == [
        "every value at most delta",
        "mean share: supported at 95 % or more, refuted at 50 % or less",
        "paired bootstrap of the 90th percentile, Holm over the study's rows, level 0.025",
    ]
    assert [v.word for v in report.verdicts] == ["supported"] * 3
    assert [any(name.startswith("p if") for name in f) for f in facts] == [False, False, True]
    assert ["Delta" in f for f in facts] == [True, False, True]
    assert facts[0]["Largest value [least, largest]"] == "3e-05 [1e-06, 3e-05] nats"
    assert [v.stands_overall for v in report.verdicts] == [None, None, True]
    assert effect_text(report.verdicts[0]).startswith("3e-05")


def test_the_command_writes_the_ledger_and_prints_the_short_form(tmp_path):
    run = tmp_path / "results" / "runs" / "deadbeef"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{}")
    flags = ["--study=convergence", "--profile=quick", "--short", "--ledger=claims.md"]
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), "--results=results", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("| row | sentence | verdict | effect |")
    listed = re.findall(r"^\| (C\w+)", done.stdout, re.MULTILINE)
    assert list(dict.fromkeys(listed)) == RULE_BOOK and "page:" not in done.stdout
    assert "- **… no data**: n = 0 of 12" in (tmp_path / "claims.md").read_text(encoding="utf-8")


def test_the_head_says_which_rules_changed():
    assert "changed after the first run: a, b" in markdown([], {}, Path("docs"), ["a", "b"])
    assert "after the first run" not in markdown([], {}, Path("docs"))
