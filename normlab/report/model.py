"""Studies with all that is known of them: runs, verdicts, tables, figures; no markup, no jax.

`collect` reads and judges; `write.py` adds tables and figures; `claims.py` sorts the results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from normlab.report.formatting import command
from normlab.report.provenance import ProvenanceSummary
from normlab.report.tables import Table
from normlab.runs.config import program_id
from normlab.runs.errors import Damaged
from normlab.runs.files import read_json
from normlab.runs.provenance import timing_place
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.studies.decisions import Verdict, decide, holm_pairs, word_of
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.rules import KeptRule
from normlab.studies.study import Study

LONGEST_STEM = 90
"""Characters of a file's name, before its setup and its ending."""


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn."""

    svg: Path
    caption: str
    reading: str
    """What lines, bands and dots are."""


@dataclass(frozen=True)
class StudyReport:
    """One study of one profile with all that is known about it."""

    study: Study
    profile: str
    evidences: Mapping[str, SetupRuns]
    verdicts: Sequence[Verdict]
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Setup -> its table."""
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Setup -> its figures."""
    effects: Picture | None = None
    """The figure of all paired effects."""
    rule: KeptRule | None = None

    @property
    def stem(self) -> str:
        """How the files of this study begin; overrides make a name of their own."""
        variant = "".join(c if c.isalnum() or c in ".=" else "-" for c in self.study.variant)
        stem = "-".join(filter(None, [self.study.name, self.profile, *self.study.norms, variant]))
        if len(stem) <= LONGEST_STEM:
            return stem
        digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
        return f"{stem[: LONGEST_STEM - 9]}-{digest}"

    @property
    def is_planned(self) -> bool:
        """Whether this is the study as its file has it: no overrides, no norms from outside."""
        return not self.study.variant and not self.study.norms

    @property
    def command(self) -> str:
        return command(self.study, self.profile)

    @property
    def provenance(self) -> ProvenanceSummary:
        return ProvenanceSummary(self.evidences.values())

    def pictures_of(self, setup: str) -> Sequence[Picture]:
        """Return the figures of a setup, or that of all effects where it has none."""
        return self.pictures.get(setup) or ([self.effects] if self.effects else [])


def collect(
    store: Store,
    studies: Sequence[Study],
    profile: str,
    cache: ConfigCache | None = None,
    records: Mapping[str, Record] | None = None,
) -> list[StudyReport]:
    """Return the reports of those studies that have the profile; raises StorageError."""
    store.recall_norms()
    cache = cache or ConfigCache()
    found = Records(store) if records is None else records
    reports = []
    for study in studies:
        runs = {s.name: SetupRuns(s, found, cache) for s in study.setups.get(profile, ())}
        if runs:
            add_measurements(store, study, runs)
            verdicts = [explained(v, runs) for v in decide(study.contrasts(runs, profile))]
            reports.append(StudyReport(study, profile, runs, verdicts))
    return judge_overall(reports)


def add_measurements(store: Store, study: Study, setups: Mapping[str, SetupRuns]) -> None:
    """Give the setups what is measured outside of their runs: step times, benchmarks."""
    paths = {name: store.root / "bench" / f"{name}.json" for name in study.benchmarks}
    records = {name: read_json(path) for name, path in paths.items() if path.exists()}
    for runs in setups.values():
        runs.benchmarks = records
        if runs.times_steps:
            add_step_times(store, runs)


def add_step_times(store: Store, runs: SetupRuns) -> None:
    """Give a setup the step times of its arms on the machine that made its runs, if measured."""
    reports = {arm: next(iter(found.values())) for arm, found in runs.reports.items() if found}
    path = store.root / "steptimes.json"
    if not reports or not path.exists():
        return
    origin = next(iter(reports.values())).provenance
    entry = read_json(path).get(timing_place(origin), {})
    if not isinstance(entry, dict) or not all(isinstance(v, (int, float)) for v in entry.values()):
        raise Damaged(path, "no seconds in it")
    programs = {arm: program_id(run.config) for arm, run in reports.items()}
    runs.step_seconds = {arm: entry[name] for arm, name in programs.items() if name in entry}
    runs.timed_on = f"{origin['processor']}, 1 core"


def explained(verdict: Verdict, setups: Mapping[str, SetupRuns]) -> Verdict:
    """Return the verdict, or why a test has no effects although all runs of its setup are done.

    The runs that it needs may follow from a rate that does not exist.
    """
    runs = setups.get(verdict.contrast.setup)
    if verdict.word != "no data" or runs is None or not runs.is_complete:
        return verdict
    missing = [f for f in runs.setup.follows if f.name not in runs.follows]
    rates = {f.rate_of for f in missing if f.rate_of in runs.best}
    note = f"its gate fails: {', '.join(sorted(rates))} reaches the target at no rate"
    return replace(verdict, word="not testable here", notes=(note,)) if rates else verdict


def judge_overall(reports: Sequence[StudyReport]) -> list[StudyReport]:
    """Return the reports with `stands_overall` set: Holm over all decided tests of all of them."""
    decided = [v.contrast for r in reports for v in r.verdicts if v.is_decided]
    tested = [c for c in decided if c.test.has_p]
    adjusted = holm_pairs([c.p_values() for c in tested])
    words = {id(c): word_of(*p) for c, p in zip(tested, adjusted, strict=True)}

    def judged(verdict: Verdict) -> Verdict:
        if verdict.word == "inconclusive" or id(verdict.contrast) not in words:
            return verdict
        return replace(verdict, stands_overall=words[id(verdict.contrast)] == verdict.word)

    return [replace(r, verdicts=[*map(judged, r.verdicts)]) for r in reports]
