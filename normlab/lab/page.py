"""The page: one HTML file that opens without a network, from reports, tables and figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normlab.lab.origin import Origin, origin_of, shared_settings, varied_settings
from normlab.lab.protocol import protocol_facts
from normlab.lab.study import Figure, Setup
from normlab.lab.tables import Table
from normlab.lab.verdicts import Verdict
from normlab.lab.wording import (
    SYMBOLS,
    command,
    delta_text,
    effect_text,
    n_text,
    p_text,
    raw_effect_text,
    word_text,
)

if TYPE_CHECKING:
    from normlab.lab.report import StudyReport

TESTS = {
    "t": "one-sided paired t",
    "wilcoxon": "one-sided Wilcoxon signed-rank",
    "share": "exact binomial",
    "mcnemar": "McNemar's, exact",
}
NULLS = {
    "effect": ("p if the effect were 0 or less", "p if it were delta or more"),
    "share": ("p if the share were delta or more", "p if it were delta or less"),
}
"""What p_sup and p_ref test; small values speak for and against the sentence."""
HOW_TO_READ = {
    "curves": "Lines: mean over n seeds; bands: 95 % percentile bootstrap of that mean.",
    "rates": "Lines: mean over n seeds; bands: least to largest. Below: share of failed runs.",
    "levels": "Points: mean over n seeds with 95 % t interval; dashed: arms without that setting.",
}


@dataclass(frozen=True)
class RowView:
    """A verdict as the page prints it."""

    verdict: Verdict
    profile: str
    anchor: str
    variant: str
    effect: str
    word: str
    n: str
    facts: list[tuple[str, str]]
    command: str

    @property
    def tone(self) -> str:
        return self.verdict.word.split()[0]


@dataclass(frozen=True)
class ClaimView:
    """A sentence with all rows that test it."""

    claim: str
    sentence: str
    word: str
    rows: list[RowView]

    @property
    def symbol(self) -> str:
        return SYMBOLS.get(self.word, "")


@dataclass(frozen=True)
class SetupView:
    setup: Setup
    table: Table
    files: str
    figures: list[dict[str, str]]
    protocol: list[tuple[str, str]]
    shared: list[tuple[str, str, str]]
    varied: list[tuple[str, str, str]]


@dataclass(frozen=True)
class StudyView:
    report: StudyReport
    anchor: str
    command: str
    setups: list[SetupView]
    origin: Origin
    rule_changed: str


def render(
    reports: Sequence[StudyReport],
    tables: Mapping[tuple[str, str], Table],
    figures: Mapping[tuple[str, int], Path],
    rules: Mapping[str, str],
) -> str:
    """Return the page's HTML; `rules`: stem -> when a rule was written that has changed since."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    claims = claim_views(reports)
    return environment.get_template("page.html").render(
        claims=claims,
        counts=count_words(claims),
        studies=[study_view(r, tables, figures, rules) for r in reports],
        symbols=SYMBOLS,
    )


def claim_views(reports: Sequence[StudyReport]) -> list[ClaimView]:
    """Return every sentence once, with its rows, in the order of the claims' numbers."""
    groups: dict[tuple[str, str], list[RowView]] = {}
    for report in reports:
        for verdict in report.verdicts:
            key = (verdict.row.claim, verdict.row.sentence)
            groups.setdefault(key, []).append(row_view(report, verdict))
    ordered = sorted(groups, key=lambda key: _natural(key[0]))
    return [ClaimView(*key, joint_word(groups[key]), groups[key]) for key in ordered]


def _natural(claim: str) -> tuple[int, str]:
    number = re.search(r"\d+", claim)
    return (int(number[0]) if number else 0), claim


def joint_word(rows: Sequence[RowView]) -> str:
    """Return the verdict of rows that test one sentence; empty where it is listed row by row."""
    words = {row.verdict.word for row in rows}
    if len(words) == 1:
        return words.pop()
    return "depends" if words == {"supported", "refuted"} else ""


def count_words(claims: Sequence[ClaimView]) -> list[tuple[str, int]]:
    """Return how many rows have each verdict."""
    words = [row.verdict.word for claim in claims for row in claim.rows]
    return [(word, words.count(word)) for word in SYMBOLS if word in words]


def row_view(report: StudyReport, verdict: Verdict) -> RowView:
    e = report.evidences.get(verdict.row.setup)
    is_other_n = verdict.word == "exploratory" and e is not None and e.is_complete
    seeds = verdict.n if is_other_n else verdict.n_enough
    return RowView(
        verdict=verdict,
        profile=report.profile,
        anchor=report.stem,
        variant=report.study.variant,
        effect=effect_text(verdict),
        word=word_text(verdict),
        n=n_text(verdict),
        facts=row_facts(verdict, report.profile),
        command=command(report.study, report.profile, seeds),
    )


def row_facts(verdict: Verdict, profile: str) -> list[tuple[str, str]]:
    """Return what the fold of a verdict says, as (name, text)."""
    row = verdict.row
    facts = [
        ("Row", f"{row.id}, profile {profile}"),
        ("Test", f"{TESTS[row.test]}, Holm over the study's rows, level 0.025"),
        ("Largest share allowed" if row.test == "share" else "Delta", delta_text(verdict)),
    ]
    if verdict.coverage:
        interval = f"{100 * verdict.coverage:.0f} % interval"
        facts.append((f"Effect with {interval}", raw_effect_text(verdict)))
    if verdict.word in ("supported", "refuted", "inconclusive"):
        sup, ref = NULLS["share" if row.test == "share" else "effect"]
        facts += [(sup, p_text(verdict.p_sup)), (ref, p_text(verdict.p_ref))]
    stands = {True: "yes", False: "no", None: ""}[verdict.stands_overall]
    enough = _enough(verdict) if verdict.word == "inconclusive" else ""
    facts += [("Stands with Holm over all rows of this page", stands), ("Enough", enough)]
    facts += [("Gate", f"tested only if {row.gate} is supported" if row.gate else "")]
    facts += [("Remark", row.remark), *(("Note", note) for note in verdict.notes)]
    return [(name, text) for name, text in facts if text]


def _enough(verdict: Verdict) -> str:
    if verdict.n_enough is None:
        return "no number of seeds up to 400 would decide, were the effect as measured"
    return f"n = {verdict.n_enough} would have decided, were the effect as measured"


def study_view(
    report: StudyReport,
    tables: Mapping[tuple[str, str], Table],
    figures: Mapping[tuple[str, int], Path],
    rules: Mapping[str, str],
) -> StudyView:
    setups = []
    for name, e in report.evidences.items():
        drawn = [
            figure_view(figure, figures[report.stem, i], e.setup)
            for i, figure in enumerate(report.study.figures)
            if figure.setup == name and (report.stem, i) in figures
        ]
        configs = [w.config for w in e.wanted.values()]
        setups.append(
            SetupView(
                setup=e.setup,
                table=tables[report.stem, name],
                files=f"tables/{report.stem}-{name}",
                figures=drawn,
                protocol=protocol_facts(e),
                shared=shared_settings(configs),
                varied=varied_settings(configs),
            )
        )
    return StudyView(
        report=report,
        anchor=report.stem,
        command=command(report.study, report.profile),
        setups=setups,
        origin=origin_of(report.evidences),
        rule_changed=rules.get(report.stem, ""),
    )


def figure_view(figure: Figure, svg: Path, setup: Setup) -> dict[str, str]:
    return {
        "data": base64.b64encode(svg.read_bytes()).decode("ascii"),
        "caption": figure.caption,
        "reading": HOW_TO_READ[figure.kind],
        "alt": f"{figure.caption} {setup.title}; the numbers stand in the table below.",
        "file": f"figures/{svg.stem}",
    }
