"""The table of claims, and what the page says of them, from verdicts that are made up."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from made_up_runs import NASTY, PROVENANCE, STUDY

from normlab.report.claims import Result, literature_statements
from normlab.report.html import html
from normlab.report.markdown import claims_page, write_claims_page
from normlab.report.model import Picture, StudyReport
from normlab.report.tables import markdown_text
from normlab.runs.errors import StorageError
from normlab.runs.record import Record
from normlab.studies.decisions import Contrast, decide
from normlab.studies.intervals import AT_LEAST, MAX_ERROR, PAIRED_T, QUANTILE
from normlab.studies.literature import claims, entries, entry_of
from normlab.studies.rules import KeptRule
from normlab.studies.setup import ROOT
from normlab.studies.study import load_study, study_names
from normlab.studies.units import NATS, POINTS, Unit

SHARE = Unit("share", is_proportion=True)

TESTS = (
    "C1a C1b C1t C2 C2r C3a C3b C3c C4a C4b C4c C5a C5b C6a C6b C7a C7b C7c C8a C8b C8c C9 C10a "
    "C10b C11 C12 C13 C14a C14b"
).split()
CLAIMS = [f"C{i}" for i in range(1, 15)]
EFFECTS = {"supported": 2.0, "refuted": -2.0, "open": 0.5}
PLAIN = replace(
    STUDY,
    name="plain",
    title="Plain",
    setups={"quick": STUDY.setups["quick"], "standard": STUDY.setups["quick"]},
    figures=(),
)
DISAGREES = "isagrees with the literature"


def row(name: str, word: str = "supported", **facts: Any) -> Contrast:
    """Return a row whose verdict is that word."""
    spread = 3.0 if word == "open" else 0.1
    values = {s: EFFECTS.get(word, 0.0) + spread * (s - 2.5) / 2.5 for s in range(6)}
    told: dict[str, Any] = {
        "claim": f"C{re.sub('[^0-9]', '', name.partition('-')[0])}",
        "sentence": "Faster",
        "comparison": "a - b",
        "scope": f"net of {name}",
        "effects": {} if word == "not run" else values,
        "unit": POINTS,
        "sesoi": 1.0,
        "looks": (7,) if word == "exploratory" else (6,),
        "estimator": PAIRED_T,
        "setup": "steps",
    }
    return Contrast(id=name, **(told | facts))


def report_of(*rows: Contrast, study=PLAIN, profile: str = "quick") -> StudyReport:
    return StudyReport(study, profile, {}, [decide([contrast]) for contrast in rows])


def page(*reports: StudyReport, path: Path = Path("docs/claims.md")) -> str:
    return claims_page(literature_statements(reports), reports, path)


def block(text: str, name: str) -> str:
    """Return what the page says of one row."""
    return re.split(r"^###? ", text.partition(f"### {name}. ")[2], flags=re.MULTILINE)[0]


def with_picture(report: StudyReport, svg: Path, caption: str = "Curves.") -> StudyReport:
    """Return the report with one figure, in its setup `steps`."""
    return replace(report, pictures={"steps": [Picture(svg, caption, "Lines.")]})


@pytest.mark.parametrize("reports", [(), (report_of(row("C4a"), row("C10a-layer")),)])
def test_every_test_of_the_literature_is_listed_once_and_in_order(reports):
    text, shown = page(*reports), html(reports)
    assert re.findall(r"^### (C\w+)\. ", text, re.MULTILINE) == TESTS == list(entries())
    assert re.findall(r"^## (C\d+)\. ", text, re.MULTILINE) == CLAIMS == list(claims())
    assert [name for name in TESTS if len(re.findall(rf"<dt>{name}\b", shown)) != 1] == []


def test_every_entry_says_what_who_and_what_was_measured():
    for entry in entries().values():
        assert entry.sentence.endswith(".") and entry.who and entry.measured.endswith((".", "%"))
        assert entry.expects in ("supported", "refuted", "")
        assert entry.differs or not entry.expects, f"{entry.id}: nothing to say if it disagrees"
        assert re.search(r"arXiv:\d{4}\.\d{5}\b|articles", entry.who)


def test_a_claim_is_worded_in_its_study_only():
    """An entry has a sentence of its own if its claims have several sentences, or none."""
    sentences: dict[str, set[str]] = {name: set() for name in entries()}
    for claim in (c for name in study_names() for c in load_study(name).claims):
        sentences[claim.id.partition("-")[0]].add(claim.sentence)
    worded = {name for name, entry in entries().items() if entry.wording}
    assert worded == {name for name, own in sentences.items() if len(own) != 1}


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
def test_a_test_with_a_suffix_finds_its_entry(name, entry):
    found = entry_of(name)
    assert (found.id if found else None) == entry
    claims = literature_statements([report_of(row(name))])
    assert [t.id for c in claims for t in c.parts if t.results] == ([entry] if entry else [])


def test_tests_without_a_verdict_say_why():
    text = page(report_of(row("C4a", "not run")))
    assert "- **… not run**: n = 0 of 6" in block(text, "C4a")
    assert "- **… not run**: no study shown here tests it" in block(text, "C11")
    assert "- **… not decided**: no recurrent net yet" in block(text, "C9")
    assert "| C9 | Batch norm suits sequences badly | … not decided |" in text
    decided = block(page(report_of(row("C9"))), "C9")
    assert "not decided" not in decided and "**✓ supported, at least delta**: 2.00" in decided


def test_an_unmet_prerequisite_gives_its_reason():
    reason = "the noise moves nothing"
    report = report_of(row("C8a", "open"), row("C10a-layer", unmet=reason))
    text, shown = page(report), html([report])
    assert f"- **∅ not testable here**: {reason}\n" in block(text, "C10a")
    assert f"Because {reason}" in shown and DISAGREES not in text + shown


@pytest.mark.parametrize("word", ["supported", "refuted", "open", "exploratory", "not run"])
def test_disagreement_is_shown_exactly_where_a_verdict_goes_against_what_is_expected(word):
    asked = [e for e in entries().values() if not e.absent]
    report = report_of(*(row(f"{e.id}-net", word) for e in asked))
    assert {v.word for v in report.verdicts} == {word}
    against = [e for e in asked if {e.expects, word} == {"supported", "refuted"}]
    assert bool(against) is (word in ("supported", "refuted"))
    text = page(report)
    assert text.count(DISAGREES) == html([report]).count(DISAGREES) == len(against)
    for entry in asked:
        assert (DISAGREES in block(text, entry.id)) is (entry in against)
        assert (markdown_text(entry.differs) in block(text, entry.id)) is (entry in against)


def test_a_claim_has_the_joint_word_of_the_tests_that_belong_to_it():
    apart = literature_statements([report_of(row("C2-mlp"), row("C2r-mlp", "refuted"))])
    assert {c.id: c.summary for c in apart}["C2"] == "✓ supported"
    text = page(report_of(row("C8a"), row("C8b", "refuted"), row("C8c")))
    assert "## C8. Batch norm fails at small or changing batches: ± depends" in text
    assert "Supported: C8a (net of C8a); C8c (net of C8c). Refuted: C8b (net of C8b)." in text
    three = report_of(row("C8a"), row("C8b", "refuted"))
    assert "changing batches: ✓ 1 supported, ✗ 1 refuted, … 1 not run" in page(three)
    one_sentence = [row("C8a", sentence="It fails"), row("C8b", "refuted", sentence="It fails")]
    assert '<span class="verdict depends">± depends</span>' in html([report_of(*one_sentence)])


def test_a_study_with_several_sentences_for_one_entry_prints_each():
    names = ("layer", "group")
    report = report_of(
        *(row(f"C10a-{name}", sentence=f"{name} repairs", scope="net") for name in names)
    )
    for name in names:
        line = f"- {name} repairs; C10a-{name}, net, profile quick: a - b"
        assert line in block(page(report), "C10a")
    assert "Faster" not in page(report_of(row("C2-mlp"), row("C2-cnn")))


def test_both_profiles_are_shown_and_variants_are_left_out():
    variant = replace(PLAIN, variant="optim.momentum=0.8")
    outside = replace(PLAIN, norms=("my_norm",))
    reports = [report_of(row("C11")), report_of(row("C11", "refuted"), profile="standard")]
    reports += [report_of(row("C12"), study=study) for study in (variant, outside)]
    text = page(*reports)
    assert text.count("net of C11") == 4 and "net of C12" not in text
    assert "± depends" in text and "profile standard: a - b" in block(text, "C11")


def test_nothing_in_the_texts_becomes_markup():
    evil = f"\n\n# {NASTY} ![x](y) `a` _b_"
    facts = {"sentence": evil, "comparison": evil, "scope": evil}
    rows = row("C1a", **facts), row("C1b", unit=Unit(evil)), row("C8a", unmet=evil)
    report = report_of(*rows)
    shown = with_picture(report, Path("docs/claims/a b.svg"), f"](x) {NASTY} `")
    assert "<script" not in html([report])
    text = page(shown)
    assert not re.findall("[<>]", text)
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", text)
    assert [link for link in links if not link.startswith("https://arxiv.org/abs/")] == [
        "claims/a%20b.svg"
    ] * 3
    headings = [re.findall(r"^#+ \S+", t, re.MULTILINE) for t in (text, page())]
    assert headings[0] == headings[1]
    assert not re.findall(r"(?<!\\)[`$_]", text)


def test_the_figures_of_its_tests_lie_next_to_the_page_and_are_shown_once(tmp_path):
    svg = tmp_path / "drawn.svg"
    svg.write_text("<svg>0</svg>")
    effects = Picture(tmp_path / "effects.svg", "All effects.", "")
    shown = with_picture(report_of(row("C2-mlp"), row("C2r-mlp"), row("C4a", setup="x")), svg)
    path = tmp_path / "docs" / "claims.md"
    write_claims_page(path, [shown])
    text = path.read_text(encoding="utf-8")
    assert [f.name for f in (tmp_path / "docs" / "claims").iterdir()] == ["drawn.svg"]
    assert (tmp_path / "docs" / "claims" / "drawn.svg").read_text() == "<svg>0</svg>"
    assert text.count("![Curves.](claims/drawn.svg)") == 1
    assert "[Curves.](claims/drawn.svg)" in block(text, "C2r") and "svg" not in block(text, "C4a")
    assert "![All effects.](claims/effects.svg)" in block(
        page(replace(shown, effects=effects)), "C4a"
    )
    with pytest.raises(StorageError, match="ending .md"):
        write_claims_page(tmp_path / "claims.html", [shown])


def test_a_test_links_to_its_study_where_the_page_lies_in_the_repository():
    report = report_of(row("C1a"), study=replace(PLAIN, name="convergence"))
    text = page(report, path=ROOT / "docs" / "claims.md")
    (link,) = re.findall(r"\(study \[convergence\]\((.*?)\)", text)
    assert (ROOT / "docs" / unquote(link)).resolve() == ROOT / "experiments" / "convergence.py"
    assert "(study convergence)" in page(report, path=Path("/elsewhere/claims.md"))


def test_the_head_says_where_the_runs_come_from_and_which_rules_changed():
    def setup(name: str, ended: str) -> Any:
        run = Record(name, {}, "diverged", {}, [], 1, 0.5, PROVENANCE | {"ended": ended})
        return SimpleNamespace(
            wanted={name: None, f"{name}2": None}, records={name: run}, is_complete=False
        )

    quick = replace(report_of(row("C1a")), evidences={"steps": setup("a", "2026-11-18T10:00")})
    standard = replace(quick, evidences={"steps": setup("b", "2026-11-19T09:00")})
    changed = replace(standard, profile="standard", rule=KeptRule("2001", ("delta: 1 → 2",)))
    text = page(quick, changed)
    for line in (
        "- profile: quick, standard",
        "- runs: 2 finished of at least 4 planned; 2 failed; 2 by another training version",
        "- newest run: 2026-11-19",
        "- machine: A processor, 1 cores of it, Linux",
        "- versions: jax 0.10.2",
        "- git commit: 0123456789ab",
        "- rule changed after the first run: plain-standard",
    ):
        assert f"\n{line}\n" in text
    assert "- runs: 0 finished" in page() and "- newest run: none" in page()
    assert "rule changed" not in page(quick)


def test_the_facts_say_what_decides():
    bound = row(
        "C14a",
        effects={0: 1e-6, 1: 2e-6, 2: 3e-5},
        estimator=MAX_ERROR,
        sesoi=1e-4,
        looks=(3,),
        unit=NATS,
    )
    share = row(
        "C12-x", effects=dict.fromkeys(range(6), 0.99), estimator=AT_LEAST, sesoi=0.95, unit=SHARE
    )
    tail = row("C5b-gain1", effects={s: (2.0 + s, 0.1 * s) for s in range(6)}, estimator=QUANTILE)
    report = report_of(bound, share, tail)
    facts = [dict(Result(report, v).facts) for v in report.verdicts]
    assert [f["Method"] for f in facts] == [
        "every value within the limit, 99 %",
        "t interval of a share, 99 %",
        "paired bootstrap of the 90th percentile, 99 %",
    ]
    assert [v.word for v in report.verdicts] == ["supported"] * 3
    assert facts[0]["Largest value allowed"] == "0.0001 nats"
    assert facts[1]["Least value asked for"] == "95.0 %"
    assert facts[2]["Smallest effect of interest"] == "1 points"
    assert facts[0]["Effect with its interval"] == "3e-05 [3e-05, 3e-05] nats"
    assert facts[1]["The same word again"] == "100 %, by a bootstrap over the seeds"
    assert facts[2]["Planned n"] == "6, until the word is clear"


def test_qualifiers_borderline_words_and_lower_bounds_are_shown():
    small = row("C1a", effects={s: 0.3 + 0.01 * s for s in range(6)})
    bound = row("C1b", is_lower_bound=True)
    near = row("C8a", effects={s: v for s, v in enumerate((1.1, 0.9, 1.5, 0.7, 1.3, 0.8))})
    text = page(report_of(small, bound, near))
    assert "**✗ refuted, small**: 0.32 \\[" in block(text, "C1a")
    assert "**✓ supported, at least delta**: ≥ 2.00 \\[" in block(text, "C1b")
    assert "**✓ supported, borderline**: 1.05 \\[" in block(text, "C8a")


def test_the_path_of_n_is_shown_where_it_grew():
    first = row("C8a", "open", looks=(6, 8))
    second = row("C8a", effects={s: 2.0 + 0.1 * s for s in range(8)}, looks=(6, 8))
    verdict = decide([first, second])
    report = StudyReport(PLAIN, "quick", {}, [verdict])
    path = Result(report, verdict).path
    assert re.fullmatch(r"n = 6: open, 0\.50 \[.*\] points; n = 8: supported, 2\.35 .*", path)
    assert path in html([report]) and "on the way: n = 6: open" in block(page(report), "C8a")
    assert Result(report, decide([second])).path == ""


def test_an_end_of_an_interval_is_not_rounded_to_what_decides():
    """U is -0.0004, just below 0: it reads reversed, and must not be printed as 0.00."""
    values = {0: -0.0004, 1: -0.0004, 2: -0.0004}
    report = report_of(row("C8b", effects=values, looks=(3,)))
    assert "refuted, reversed**: −0.0004 \\[−0.0004, " in block(page(report), "C8b")


def test_the_command_writes_the_claims(tmp_path):
    run = tmp_path / "results" / "runs" / "deadbeef"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{}")
    flags = ["--study=convergence", "--profile=quick", "--ledger=claims.md"]
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), "--results=results", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.endswith(f"page: {Path('results', 'report', 'index.html')}\n")
    assert "- **… not run**: n = 0 of 12" in (tmp_path / "claims.md").read_text(encoding="utf-8")
