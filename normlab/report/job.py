"""The report of the studies that a job carried out."""

from __future__ import annotations

from pathlib import Path

from normlab.launch.sweep import Job
from normlab.report.exports import readable
from normlab.report.model import StudyReport, collect
from normlab.report.write import write_report
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import started_studies


def write_job(job: Job) -> tuple[list[StudyReport], Path]:
    """Write the report of a job; return its studies and the page.

    All studies that run as planned share one page. Anything exploratory has its own page, so that
    it cannot replace a verdict.
    """
    cache = ConfigCache(job.data_dir, needs_data=False)
    reports = collect(job.store, list(job.studies), job.profile, cache, job.records)
    if not all(study.is_planned for study in job.studies):
        name = f"report-exploratory/{reports[0].stem}"
        return reports, write_report(job.store, reports, name)
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
