"""Claims as they are printed: every sentence once, with the rows that test it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normlab.report.formatting import (
    INFINITE,
    SYMBOLS,
    command,
    effect_text,
    n_text,
    p_text,
    raw_effect_text,
    sesoi_text,
    word_text,
)
from normlab.studies.decisions import Verdict
from normlab.studies.literature import Entry, entry_of

if TYPE_CHECKING:
    from normlab.report.report import StudyReport


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
    entry: Entry | None
    """What the literature says of the row; None for a row that is not in the rule book."""

    @property
    def tone(self) -> str:
        return self.verdict.word.split()[0]

    @property
    def disagreement(self) -> str:
        """How the protocol differs from the literature's, where the verdict goes against it."""
        entry = self.entry
        return entry.differs if entry and entry.disagrees(self.verdict.word) else ""


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

    @property
    def entries(self) -> list[Entry]:
        """What the literature says of its rows, each entry once."""
        return list({row.entry.id: row.entry for row in self.rows if row.entry}.values())

    @property
    def who(self) -> str:
        """Who claims it, each source once."""
        return join_once(entry.who for entry in self.entries)


def claim_views(reports: Sequence[StudyReport]) -> list[ClaimView]:
    """Return every sentence once, with its rows, in the order of the claims' numbers."""
    groups: dict[tuple[str, str], list[RowView]] = {}
    for report in reports:
        for verdict in report.verdicts:
            key = (verdict.contrast.claim, verdict.contrast.sentence)
            groups.setdefault(key, []).append(row_view(report, verdict))
    ordered = sorted(groups, key=lambda key: _natural(key[0]))
    return [
        ClaimView(*key, joint_word(row.verdict.word for row in groups[key]), groups[key])
        for key in ordered
    ]


def by_claim(reports: Sequence[StudyReport]) -> list[StudyReport]:
    """Return the reports in the order of the claims that they decide."""
    return sorted(
        reports,
        key=lambda r: min((_natural(v.contrast.claim) for v in r.verdicts), default=(0, "")),
    )


def _natural(claim: str) -> tuple[int, str]:
    number = re.search(r"\d+", claim)
    return (int(number[0]) if number else 0), claim


def joint_word(words: Iterable[str]) -> str:
    """Return the verdict of rows that test one sentence; empty where it is listed row by row."""
    different = set(words)
    if len(different) == 1:
        return different.pop()
    return "depends" if different == {"supported", "refuted"} else ""


def join_once(texts: Iterable[str]) -> str:
    """Return texts of parts between semicolons as one, each part once.

    >>> join_once(["a; b", "b; c"])
    'a; b; c'
    """
    return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ")))


def count_words(claims: Sequence[ClaimView]) -> list[tuple[str, int]]:
    """Return how many rows have each verdict."""
    words = [row.verdict.word for claim in claims for row in claim.rows]
    return [(word, words.count(word)) for word in SYMBOLS if word in words]


def row_view(report: StudyReport, verdict: Verdict) -> RowView:
    e = report.evidences.get(verdict.contrast.setup)
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
        command=command(report.study, report.profile, seeds, verdict.contrast.setup),
        entry=entry_of(verdict.contrast.id),
    )


def row_facts(verdict: Verdict, profile: str) -> list[tuple[str, str]]:
    """Return what the fold of a verdict says, as (name, text)."""
    row, test = verdict.contrast, verdict.contrast.test
    correction = ", Holm over the study's rows, level 0.025" if test.has_p else ""
    facts = [
        ("Row", f"{row.id}, profile {profile}"),
        ("Test", f"{test.label}{correction}"),
        (test.sesoi_label, sesoi_text(verdict)),
    ]
    if verdict.coverage:
        name = test.centre_label.format(coverage=100 * verdict.coverage)
        facts.append((name, raw_effect_text(verdict)))
    if test.has_p and verdict.is_decided:
        p_values = (verdict.p_above_zero, verdict.p_below_sesoi)
        facts += zip(test.nulls, map(p_text, p_values), strict=True)
    stands = {True: "yes", False: "no", None: ""}[verdict.stands_overall]
    enough = _enough(verdict) if test.has_p and verdict.word == "inconclusive" else ""
    facts += [("Stands with Holm over all rows of this page", stands), ("Enough", enough)]
    if math.isinf(verdict.effect):
        facts.append(("Infinite", INFINITE))
    facts += [
        ("Gate", f"tested only if {row.prerequisite} is supported" if row.prerequisite else "")
    ]
    facts += [("Remark", row.remark), *(("Note", note) for note in verdict.notes)]
    return [(name, text) for name, text in facts if text]


def _enough(verdict: Verdict) -> str:
    if verdict.n_enough is None:
        return "no number of seeds up to 400 would decide, were the effect as measured"
    return f"n = {verdict.n_enough} would have decided, were the effect as measured"
