"""Rebuild tables, figures and the page from finished runs; trains nothing and takes seconds.

Examples:
  python scripts/report.py                                  # whatever was started here
  python scripts/report.py --study=convergence,batch_size --profile=standard
  python scripts/report.py --study=docs/examples/my_study.py    # a study of your own
  python scripts/report.py --profile=quick,standard         # both on one page
  python scripts/report.py --results=/their/results --out=page    # writes nothing in the results
  python scripts/report.py --profile=standard --ledger=docs/claims.md    # and the table of claims

Writes index.html, tables, figures, runs.csv and curves.csv in report below --results, or in --out.
runs.csv has every finished run and curves.csv every evaluation, those of scripts/train.py included.
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
from normlab.runs.files import make_folder, write_atomic
from normlab.runs.kept_data import recall_data
from normlab.runs.kept_rows import recall_rows
from normlab.runs.store import Records, Store
from normlab.studies.planning import ConfigCache
from normlab.studies.rules import started_studies
from normlab.studies.study import PROFILES, Study, load_studies

cli.define_results()
cli.define_paths("study", "Studies by name, or files; none: those that were started here.")
flags.DEFINE_list("profile", [], f"Profiles on the page, of {', '.join(PROFILES)}.")
cli.define_path("ledger", None, "Write the table of all claims to this Markdown file.")
cli.define_path("out", None, "Write the page into this folder, and nothing in the results.")
FLAGS = flags.FLAGS


def chosen(store: Store) -> list[tuple[Study, str]]:
    """Return (study, profile) as the flags say; without flags, whatever was started here."""
    for profile in FLAGS.profile:
        if profile not in PROFILES:
            raise ConfigError(f"unknown profile {profile!r} (profiles: {', '.join(PROFILES)})")
    if not FLAGS.study and not FLAGS.profile:
        started, left_out = started_studies(store)
        for line in left_out.values():
            cli.warn(line)
        if started or left_out:
            return started
    studies = load_studies(FLAGS.study or ["all"])
    return [(study, profile) for profile in FLAGS.profile or ["quick"] for study in studies]


def main() -> int:
    store, out = Store(FLAGS.results), Path(FLAGS.out) if FLAGS.out else None
    store.check(is_written=not out)
    recall_data(store.root)
    recall_rows(store.root)
    wanted = chosen(store)
    records = Records(store)
    if not records:
        raise StorageError(
            f"no finished run in {FLAGS.results!r}; make some with scripts/study.py, or name "
            "another directory with --results=DIR"
        )
    from normlab.report.exports import no_longer_there, readable, runs_csv, write_curves
    from normlab.report.job import write_variants
    from normlab.report.write import write_report  # matplotlib takes a while

    cache = ConfigCache(needs_data=False)
    reports: list[StudyReport] = []
    for study, profile in wanted:
        reports += collect(store, [study], profile, cache, records)
    if not FLAGS.study:
        reports = [report for report in reports if report.provenance.runs]
    runs, folder = [*readable(records)], out or store.root / "report"
    if reports:
        for stem in no_longer_there(folder, reports):
            cli.warn(f"the page no longer has {stem!r:.200}")
        ledger = Path(FLAGS.ledger) if FLAGS.ledger else None
        page = write_report(store, reports, ledger=ledger, out=out, others=runs)
        print(headline(reports, page, sys.stdout.isatty()))
    elif (folder / "index.html").exists():
        cli.warn(f"no run is of a study that is known here; the page in {str(folder)!r} stays")
    else:
        cli.warn("no run is of a study that is known here, so there are tables, but no page")
        make_folder(folder)
        write_atomic(folder / "runs.csv", runs_csv([], runs))
        print(f"runs: {folder / 'runs.csv'}")
    print(f"curves: {write_curves(folder, runs)}")
    if not FLAGS.study and not FLAGS.profile and not out:
        for page in write_variants(store, records, cache, cli.warn):
            print(f"page: {page}")
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
