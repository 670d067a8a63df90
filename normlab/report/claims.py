"""Claims with the results that test them: the sentences of the studies, and those of the literature
in its order."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from normlab.report.formatting import SYMBOLS, command, is_final, n_text, notes_of, with_symbol
from normlab.report.model import StudyReport
from normlab.report.numbers import effect_text, raw_text
from normlab.report.tables import Measured, Table
from normlab.studies.decisions import (
    Contrast,
    Look,
    Verdict,
    corrected_confidence,
    look_at,
    stays,
)
from normlab.studies.intervals import CONFIDENCE, MAX_ERROR, Estimate
from normlab.studies.literature import Entry, claims, entries, entry_of


@dataclass(frozen=True)
class Result:
    """One verdict, with the study that it belongs to."""

    report: StudyReport
    verdict: Verdict

    @property
    def contrast(self) -> Contrast:
        return self.verdict.contrast

    @property
    def is_measured(self) -> bool:
        return not math.isnan(self.verdict.estimate.centre)

    def effect_at(self, found: Estimate) -> str:
        """Return an effect with its interval, as a reader sees it."""
        contrast = self.contrast
        at_least = "≥ " if contrast.is_lower_bound and not math.isnan(found.centre) else ""
        return at_least + effect_text(contrast.unit, self._values(found), contrast.sesoi)

    def _values(self, found: Estimate) -> tuple[float, ...]:
        """Return the centre and its interval, which a largest value has not."""
        interval = () if self.contrast.estimator == MAX_ERROR else found.interval
        return (found.centre, *interval)

    @property
    def effect(self) -> str:
        return self.effect_at(self.verdict.estimate)

    @property
    def sesoi(self) -> str:
        """The smallest effect of interest."""
        return self.contrast.unit.sesoi_text(self.contrast.sesoi)

    @property
    def asked(self) -> str:
        """What the effect is compared with, in short."""
        is_difference = self.contrast.estimator.is_difference
        return f"{'delta' if is_difference else 'limit'} {self.sesoi}"

    @property
    def word(self) -> str:
        """The verdict's word with its symbol and its notes."""
        verdict, planned = self.verdict, " to ".join(map(str, self.ends))
        notes = notes_of(verdict)
        if verdict.word == "exploratory":
            notes = [f"n differs ({verdict.n}, planned {planned})"]
        return ", ".join([with_symbol(verdict.word), *notes])

    @property
    def ends(self) -> Sequence[int]:
        """The first and the last of the planned numbers of seeds, once if they are equal."""
        looks = self.contrast.looks
        return looks if len(looks) == 1 else (looks[0], looks[-1])

    @property
    def n(self) -> str:
        return n_text(self.verdict)

    @property
    def path(self) -> str:
        """What each look said, where there was more than one."""
        looks = self.verdict.path
        steps = (f"n = {look.n}: {look.word}, {self.effect_at(look.estimate)}" for look in looks)
        return "; ".join(steps) if len(looks) > 1 else ""

    @property
    def next(self) -> str:
        """What is left to do by the rule."""
        verdict, looks = self.verdict, self.contrast.looks
        if verdict.is_decided and not is_final(verdict):
            following = next(n for n in looks if n > verdict.n)
            return f"the rule continues to n = {following}, and those runs are not done"
        if verdict.word == "open":
            return f"open at its cap: the rule plans no more than n = {looks[-1]}"
        return ""

    @property
    def averages(self) -> Look | None:
        """What it says with Flax's default running averages; None where runs are missing."""
        contrast = self.contrast.averages
        return look_at(contrast)[0] if contrast and len(contrast.effects) > 1 else None

    @property
    def averages_text(self) -> str:
        """The same in words, with its word where that differs from the row's.

        Empty where no arm keeps running averages, or where the row itself has no effect.
        """
        contrast, look, verdict = self.contrast.averages, self.averages, self.verdict
        if not contrast or not self.is_measured:
            return ""
        if not look:
            return "not measured" if contrast.not_measured else "not run"
        other = replace(self, verdict=replace(verdict, contrast=contrast))
        differs = verdict.is_decided and look.word != verdict.word
        word = f"; the word would be {look.word}" if differs else ""
        return f"{other.effect_at(look.estimate)}, n = {look.n}{word}"

    @property
    def again(self) -> str:
        """How often other seeds would give the same word; empty where nothing is decided."""
        share = self.verdict.replication
        return "" if math.isnan(share) else f"in {100 * share:.0f} % of the resamples of its seeds"

    @property
    def command(self) -> str:
        """The command line that repeats the study."""
        return command(self.report.study, self.report.profile)

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
    def facts(self) -> list[tuple[str, str]]:
        """How it was decided, as (name, text)."""
        verdict, contrast = self.verdict, self.contrast
        found, estimator, effect = verdict.estimate, contrast.estimator, ""
        method = f"{estimator.label}, {100 * CONFIDENCE:.0f} %"
        if self.is_measured and contrast.unit.base:
            effect = raw_text(contrast.unit, self._values(found), contrast.sesoi)
        cut_off = "≥: some runs or grids ended first, so the effect is at least as large"
        is_missed = contrast.not_measured and not contrast.unmet
        missed = f"in {contrast.not_measured} seeds, which are left out" if is_missed else ""
        grows = ", until the word is clear" if len(contrast.looks) > 1 else ""
        facts = [
            ("Test", f"{contrast.id}, profile {self.report.profile}"),
            ("Method", estimator.label if estimator == MAX_ERROR else method),
            (estimator.sesoi_label, self.sesoi),
            ("Effect as a logarithm", effect),
            ("Lower bound", cut_off if contrast.is_lower_bound and self.is_measured else ""),
            ("Planned n", " → ".join(map(str, contrast.looks)) + grows),
            ("On the way", self.path),
            ("Next", self.next),
            ("Comparison", contrast.comparison),
            ("The same word again", self.again),
            ("Neither arm got there", missed),
            ("Remark", contrast.remark),
            *(("Note", note) for note in verdict.notes),
        ]
        return [(name, text) for name, text in facts if text]


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
    def judged(self) -> list[Statement]:
        """What decides the verdict: the parts that are not apart, or the statement itself."""
        return [p for p in self.parts if p.entry and not p.entry.apart] or [self]

    @property
    def words(self) -> list[str]:
        results = [[r.verdict.word for r in s.results] or ["not run"] for s in self.judged]
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
    results = results_of([r for r in reports if r.study.is_planned])
    found: dict[str, list[Statement]] = {claim: [] for claim in claims()}
    for entry in entries().values():
        own = [result for result in results if result.entry == entry]
        found[entry.claim].append(Statement(entry.id, entry.sentence, own, entry))
    return [Statement(claim, claims()[claim], (), parts=found[claim]) for claim in found]


VERDICT_NOTE = (
    "Effect and 99 % interval decide. Refuted: the interval lies below delta. Supported: it lies "
    "above 0, and the effect is at least delta. Open: neither. Path: the word at each n. Final: "
    "whether the rule asks for no more seeds. Replication: how often the seeds, drawn again, "
    "give the same word. The CSV has effect, interval and delta in the unit named."
)


def correction(results: Sequence[Result]) -> str:
    """Return which words would be open with a Bonferroni correction over all that are decided."""
    tests = [result for result in results if result.verdict.is_decided]
    if not tests:
        return ""
    names = [
        f"{r.contrast.id} ({r.report.profile})" for r in tests if not stays(r.verdict, len(tests))
    ]
    confidence = f"{100 * corrected_confidence(len(tests)):.5g} %"
    then = f"these would be open: {', '.join(names)}" if names else "every word stays"
    return f"With a Bonferroni correction over {len(tests)} words ({confidence} intervals) {then}."


def verdict_table(reports: Sequence[StudyReport]) -> Table:
    """Return one line for each verdict; its numbers have columns of their own in CSV."""
    lines = [_verdict_line(result) for result in results_of(reports)]
    columns = dict.fromkeys(name for line in lines for name in line)
    return Table("Verdicts", [*columns], [[*line.values()] for line in lines], VERDICT_NOTE)


def numbers_of(found: Estimate) -> dict[str, float]:
    return {"": found.centre, "low": found.low, "high": found.high}


def _verdict_line(result: Result) -> dict:
    verdict, contrast, look = result.verdict, result.contrast, result.averages
    averages = numbers_of(look.estimate) | {"n": look.n} if look else {}
    again = verdict.replication
    return {
        "test": contrast.id,
        "sentence": contrast.sentence,
        "net, data": contrast.scope,
        "profile": result.report.profile,
        "comparison": contrast.comparison,
        "effect": Measured(result.effect, numbers_of(verdict.estimate)),
        "unit": contrast.unit.name,
        "delta": Measured(result.sesoi, {"": contrast.sesoi}),
        "n": verdict.n,
        "planned n": ", ".join(map(str, contrast.looks)),
        "path": ", ".join(f"{look.n} {look.word}" for look in verdict.path),
        "verdict": verdict.word,
        "qualifier": verdict.qualifier,
        "final": ("yes" if is_final(verdict) else "no") if verdict.is_decided else "",
        "replication": None if math.isnan(again) else Measured(f"{again:.2f}", {"": again}),
        "lower bound": "yes" if contrast.is_lower_bound else "",
        "with Flax's default": Measured(result.averages_text, averages),
        "word with it": look.word if look else "",
    }
