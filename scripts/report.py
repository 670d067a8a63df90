"""Rebuild tables, figures and the page from finished runs; trains nothing and takes seconds.

Examples:
  python scripts/report.py                                  # whatever was started here
  python scripts/report.py --study=convergence,batch_size --profile=standard
  python scripts/report.py --profile=quick,standard         # both on one page
  python scripts/report.py --results=/big/disk/results
  python scripts/report.py --profile=standard --ledger=docs/claims.md    # and the table of claims

Writes report/index.html, report/tables, report/figures and report/runs.csv below --results.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.report.model import StudyReport, collect
from normlab.report.terminal import headline
from normlab.runs.errors import ConfigError, StorageError
from normlab.runs.kept_data import recall_data
from normlab.runs.store import Records, Store
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import started_studies
from normlab.studies.study import PROFILES, Study, load_studies

cli.define_results()
cli.define_paths("study", "Studies by name, or files; none: those that were started here.")
flags.DEFINE_list("profile", [], f"Profiles on the page, of {', '.join(PROFILES)}.")
cli.define_path("ledger", None, "Write the table of all claims to this Markdown file.")
FLAGS = flags.FLAGS


def chosen(store: Store) -> list[tuple[Study, str]]:
    """Return (study, profile) as the flags say; without flags, whatever was started here."""
    for profile in FLAGS.profile:
        if profile not in PROFILES:
            raise ConfigError(f"unknown profile {profile!r} (profiles: {', '.join(PROFILES)})")
    if not FLAGS.study and not FLAGS.profile:
        started = started_studies(store)
        if started:
            return started
    studies = load_studies(FLAGS.study or ["all"])
    return [(study, profile) for profile in FLAGS.profile or ["quick"] for study in studies]


def main() -> int:
    store = Store(FLAGS.results)
    store.check()
    recall_data(store.root)
    wanted = chosen(store)
    records = Records(store)
    if not records:
        raise StorageError(
            f"no finished run in {FLAGS.results!r}; make some with scripts/study.py, or name "
            "another directory with --results=DIR"
        )
    from normlab.report.write import write_report  # matplotlib takes a while

    cache = ConfigCache(needs_data=False)
    reports: list[StudyReport] = []
    for study, profile in wanted:
        reports += collect(store, [study], profile, cache, records)
    page = write_report(store, reports, ledger=Path(FLAGS.ledger) if FLAGS.ledger else None)
    print(headline(reports, page, sys.stdout.isatty()))
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
