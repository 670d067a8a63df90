"""The report of the studies that a job carried out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from normlab.launch.sweep import Job
from normlab.report.exports import readable
from normlab.report.model import StudyReport, collect
from normlab.report.write import write_report
from normlab.runs.errors import LabError
from normlab.runs.files import read_json, write_json
from normlab.runs.store import Records, Store
from normlab.settings import from_json
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import load_started, place_of, started_studies
from normlab.studies.study import adapt

VARIANT = "variant.json"
"""What the command of an exploratory page changed."""


def write_job(job: Job) -> tuple[list[StudyReport], Path]:
    """Write the report of a job; return its studies and the page.

    All studies that run as planned share one page. Anything exploratory has its own page, so that
    it cannot replace a verdict.
    """
    cache = ConfigCache(job.data_dir, needs_data=False)
    reports = collect(job.store, list(job.studies), job.profile, cache, job.records)
    if not job.is_planned:
        name = f"report-exploratory/{reports[0].stem}"
        page = write_report(job.store, reports, name)
        facts = [{**place_of(study), **study.options} for study in job.studies]
        write_json(page.with_name(VARIANT), {"profile": job.profile, "studies": facts})
        return reports, page
    others: list[StudyReport] = []
    shown = {(r.study.name, r.profile) for r in reports}
    started, left_out = started_studies(job.store)
    for study, profile in started:
        if (study.name, profile) not in shown:
            others += collect(job.store, [study], profile, cache, job.records)
    for stem in left_out.keys() - {r.stem for r in reports}:
        job.warn(left_out[stem])
    page = write_report(job.store, [*reports, *others], others=readable(job.records))
    return reports, page


def write_variants(
    store: Store, records: Records, cache: ConfigCache, warn: Callable[[str], None]
) -> list[Path]:
    """Write the exploratory pages of a results directory again; return them. A line of warning for
    each that cannot be."""
    pages: list[Path] = []
    for path in sorted(store.root.glob(f"report-exploratory/*/{VARIANT}")):
        name = path.parent.name
        try:
            kept, reports = read_json(path), []
            for facts in kept["studies"]:
                options: dict[str, Any] = {"overrides": from_json(dict(facts["overrides"]))}
                options |= {"seeds": facts["seeds"], "norms": facts["norms"]}
                study = adapt(load_started(store, facts), arms=tuple(facts["arms"]), **options)
                reports += collect(store, [study], kept["profile"], cache, records)
            if reports:
                pages.append(write_report(store, reports, f"report-exploratory/{name}"))
        except (LabError, KeyError, TypeError, ValueError, AttributeError) as error:
            warn(f"the exploratory page {name!r:.200} stays as it is: {error}")
    return pages
