"""Claims with the results that test them: the sentences of the studies, and those of the literature
in its order."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from normlab.report.formatting import SYMBOLS, command, n_text, with_symbol
from normlab.report.model import StudyReport
from normlab.report.tables import Measured, Table
from normlab.studies.decisions import Contrast, Verdict
from normlab.studies.literature import Entry, claims, entries, entry_of

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
        """The verdict's word with its symbol; an exploratory one says why it is no more."""
        word, n = self.verdict.word, f", n differs ({self.verdict.n}, planned {self.contrast.n})"
        return with_symbol(word) + (n if word == "exploratory" else "")

    @property
    def n(self) -> str:
        return n_text(self.verdict)

    @property
    def p_values(self) -> list[float]:
        """The two p values; none where the verdict does not depend on them."""
        verdict = self.verdict
        has_p = verdict.is_decided and self.contrast.test.has_p
        return [verdict.p_above_zero, verdict.p_below_sesoi] if has_p else []

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
        """How the protocol differs from the literature's, where the verdict contradicts it."""
        entry = self.entry
        return entry.differs if entry and entry.disagrees(self.verdict.word) else ""

    @property
    def infinite(self) -> str:
        """What an infinite effect means; empty for a finite one."""
        is_infinite = math.isinf(self.verdict.effect)
        return "one arm never reached the target in most seeds" if is_infinite else ""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was decided, as (name, text)."""
        verdict, contrast, test = self.verdict, self.contrast, self.contrast.test
        correction = ", Holm over the tests of the study, level 0.025" if test.has_p else ""
        effect, n, needed = "", verdict.n_enough, contrast.prerequisite
        if verdict.coverage:
            effect = contrast.unit.raw_text(verdict.effect, verdict.interval)
        enough = f"n = {n} would have decided" if n else "no number of seeds up to 400 would decide"
        is_open = test.has_p and verdict.word == "inconclusive"
        facts = [
            ("Test", f"{contrast.id}, profile {self.report.profile}"),
            ("Method", f"{test.label}{correction}"),
            (test.sesoi_label, self.sesoi),
            (test.centre_label.format(coverage=100 * verdict.coverage), effect),
            *zip(test.nulls, map(p_text, self.p_values), strict=False),
            ("Holds with Holm over all tests of this page", YES_NO[verdict.stands_overall]),
            ("Enough", f"{enough}, were the effect as measured" if is_open else ""),
            ("Infinite", self.infinite),
            ("Prerequisite", f"tested only if {needed} is supported" if needed else ""),
            ("Remark", contrast.remark),
            *(("Note", note) for note in verdict.notes),
        ]
        return [(name, text) for name, text in facts if text]


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


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
    def judged(self) -> list[Statement]:
        """What decides the verdict: the parts that are not apart, or the statement itself."""
        return [p for p in self.parts if p.entry and not p.entry.apart] or [self]

    @property
    def words(self) -> list[str]:
        results = [[r.verdict.word for r in s.results] or [s.missing[0]] for s in self.judged]
        return [word for words in results for word in words]

    @property
    def word(self) -> str:
        """The verdict on which all results agree, `depends`, or empty where they are a mixture."""
        words = {*self.words}
        if len(words) == 1:
            return words.pop()
        return "depends" if words == {"supported", "refuted"} else ""

    @property
    def summary(self) -> str:
        """The word with its symbol, or the number of results that have each word."""
        counts = Counter(self.words)
        mixture = [with_symbol(word, counts[word]) for word in SYMBOLS if word in counts]
        return with_symbol(self.word) if self.word else ", ".join(mixture)

    @property
    def scopes(self) -> str:
        """Where a claim that depends is supported and where refuted."""
        if self.word != "depends":
            return ""
        texts = []
        for word in ("supported", "refuted"):
            results = [r for part in self.judged for r in part.results if r.verdict.word == word]
            where = "; ".join(f"{r.contrast.id} ({r.contrast.scope})" for r in results)
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
    results = results_of([r for r in reports if r.is_planned])
    found: dict[str, list[Statement]] = {claim: [] for claim in claims()}
    for entry in entries().values():
        own = [result for result in results if result.entry == entry]
        found[entry.claim].append(Statement(entry.id, entry.sentence, own, entry))
    return [Statement(claim, claims()[claim], (), parts=found[claim]) for claim in found]


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
    above, below = [Measured(p_text(p), {"": p}) for p in result.p_values] or (None, None)
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
