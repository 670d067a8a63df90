"""Rebuild tables, figures and the page from finished runs; trains nothing, takes seconds.

Examples:
  python scripts/report.py                                  # every study, profile quick
  python scripts/report.py --study=convergence,batch_size --profile=standard
  python scripts/report.py --profile=quick,standard         # both on one page
  python scripts/report.py --results=/big/disk/results

Writes report/index.html, report/tables, report/figures and report/runs.csv below --results.
"""

from __future__ import annotations

from absl import flags

from normlab.lab import cli
from normlab.lab.config import ConfigError
from normlab.lab.evidence import Memory
from normlab.lab.report import StudyReport, collect, headline, judge_overall, write_report
from normlab.lab.store import Records, StorageError, Store
from normlab.lab.study import PROFILES, load_study, study_names

flags.DEFINE_string("results", "results", "Directory of all results.")
flags.DEFINE_list("study", ["all"], "Studies by name, or files; 'all' for every one.")
flags.DEFINE_list("profile", ["quick"], f"Profiles on the page, of {', '.join(PROFILES)}.")
FLAGS = flags.FLAGS


def chosen_names() -> list[str]:
    """Return the studies that the flags name; raises ConfigError where the flags mean nothing."""
    if not FLAGS.study or not FLAGS.profile:
        raise ConfigError("--study and --profile need at least one name each")
    for profile in FLAGS.profile:
        if profile not in PROFILES:
            raise ConfigError(f"unknown profile {profile!r} (profiles: {', '.join(PROFILES)})")
    return study_names() if "all" in FLAGS.study else FLAGS.study


def main() -> int:
    studies = [load_study(name) for name in chosen_names()]
    store = Store(FLAGS.results)
    records = Records(store)
    if not records:
        raise StorageError(
            f"no finished run in {FLAGS.results!r}; make some with scripts/study.py, or name "
            "another directory with --results=DIR"
        )
    memory = Memory(needs_data=False)
    reports: list[StudyReport] = []
    for profile in FLAGS.profile:
        reports += collect(store, studies, profile, memory, records)
    reports = judge_overall(reports)
    print(headline(reports, write_report(store, reports)))
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
