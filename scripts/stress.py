"""Try to lose or corrupt results: kills, crashes, damage, full disks, crowds, malice.

Examples:
  python scripts/stress.py                                   # all campaigns, short: some minutes
  python scripts/stress.py --campaigns=single_runs,study --scale=long
  python scripts/stress.py --scale=long --write              # and docs/reliability.md, an hour
  python scripts/stress.py --campaigns=checkpoints --seed=7  # the same dice as a failure told

Works in a temporary directory (--work=DIR: in that one, and keeps it). Exit code 1: a promise was
broken; the lines below the campaign say which and how to see it again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from normlab import cli
from normlab.launch.progress import clock
from normlab.runs.errors import ConfigError
from normlab.studies.study import ROOT

sys.path.insert(0, str(ROOT / "tests"))  # where `stress` is found
from stress.campaign import CAMPAIGNS, Report, Workspace, find_campaign

flags.DEFINE_list("campaigns", list(CAMPAIGNS), f"Which, of {', '.join(CAMPAIGNS)}.")
flags.DEFINE_enum("scale", "short", ("short", "long"), "How many times.")
flags.DEFINE_integer("seed", 0, "Of the dice.")
flags.DEFINE_string("work", None, "Directory to work in, kept afterwards.")
flags.DEFINE_bool("write", False, "Write the campaigns' sections of docs/reliability.md too.")
FLAGS = flags.FLAGS


def run(name: str, folder: Path) -> Report:
    """Carry out one campaign and print what came of it."""
    began = time.monotonic()
    print(f"{name} ...", flush=True)
    desk = Workspace(
        folder / name, FLAGS.seed, FLAGS.scale == "long", lambda line: print(f"  {line}")
    )
    desk.folder.mkdir(parents=True)
    report = find_campaign(name)(desk)
    word = "kept" if report.has_passed else "BROKEN"
    told = ", ".join(f"{what}: {figure}" for what, figure in report.figures.items())
    print(f"{name}: {word} in {clock(time.monotonic() - began)}; {told}", flush=True)
    for failure in report.failures:
        print(f"  {failure}", flush=True)
    if FLAGS.write:
        keep(name, report)
    return report


def keep(name: str, report: Report) -> None:
    """Write a campaign's section of docs/reliability.md."""
    from stress.page import section

    sys.path.insert(0, str(ROOT))
    from benchmarks.runner import write_section

    text = section(name, report, FLAGS.seed, FLAGS.scale)
    write_section(ROOT / "docs" / "reliability.md", name, text, "stress")


def main() -> int:
    for name in FLAGS.campaigns:
        if name not in CAMPAIGNS:
            raise ConfigError(f"unknown campaign {name!r} (campaigns: {', '.join(CAMPAIGNS)})")
    if FLAGS.work and Path(FLAGS.work).exists() and any(Path(FLAGS.work).iterdir()):
        raise ConfigError(f"work = {FLAGS.work!r} is not empty; give another --work=DIR")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(FLAGS.work or folder)
        reports = [run(name, place) for name in FLAGS.campaigns]
    return cli.OK if all(report.has_passed for report in reports) else 1


if __name__ == "__main__":
    cli.start(main)
