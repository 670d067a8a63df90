"""The table of claims, and what the page says of them, from verdicts that are made up."""

from __future__ import annotations

import itertools
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

from normlab.report.claims import Result, literature_statements, results_of
from normlab.report.formatting import notes_of
from normlab.report.html import html
from normlab.report.markdown import claims_page, write_claims_page
from normlab.report.model import Picture, StudyReport
from normlab.report.numbers import effect_text
from normlab.report.tables import markdown_text
from normlab.runs.errors import StorageError
from normlab.runs.record import Record
from normlab.shipped import ROOT
from normlab.studies.decisions import Contrast, decide, word_of
from normlab.studies.intervals import AT_LEAST, AT_MOST, MAX_ERROR, PAIRED_T, QUANTILE, Estimate
from normlab.studies.literature import claims, entries, entry_of
from normlab.studies.rules import KeptRule
from normlab.studies.study import load_study, study_names
from normlab.studies.units import FAILED, NATS, OCTAVES, POINTS, Unit

SHARE = Unit("share", is_proportion=True)

TESTS = (
    "C1a C1b C1t C2 C2r C3a C3b C3c C4a C4b C4c C5a C5b C6a C6b C7a C7b C7c C8a C8b C8c C9a C9b "
    "C9c C9d C9e C9f C9g C9h C10a C10b C10c C11 C12 C13 C14a C14b C15a C15b C16a C16b "
    "C16c C16d C17a C17b C18"
).split()
CLAIMS = [f"C{i}" for i in range(1, 19)]
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
    told: dict[str, Any] = {
        "claim": f"C{re.sub('[^0-9]', '', name.partition('-')[0])}",
        "sentence": "Faster",
        "comparison": "a - b",
        "scope": f"net of {name}",
        "effects": {} if word in ("not run", "not measured") else values_of(word),
        "unit": POINTS,
        "sesoi": 1.0,
        "looks": (7,) if word == "exploratory" else (6,),
        "estimator": PAIRED_T,
        "setup": "steps",
        "unmet": "it rests on nothing" if word == "not testable here" else "",
        "not_measured": 6 if word == "not measured" else 0,
    }
    return Contrast(id=name, **(told | facts))


def values_of(word: str, n: int = 6) -> dict[int, float]:
    """Return effects whose word that is."""
    spread = 3.0 if word == "open" else 0.1
    return {s: EFFECTS.get(word, 0.0) + spread * (2 * s / (n - 1) - 1) for s in range(n)}


def report_of(
    *rows: Contrast | tuple[Contrast, ...], study=PLAIN, profile: str = "quick"
) -> StudyReport:
    """Return a report of rows, of which one with several looks is the tuple of these."""
    paths = [row if isinstance(row, tuple) else (row,) for row in rows]
    return StudyReport(study, profile, {}, [decide(path) for path in paths])


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
    text = page(report_of(row("C4a", "not run"), row("C4b", "not measured")))
    assert "- **… not run**: delta 1 point; n = 0 of 6" in block(text, "C4a")
    assert "- **∅ not measured**: delta 1 point; n = 6" in block(text, "C4b")
    assert "- **… not run**: no study shown here tests it" in block(text, "C11")
    decided = block(page(report_of(row("C11"))), "C11")
    assert "not run" not in decided and "**✓ supported, at least delta**: 2.00" in decided


def test_what_cannot_be_tested_gives_its_reason():
    report = report_of(row("C10a-layer", "not testable here"))
    text, shown = page(report), html([report])
    line = "- **∅ not testable here**: delta 1 point; n = 6; it rests on nothing\n"
    assert line in block(text, "C10a")
    assert "Because it rests on nothing" in shown and DISAGREES not in text + shown
    nothing = row("C8c", "not measured", unmet="an arm fails")
    (result,) = results_of([report_of(nothing)])
    assert (result.verdict.word, result.n) == ("not testable here", "6")
    assert "Neither arm got there" not in dict(result.facts)


WORDS = ("supported", "refuted", "open", "exploratory", "not run", "not measured")


@pytest.mark.parametrize("word", WORDS)
def test_disagreement_is_shown_exactly_where_a_verdict_goes_against_what_is_expected(word):
    asked = entries().values()
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
    with_open = report_of(row("C8a"), row("C8b", "refuted"), row("C8c", "open"))
    assert "changing batches: ✓ 1 supported, ✗ 1 refuted, ? 1 open" in page(with_open)
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
    assert html([report]).count("<script") == 1  # the page's own
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
            setup=PLAIN.setups["quick"][0],
            wanted={name: None, f"{name}2": None},
            records={name: run},
            is_complete=False,
        )

    quick = replace(report_of(row("C1a")), evidences={"steps": setup("a", "2026-11-18T10:00")})
    standard = replace(quick, evidences={"steps": setup("b", "2026-11-19T09:00")})
    changed = replace(standard, profile="standard", rule=KeptRule("2001", ("delta: 1 → 2",)))
    text = page(quick, changed)
    for line in (
        "- profile: quick, standard",
        "- runs: 2 finished of at least 4 planned; 2 failed; 2 by another training version",
        "- newest run: 2026-11-19",
        "- machine: A processor, workers on 1 of its cores each, Linux",
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
    least = row(
        "C12-x",
        effects={0: 0.99, 1: 1.0, 2: 0.98},
        estimator=AT_LEAST,
        sesoi=0.95,
        looks=(3,),
        unit=SHARE,
    )
    most = row(
        "C2r-x", effects=dict.fromkeys(range(6), 0.0), estimator=AT_MOST, sesoi=0.05, unit=FAILED
    )
    tail = row("C5b-1", effects={s: (2.0 + s, 0.1 * s) for s in range(6)}, estimator=QUANTILE)
    report = report_of(bound, least, most, tail)
    results = [Result(report, v) for v in report.verdicts]
    facts = [dict(r.facts) for r in results]
    assert [f["Method"] for f in facts] == [
        "every value within the limit",
        "t interval of a share, 99 %",
        "exact (Clopper-Pearson) interval, 99 %",
        "paired bootstrap of the 90th percentile, 99 %",
    ]
    assert [v.word for v in report.verdicts] == ["supported", "open", "open", "supported"]
    assert facts[0]["Largest value allowed"] == "0.0001 nats"
    assert facts[1]["Least value asked for"] == "95.0 %"
    assert facts[2]["Largest value allowed"] == "5.0 %"
    assert facts[3]["Smallest effect of interest"] == "1 point"
    assert results[0].effect == "3e-05 nats"
    assert [r.asked for r in results[2:]] == ["limit 5.0 %", "delta 1 point"]
    assert "; limit 5.0 %" in html([report]) and "; delta 1 point" in html([report])
    assert facts[1]["Planned n"] == "3" and "Next" not in facts[0]
    assert facts[1]["Next"] == "open at its cap: the rule plans no more than n = 3"
    assert facts[0]["The same word again"] == "in 100 % of the resamples of its seeds"


@pytest.mark.parametrize(
    "rows, sentence",
    [
        ({"C1a": 2.0}, "1 words (99 % intervals) every word stays"),
        # 4.773 standard errors: 2.13
        (
            {"C1a": 2.0, "C4a": -0.9, "C8a": None},
            "2 words (99.5 % intervals) these would be open: C1a (quick), C4a (quick)",
        ),
        ({"C1a": 2.2, "C4a": -1.2, "C8a": None}, "2 words (99.5 % intervals) every word stays"),
        # 5.247 standard errors: 2.35. An open word counts, and cannot be lost
        (
            {"C1a": 2.2, "C4a": -1.4, "C8a": 1.0},
            "3 words (99.667 % intervals) these would be open: C1a (quick)",
        ),
        ({"C1a": None}, ""),
    ],
)
def test_the_page_says_which_words_a_bonferroni_correction_opens(rows, sentence):
    """Six effects of centre +- 1 have a standard error of 1 / sqrt(5). At 99 % the half-width is
    4.032 of it, or 1.80."""
    around = {
        name: {s: m + (-1) ** s for s in range(6)} if m is not None else {}
        for name, m in rows.items()
    }
    rows = [row(name, effects=effects) for name, effects in around.items()]
    report = report_of(*rows, row("C11", "exploratory"))
    for text in (page(report), html([report])):
        found = re.findall(r"^With a Bonferroni correction over (.*)\.$", text, re.MULTILINE)
        assert [line.replace("\\", "") for line in found] == ([sentence] if sentence else [])


def path_of(
    *words: str, looks: tuple[int, ...] = (6, 12, 24), **facts: Any
) -> tuple[Contrast, ...]:
    """Return a row at its first looks, with these words."""
    rows = zip(words, looks, strict=False)
    return tuple(row("C1a", effects=values_of(w, n), looks=looks, **facts) for w, n in rows)


def test_a_row_says_at_which_numbers_of_seeds_it_was_read_and_what_is_left():
    for words, notes, left in (
        (("open", "supported"), "supported, at least delta", ""),
        (("open",), "open, not final", "n = 12, and those"),
        (("open", "open"), "open, not final", "n = 24, and those"),
        (("open", "open", "open"), "open, at its cap", "no more than n = 24"),
    ):
        report = report_of(path_of(*words))
        (result,) = [Result(report, v) for v in report.verdicts]
        assert result.word.startswith(f"{'?' if left else '✓'} {notes}")
        assert left in result.next and bool(left) is bool(result.next)
        assert result.n == " → ".join(str(n) for n in (6, 12, 24)[: len(words)])
        assert dict(result.facts)["Planned n"] == "6 → 12 → 24, until the word is clear"
        text = page(report)
        steps = re.findall(r"n = (\d+): (\w+), ", block(text, "C1a"))
        assert [w for _, w in steps] == ([*words] if len(words) > 1 else [])
        for shown in (text, html([report])):
            assert (left in shown) or not left
            assert f"n = {result.n}" in text and f"</span>{result.n}</td>" in html([report])


def test_a_word_that_is_not_clear_enough_is_not_final():
    wide = {s: 1.2 + 0.9 * (s - 2.5) / 2.5 for s in range(6)}  # supported, but the interval is wide
    report = report_of(row("C1a", effects=wide, looks=(6, 12)), row("C1b", effects=wide))
    first, last = report.verdicts
    assert (first.word, notes_of(first)[0]) == ("supported", "not final")
    assert "not final" not in notes_of(last)


def test_an_unstable_word_is_borderline():
    near = {s: 1.0 + 0.05 * (s - 2.5) for s in range(6)}
    report = report_of(row("C1a", effects=near), row("C1b"))
    weak, strong = report.verdicts
    assert weak.replication < 0.95 and notes_of(weak)[-1] == "borderline"
    assert "borderline" not in notes_of(strong)
    assert "✓ supported, borderline" in page(report).replace("at least delta, ", "")


def test_a_lower_bound_is_printed_with_its_sign_everywhere_and_refutes_nothing():
    small = {s: 0.1 + 0.01 * s for s in range(6)}
    facts = {"effects": small, "unit": OCTAVES, "is_lower_bound": True}
    report = report_of(row("C1a", **facts), row("C1b", "supported", is_lower_bound=True))
    low, high = (Result(report, v) for v in report.verdicts)
    assert low.verdict.word == "open" and low.effect.startswith("≥ 1.09× [")
    assert high.verdict.word == "supported" and high.effect.startswith("≥ 2.00 [")
    assert "at least as large" in dict(low.facts)["Lower bound"]
    assert dict(low.facts)["Effect as a logarithm"].startswith("0.13 [0.09, 0.16] octaves")
    assert "Effect as a logarithm" not in dict(high.facts)
    assert "≥ 1.09×" in block(page(report), "C1a") and "≥ 1.09×" in html([report])
    missing = report_of(row("C1a", "not run", is_lower_bound=True))
    assert Result(missing, missing.verdicts[0]).effect == "–"


@pytest.mark.parametrize("unit", [POINTS, OCTAVES, FAILED, NATS])
@pytest.mark.parametrize("sesoi", [0.05, 0.32, 1.0])
def test_a_printed_interval_never_contradicts_the_word(unit, sesoi):
    """Also where a value is so near to 0 or to delta that two decimals would round it across."""
    near = (-0.7, -0.01, -1e-3, -1e-5, 0.0, 1e-5, 1e-3, 0.01, 0.7)
    values = sorted({v for at in (0.0, sesoi) for v in (at + sesoi * n for n in near)})

    def read(number: str) -> float:
        return float(number.rstrip("× %").replace("−", "-"))

    zero, delta = (read(unit.number(v)) for v in (0.0, sesoi))
    for low, centre, high in itertools.combinations_with_replacement(values, 3):
        text = effect_text(unit, (centre, low, high), sesoi).removesuffix(unit.suffix)
        mid, least, most = (read(n) for n in re.split(r" \[|, ", text.strip(" ]")))
        said = "open"
        if most < delta:
            said = "refuted"
        elif least > zero and mid >= delta:
            said = "supported"
        word, qualifier = word_of(Estimate(centre, low, high), sesoi)
        assert said == word, text
        assert (qualifier == "reversed") is (most < zero), text
        assert (qualifier == "small") is (word == "refuted" and least > zero), text


def test_the_command_writes_the_claims(tmp_path):
    run = tmp_path / "results" / "runs" / "deadbeef"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{}")
    flags = ["--study=convergence", "--profile=quick", "--ledger=claims.md"]
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), "--results=results", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    report = Path("results", "report")
    told = f"page: {report / 'index.html'}\ncurves: {report / 'curves.csv'}\n"
    assert done.stdout.endswith(told)
    assert "- **… not run**: delta 0.32 octaves (1.25×); n = 0 of 12" in (
        tmp_path / "claims.md"
    ).read_text(encoding="utf-8")
