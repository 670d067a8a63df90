"""The ledger: every row of the rule book, with its verdict and what the literature measured."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from normlab.report.figures.forest import EFFECTS
from normlab.report.formatting import INFINITE, SYMBOLS
from normlab.report.reproducibility import runs_of, summarize_provenance
from normlab.report.summary import RowView, joint_word, row_view
from normlab.report.tables import markdown_text
from normlab.runs.errors import StorageError
from normlab.runs.files import write_atomic
from normlab.studies.literature import Entry, claims, entries, entry_of
from normlab.studies.study import ROOT, Study

if TYPE_CHECKING:
    from normlab.report.report import StudyReport

Drawn = Mapping[tuple[str, int], Path]
"""(stem of a report, place in its study's figures) -> SVG."""
TOLD = ("machine", "device", "versions", "Python", "git commit", "training version")
"""What the head says of where the runs come from, of the facts of an Origin."""
HOW_TO_READ = (
    "An effect above 0, or a factor above 1×, speaks for the sentence, a share of failed runs "
    "against it; brackets hold intervals; n counts pairs of runs, or runs where a share is "
    "measured. Refuted: an effect as large as the smallest of interest is ruled out. "
    "Supported: an effect of 0 or less is ruled out. Not testable here: a row it rests on failed."
)


@dataclass(frozen=True)
class LedgerRow:
    """A row of the rule book with its verdicts, none where no study gave one."""

    entry: Entry
    views: list[RowView]

    @property
    def words(self) -> list[str]:
        return [view.verdict.word for view in self.views] or [self.missing[0]]

    def sentence(self, place: int) -> str:
        """Return what the verdict at a place of `views` tests: the entry's sentence the first time,
        the study's own for each where a study has several for this entry."""
        own = [view.verdict.contrast.sentence for view in self.views]
        return own[place] if len(set(own)) > 1 else "" if place else self.entry.sentence

    @property
    def missing(self) -> tuple[str, str]:
        """The word and the reason of a row that has no verdict."""
        if self.entry.absent:
            return "not decided", self.entry.absent
        return "no data", "no study shown here tests it"


@dataclass(frozen=True)
class LedgerClaim:
    """A claim with all of its rows."""

    claim: str
    sentence: str
    rows: list[LedgerRow]

    @property
    def word(self) -> str:
        """The joint word of the rows that take part in it, or how many rows have which."""
        words = [word for row in self.rows if not row.entry.apart for word in row.words]
        joint = joint_word(words)
        if joint:
            return with_symbol(joint)
        return ", ".join(
            f"{with_symbol(word, words.count(word))}" for word in SYMBOLS if word in words
        )

    @property
    def scopes(self) -> str:
        """Where a claim that depends was supported and where refuted."""
        views = [v for row in self.rows if not row.entry.apart for v in row.views]
        if joint_word(v.verdict.word for v in views) != "depends":
            return ""
        told = {
            word: "; ".join(
                f"{v.verdict.contrast.id} ({v.verdict.contrast.scope})"
                for v in views
                if v.verdict.word == word
            )
            for word in ("supported", "refuted")
        }
        return ". ".join(f"{word.capitalize()}: {where}" for word, where in told.items()) + "."


def with_symbol(word: str, count: int = 0) -> str:
    return " ".join([SYMBOLS[word], *([str(count)] if count else []), word])


def ledger(reports: Sequence[StudyReport]) -> list[LedgerClaim]:
    """Return every claim with every row of the rule book, in their order. Variants of a study and
    studies with norms from outside are other questions and left out."""
    views: dict[str, list[RowView]] = {name: [] for name in entries()}
    for report in planned(reports):
        for verdict in report.verdicts:
            entry = entry_of(verdict.contrast.id)
            if entry:
                views[entry.id].append(row_view(report, verdict))
    rows = [LedgerRow(entry, views[name]) for name, entry in entries().items()]
    return [
        LedgerClaim(c, told, [r for r in rows if r.entry.claim == c])
        for c, told in claims().items()
    ]


def planned(reports: Sequence[StudyReport]) -> list[StudyReport]:
    return [r for r in reports if not r.study.variant and not r.study.norms]


def cited(text: str) -> str:
    """Return text with its papers as links.

    >>> cited("see arXiv:1502.03167")
    'see [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)'
    """
    link = r"[\g<0>](https://arxiv.org/abs/\1)"
    return re.sub(r"arXiv:(\d{4}\.\d{5})", link, markdown_text(text))


def provenance(reports: Sequence[StudyReport]) -> list[tuple[str, str]]:
    """Return where the runs of all reports come from, as (what, which)."""
    evidences = {f"{r.stem}/{name}": e for r in reports for name, e in r.evidences.items()}
    origin, runs = summarize_provenance(evidences), runs_of(evidences)
    newest = max((str(run.provenance.get("ended", "")) for run in runs), default="")
    count = f"{origin.runs} finished of at least {origin.wanted} planned; {origin.failed} failed"
    facts = [
        ("profile", ", ".join(dict.fromkeys(r.profile for r in reports)) or "none"),
        ("runs", count + (f"; {origin.stale} by another training version" if origin.stale else "")),
        ("newest run", newest[:10] or "none"),
    ]
    return facts + [(name, text) for name, text in origin.facts if name in TOLD]


def markdown(
    reports: Sequence[StudyReport], figures: Drawn, folder: Path, changed: Sequence[str] = ()
) -> str:
    """Return the ledger as a page in Markdown that lies in `folder`; `figures` lie there too.
    `changed`: studies whose rule is another one than before their first run."""
    reports, told = planned(reports), ledger(reports)
    lines = ["# Claims and verdicts", "", HOW_TO_READ, ""]
    lines += [f"- {name}: {markdown_text(text)}" for name, text in provenance(reports)]
    if changed:
        lines.append(f"- rule changed after the first run: {markdown_text(', '.join(changed))}")
    lines += ["", "| claim | | verdict |", "| --- | --- | --- |"]
    lines += [f"| {c.claim} | {markdown_text(c.sentence)} | {c.word} |" for c in told]
    pictures = Pictures(reports, figures, folder)
    for claim in told:
        lines += ["", f"## {claim.claim}. {markdown_text(claim.sentence)}: {claim.word}"]
        if claim.scopes:
            lines += ["", markdown_text(claim.scopes)]
        for row in claim.rows:
            lines += ["", *row_lines(row, pictures)]
    return "\n".join(lines) + "\n"


def row_lines(row: LedgerRow, pictures: Pictures) -> list[str]:
    entry = row.entry
    apart = " (not a part of the claim's verdict)" if entry.apart else ""
    lines = [f"### {entry.id}. {markdown_text(entry.sentence)}{apart}", ""]
    if not row.views:
        word, reason = row.missing
        lines.append(f"- **{with_symbol(word)}**: {markdown_text(reason)}")
    for i, view in enumerate(row.views):
        own = row.sentence(i)
        lines += view_lines(view, own if own != entry.sentence else "", pictures)
    lines += [f"- claimed by: {cited(entry.who)}", f"- literature: {cited(entry.measured)}"]
    shown = [p for view in row.views for p in pictures.of(view)]
    return lines + [line for p in dict.fromkeys(shown) for line in pictures.show(p)]


def view_lines(view: RowView, sentence: str, pictures: Pictures) -> list[str]:
    """Return what one verdict says: its word, the effect, where, and why it can be doubted."""
    verdict = view.verdict
    told = [f"{view.effect}, n = {view.n}"] if verdict.coverage else []
    told += verdict.notes if verdict.word == "not testable here" else []
    head = f"- **{markdown_text(view.word)}**: {markdown_text('; '.join(told) or f'n = {view.n}')}"
    tested = f"{sentence}; {where(view)}" if sentence else where(view)
    lines = [head, f"  - {markdown_text(tested)} (study {pictures.study_link(view)})"]
    if verdict.contrast.remark and verdict.coverage:
        lines.append(f"  - {markdown_text(verdict.contrast.remark)}")
    if math.isinf(verdict.effect):
        lines.append(f"  - infinite: {INFINITE}")
    if view.disagreement:
        lines.append(f"  - **disagrees with the literature**: {markdown_text(view.disagreement)}")
    return lines


def where(view: RowView) -> str:
    row = view.verdict.contrast
    return f"{row.id}, {row.scope}, profile {view.profile}: {row.comparison}"


class Pictures:
    """Studies and figures as links from one folder; a figure is shown once."""

    def __init__(self, reports: Sequence[StudyReport], figures: Drawn, folder: Path):
        self.studies = {r.stem: r.study for r in reports}
        self.figures, self.folder = figures, folder
        self.seen: set[Path] = set()

    def of(self, view: RowView) -> list[tuple[Path, str]]:
        """Return (file, caption) of the figures of a row's setup; without any, that of the effects
        of its study."""
        listed = enumerate(self.studies[view.anchor].figures)
        keys = [(view.anchor, i, f) for i, f in listed if f.setup == view.verdict.contrast.setup]
        own = [(self.figures[k, i], f.caption) for k, i, f in keys if (k, i) in self.figures]
        effects = self.figures.get((view.anchor, EFFECTS))
        return own or ([(effects, "The effect of every seed")] if effects else [])

    def show(self, figure: tuple[Path, str]) -> list[str]:
        """Return the figure in line, or a link to it where it stands further up already."""
        path, caption = figure
        place = quote(path.relative_to(self.folder).as_posix())
        if path in self.seen:
            return [f"- figure, shown above: [{markdown_text(caption)}]({place})"]
        self.seen.add(path)
        return ["", f"![{markdown_text(caption)}]({place})"]

    def study_link(self, view: RowView) -> str:
        """Return the study's name, as a link where the page lies in the same repository."""
        study = self.studies[view.anchor]
        name, file = markdown_text(study.name), study_file(study)
        if not file.is_file() or not self.folder.resolve().is_relative_to(ROOT):
            return name
        return f"[{name}]({quote(os.path.relpath(file, self.folder.resolve()))})"


def study_file(study: Study) -> Path:
    return ROOT / "experiments" / f"{study.name}.py"


def write_ledger(
    path: Path, reports: Sequence[StudyReport], figures: Drawn, changed: Sequence[str] = ()
) -> None:
    """Write the ledger to `path`, and the figures that its rows name into the folder beside it
    that is called as it is; raises StorageError."""
    if path.suffix != ".md":
        raise StorageError(f"the ledger {str(path)!r} is a Markdown file; give it the ending .md")
    copied = {key: path.with_suffix("") / svg.name for key, svg in figures.items()}
    pictures = Pictures(planned(reports), copied, path.parent)
    views = [v for claim in ledger(reports) for row in claim.rows for v in row.views]
    named = {copy for view in views for copy, _ in pictures.of(view)}
    folder = path.with_suffix("") if named else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {str(folder)!r} ({error.strerror}); name another --ledger"
        ) from error
    for key, copy in copied.items():
        if copy in named:
            write_atomic(copy, figures[key].read_bytes())
    write_atomic(path, markdown(reports, copied, path.parent, changed))


def short_form(reports: Sequence[StudyReport]) -> str:
    """Return one line a verdict as a table in Markdown: row, sentence, verdict, effect."""
    profiles = {report.profile for report in planned(reports)}
    lines = ["| row | sentence | verdict | effect |", "| --- | --- | --- | --- |"]
    for row in (row for claim in ledger(reports) for row in claim.rows):
        if not row.views:
            word, reason = row.missing
            lines.append(
                f"| {row.entry.id} | {markdown_text(row.entry.sentence)} | {with_symbol(word)} | "
                f"{markdown_text(reason)} |"
            )
        for i, view in enumerate(row.views):
            verdict = view.verdict
            place = f"({verdict.contrast.scope}{f', {view.profile}' if len(profiles) > 1 else ''})"
            sentence = f"{row.sentence(i)} {place}"
            cells = [
                verdict.contrast.id,
                sentence,
                view.word,
                view.effect if verdict.coverage else "",
            ]
            lines.append("| " + " | ".join(map(markdown_text, cells)) + " |")
    return "\n".join(lines) + "\n"
