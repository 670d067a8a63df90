"""Claims with the results that test them: in the studies' words for the page, in the order of the
literature for docs/claims.md and the short table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from normlab.report.formatting import SYMBOLS, command, n_text, p_text, with_symbol, word_text
from normlab.report.model import Picture, StudyReport
from normlab.report.tables import Measured, Table
from normlab.studies.decisions import Contrast, Verdict
from normlab.studies.literature import Entry, claims, entries, entry_of

INFINITE = "one arm never reached the target in most seeds"
"""What an infinite effect means."""
YES_NO = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True)
class Result:
    """One verdict, with the study that it belongs to."""

    report: StudyReport
    verdict: Verdict

    @property
    def contrast(self) -> Contrast:
        return self.verdict.contrast

    @property
    def effect(self) -> str:
        """The effect with its interval, as a reader sees it."""
        return self.contrast.unit.text(self.verdict.effect, self.verdict.interval)

    @property
    def sesoi(self) -> str:
        """The smallest effect of interest; empty where fixed limits replace it."""
        contrast = self.contrast
        return "" if contrast.test.limits else contrast.unit.sesoi_text(contrast.sesoi)

    @property
    def word(self) -> str:
        return word_text(self.verdict)

    @property
    def n(self) -> str:
        return n_text(self.verdict)

    @property
    def has_p(self) -> bool:
        return self.verdict.is_decided and self.contrast.test.has_p

    @property
    def command(self) -> str:
        """The command line that repeats the study, or brings this test to the n that it needs."""
        runs = self.report.evidences.get(self.contrast.setup)
        is_other_n = self.verdict.word == "exploratory" and runs is not None and runs.is_complete
        seeds = self.verdict.n if is_other_n else self.verdict.n_enough
        return command(self.report.study, self.report.profile, seeds, self.contrast.setup)

    @property
    def entry(self) -> Entry | None:
        """What the literature says of it; None where the table of claims does not list it."""
        return entry_of(self.contrast.id)

    @property
    def disagreement(self) -> str:
        """How the protocol differs from the literature's, where the verdict goes against it."""
        entry = self.entry
        return entry.differs if entry and entry.disagrees(self.verdict.word) else ""

    @property
    def infinite(self) -> str:
        return INFINITE if math.isinf(self.verdict.effect) else ""

    @property
    def pictures(self) -> list[Picture]:
        return self.report.pictures_of(self.contrast.setup)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was decided, as (name, text)."""
        verdict, contrast, test = self.verdict, self.contrast, self.contrast.test
        correction = ", Holm over the tests of the study, level 0.025" if test.has_p else ""
        facts = [
            ("Test", f"{contrast.id}, profile {self.report.profile}"),
            ("Method", f"{test.label}{correction}"),
            (test.sesoi_label, self.sesoi),
        ]
        if verdict.coverage:
            name = test.centre_label.format(coverage=100 * verdict.coverage)
            facts.append((name, contrast.unit.raw_text(verdict.effect, verdict.interval)))
        if self.has_p:
            p_values = (verdict.p_above_zero, verdict.p_below_sesoi)
            facts += zip(test.nulls, map(p_text, p_values), strict=True)
        needed = contrast.prerequisite
        facts += [
            ("Holds with Holm over all tests of this page", YES_NO[verdict.stands_overall]),
            ("Enough", self._enough()),
            ("Infinite", self.infinite),
            ("Prerequisite", f"tested only if {needed} is supported" if needed else ""),
            ("Remark", contrast.remark),
            *(("Note", note) for note in verdict.notes),
        ]
        return [(name, text) for name, text in facts if text]

    def _enough(self) -> str:
        if not self.contrast.test.has_p or self.verdict.word != "inconclusive":
            return ""
        if self.verdict.n_enough is None:
            return "no number of seeds up to 400 would decide, were the effect as measured"
        return f"n = {self.verdict.n_enough} would have decided, were the effect as measured"


def results_of(reports: Sequence[StudyReport]) -> list[Result]:
    return [Result(report, verdict) for report in reports for verdict in report.verdicts]


@dataclass(frozen=True)
class Statement:
    """A sentence with the results that test it: a study's, or one of the literature's."""

    id: str
    sentence: str
    results: Sequence[Result]
    entry: Entry | None = None
    parts: Sequence[Statement] = ()
    """The tests of a claim of the literature."""

    @property
    def missing(self) -> tuple[str, str]:
        """The word and the reason of a test of the literature that no study here decides."""
        if self.entry and self.entry.absent:
            return "not decided", self.entry.absent
        return "no data", "no study shown here tests it"

    @property
    def words(self) -> list[str]:
        return [r.verdict.word for r in self.results] or [self.missing[0]]

    @property
    def judged(self) -> list[Statement]:
        """The parts that take part in the verdict of a claim."""
        return [p for p in self.parts if p.entry and not p.entry.apart]

    @property
    def word(self) -> str:
        """The verdict on which all results agree, `depends`, or empty where they are a mixture."""
        parts = self.judged or [self]
        words = {word for part in parts for word in part.words}
        if len(words) == 1:
            return words.pop()
        return "depends" if words == {"supported", "refuted"} else ""

    @property
    def summary(self) -> str:
        """The word with its symbol, or how many results have which."""
        words = [word for part in self.judged for word in part.words]
        counts = {word: words.count(word) for word in SYMBOLS if word in words}
        mixture = ", ".join(with_symbol(word, count) for word, count in counts.items())
        return with_symbol(self.word) if self.word else mixture

    @property
    def scopes(self) -> str:
        """Where a claim that depends is supported and where refuted."""
        results = [r for part in self.judged for r in part.results]
        if {r.verdict.word for r in results} != {"supported", "refuted"}:
            return ""
        texts = []
        for word in ("supported", "refuted"):
            found = [r.contrast for r in results if r.verdict.word == word]
            where = "; ".join(f"{c.id} ({c.scope})" for c in found)
            texts.append(f"{word.capitalize()}: {where}.")
        return " ".join(texts)

    @property
    def entries(self) -> list[Entry]:
        """What the literature says of its results, each entry once."""
        return list({r.entry.id: r.entry for r in self.results if r.entry}.values())

    @property
    def who(self) -> str:
        """Who claims it, each source once."""
        sources = [source for entry in self.entries for source in entry.who.split("; ")]
        return "; ".join(dict.fromkeys(sources))

    def own_sentence(self, place: int) -> str:
        """Return the study's sentence for the result at a place, where several of its sentences
        belong to this one; else nothing."""
        own = [r.contrast.sentence for r in self.results]
        return own[place] if len(set(own)) > 1 else ""


def statements(reports: Sequence[StudyReport]) -> list[Statement]:
    """Return every sentence of the studies once, in the order of the claims' numbers."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results_of(reports):
        key = result.contrast.claim, result.contrast.sentence
        groups.setdefault(key, []).append(result)
    ordered = sorted(groups, key=lambda key: claim_order(key[0]))
    return [Statement(*key, groups[key]) for key in ordered]


def claim_order(claim: str) -> tuple[int, str]:
    """Order claims by the numbers in their names: C10 after C9."""
    number = re.search(r"\d+", claim)
    return (int(number[0]) if number else 0), claim


def literature_statements(reports: Sequence[StudyReport]) -> list[Statement]:
    """Return every claim with every test that the literature's table lists, in its order.

    Variants of a study and studies with norms from outside are other questions and left out.
    """
    found: dict[str, list[Result]] = {name: [] for name in entries()}
    for result in results_of([r for r in reports if r.is_planned]):
        if result.entry:
            found[result.entry.id].append(result)
    tests = [Statement(e.id, e.sentence, found[e.id], e) for e in entries().values()]
    out = []
    for claim, sentence in claims().items():
        parts = [t for t in tests if t.entry and t.entry.claim == claim]
        out.append(Statement(claim, sentence, [r for p in parts for r in p.results], parts=parts))
    return out


VERDICT_NOTE = (
    "p_above_zero: p if the effect were 0 or less (a share: delta or more). p_below_delta: p if it "
    "were delta or more (a share: delta or less). One-sided, Holm over the study's tests, level "
    "0.025. The CSV has the effect, its interval and delta in the unit named."
)


def verdict_table(reports: Sequence[StudyReport]) -> Table:
    """Return one line for each verdict; its numbers have columns of their own in CSV."""
    lines = [_verdict_line(result) for result in results_of(reports)]
    columns = dict.fromkeys(name for line in lines for name in line)
    return Table("Verdicts", [*columns], [[*line.values()] for line in lines], VERDICT_NOTE)


def _verdict_line(result: Result) -> dict:
    verdict, contrast, (low, high) = result.verdict, result.contrast, result.verdict.interval
    coverage = f"{100 * verdict.coverage:.0f} %" if verdict.coverage else ""
    above, below = (
        Measured(p_text(p), {"": p}) if result.has_p else None
        for p in (verdict.p_above_zero, verdict.p_below_sesoi)
    )
    return {
        "test": contrast.id,
        "sentence": contrast.sentence,
        "net, data": contrast.scope,
        "profile": result.report.profile,
        "comparison": contrast.comparison,
        "effect": Measured(result.effect, {"": verdict.effect, "low": low, "high": high}),
        "unit": contrast.unit.name,
        "coverage": Measured(coverage, {"": verdict.coverage or None}),
        "delta": Measured(result.sesoi, {"": contrast.sesoi}),
        "n": verdict.n,
        "planned n": contrast.n,
        "verdict": verdict.word,
        "p_above_zero": above,
        "p_below_delta": below,
        "holds over all tests": YES_NO[verdict.stands_overall],
    }


def short_table(reports: Sequence[StudyReport]) -> Table:
    """Return one line for each test of the literature's table, for a README."""
    profiles = {report.profile for report in reports if report.is_planned}
    lines = []
    for test in (part for claim in literature_statements(reports) for part in claim.parts):
        if not test.results:
            word, reason = test.missing
            lines.append((test.id, test.sentence, with_symbol(word), reason))
        for i, result in enumerate(test.results):
            profile = f", {result.report.profile}" if len(profiles) > 1 else ""
            place = f"({result.contrast.scope}{profile})"
            sentence = test.own_sentence(i) or ("" if i else test.sentence)
            effect = result.effect if result.verdict.coverage else ""
            lines.append((result.contrast.id, f"{sentence} {place}", result.word, effect))
    return Table("", ("test", "sentence", "verdict", "effect"), lines)
