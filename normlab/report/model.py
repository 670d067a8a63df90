"""Studies with all that is known of them: runs, verdicts, tables, figures; no markup, no jax.

`collect` reads and judges; `write.py` adds tables and figures; `claims.py` sorts the results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from normlab.report.formatting import command
from normlab.report.provenance import ProvenanceSummary
from normlab.report.tables import Table
from normlab.runs.kept_rows import recall_rows
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.studies.decisions import Verdict, decide
from normlab.studies.looks import look_at_study
from normlab.studies.measurements import measurements
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.ranking import Ranking, Standing, standings
from normlab.studies.rules import KeptRule
from normlab.studies.study import Study

LONGEST_STEM = 90
"""Characters of a file's name, before its setup and its ending."""
SHOWN = ("machine", "device", "versions", "Python", "git commit", "training version")
"""What the head of a page says of where the runs come from."""


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
        """How the files of this study begin; a changed one has a name of its own."""
        variant = "".join(c if c.isalnum() or c in ".=" else "-" for c in self.study.variant)
        stem = "-".join(filter(None, [self.study.name, self.profile, *self.study.norms, variant]))
        if len(stem) <= LONGEST_STEM:
            return stem
        digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
        return f"{stem[: LONGEST_STEM - 9]}-{digest}"

    @property
    def command(self) -> str:
        return command(self.study, self.profile)

    @property
    def provenance(self) -> ProvenanceSummary:
        return ProvenanceSummary(self.evidences.values())

    @cached_property
    def ranked(self) -> list[tuple[Ranking, SetupRuns, list[Standing]]]:
        """Each ranking of a setup that has runs, with its schemes. A bootstrap takes a second, and
        several parts of a page ask."""
        found = []
        for ranking in self.study.rankings:
            if runs := self.evidences.get(ranking.setup):
                purpose, delta = ranking.purpose, ranking.delta(self.profile)
                schemes = standings(purpose.costs(runs), purpose, delta, purpose.redraws(runs))
                found.append((ranking, runs, schemes))
        return found

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
    recall_rows(store.root)
    cache = cache or ConfigCache()
    found = Records(store) if records is None else records
    reports = []
    for study in studies:
        known = look_at_study(
            study, profile, found, cache, measurements(store, study), with_averages=True
        )
        if known.setups:
            verdicts = [decide(path) for path in known.paths]
            reports.append(StudyReport(study, profile, known.setups, verdicts))
    return reports


def provenance(reports: Sequence[StudyReport]) -> list[tuple[str, str]]:
    """Return where the runs of all reports come from, as (what, which)."""
    origin = ProvenanceSummary(s for r in reports for s in r.evidences.values())
    count = f"{origin.runs} finished of at least {origin.wanted} planned; {origin.failures}"
    changed = sorted(r.stem for r in reports if r.rule and r.rule.changes)
    facts = [
        ("profile", ", ".join(dict.fromkeys(r.profile for r in reports)) or "none"),
        ("runs", count + (f"; {origin.stale} by another training version" if origin.stale else "")),
        ("newest run", origin.newest or "none"),
        *((name, text) for name, text in origin.facts.items() if name in SHOWN),
        ("rule changed after the first run", ", ".join(changed)),
    ]
    return [(name, text) for name, text in facts if text]
