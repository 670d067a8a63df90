"""Try to lose or corrupt results: kills, crashes, damage, full disks, untrusted input, clusters.

Examples:
  python scripts/stress.py                                  # all campaigns, short: some minutes
  python scripts/stress.py --campaigns=kills,damage --scale=long
  python scripts/stress.py --campaigns=damage --seed=7      # the same random numbers as a failure

Works in a temporary directory (--work=DIR: in that one, and keeps it). Exit code 1: a promise was
broken. The lines below the campaign say which one, and how to repeat the failure.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.launch.progress import clock
from normlab.runs.errors import ConfigError
from normlab.shipped import ROOT

sys.path.insert(0, str(ROOT / "tests"))  # where `stress` is found
from stress.campaign import CAMPAIGNS, Report, Workspace, find_campaign

flags.DEFINE_list("campaigns", list(CAMPAIGNS), f"Which, of {', '.join(CAMPAIGNS)}.")
flags.DEFINE_enum("scale", "short", ("short", "long"), "How many times.")
flags.DEFINE_integer("seed", 0, "Of the random numbers.")
cli.define_path("work", None, "Directory to work in, kept afterwards.")
FLAGS = flags.FLAGS


def run(name: str, folder: Path) -> Report:
    """Carry out one campaign and print its outcome."""
    began = time.monotonic()
    print(f"{name} ...", flush=True)
    folder.mkdir(parents=True)
    is_long = FLAGS.scale == "long"
    workspace = Workspace(folder, FLAGS.seed, is_long, lambda line: print(f"  {line}"))
    report = find_campaign(name)(workspace)
    word = "skipped" if "not run" in report.figures else "kept"
    word = "BROKEN" if report.failures else word
    figures = ", ".join(f"{figure}: {value}" for figure, value in report.figures.items())
    print(f"{name}: {word} in {clock(time.monotonic() - began)}; {figures}", flush=True)
    print("".join(f"  {failure}\n" for failure in report.failures), end="", flush=True)
    return report


def main() -> int:
    for name in FLAGS.campaigns:
        if name not in CAMPAIGNS:
            raise ConfigError(f"unknown campaign {name!r} (campaigns: {', '.join(CAMPAIGNS)})")
    if FLAGS.work and Path(FLAGS.work).exists() and any(Path(FLAGS.work).iterdir()):
        raise ConfigError(f"work = {FLAGS.work!r} is not empty; give another --work=DIR")
    with tempfile.TemporaryDirectory() as folder:
        reports = [run(name, Path(FLAGS.work or folder, name)) for name in FLAGS.campaigns]
    return 1 if any(report.failures for report in reports) else cli.OK


if __name__ == "__main__":
    cli.start(main)
