"""Examine a results directory and change nothing: what is finished, stopped, failed or damaged.

Examples:
  python scripts/fsck.py
  python scripts/fsck.py --results=/big/disk/results
  python scripts/fsck.py --all                        # every finding, not the first of each kind

Reads every record and every checkpoint once, and may run while studies do. Each finding says what
to do.
Exit codes: 0 nothing is damaged, 1 something is damaged or lost, 2 no results directory.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.runs.fsck import DAMAGE, examine

cli.define_results()
flags.DEFINE_bool("all", False, "Show every finding.")
FLAGS = flags.FLAGS

DAMAGED = 1
SHOWN = 20
"""Findings of one kind that are shown without --all."""
TITLES = {
    "damaged": "Damaged",
    "lost": "Lost",
    "failed": "Runs that failed",
    "stopped": "Populations that stopped and can continue",
}


def main() -> int:
    found = list(examine(FLAGS.results))
    c = Counter(finding.kind for finding in found)
    runs = f"{c['finished'] + c['diverged']:,} finished ({c['diverged']:,} of them diverged)"
    states = (f"{c[state]:,} {state}" for state in ("failed", "half done", "trained now"))
    print(f"runs: {', '.join([runs, *states])}\npopulations: {c['stopped']:,} stopped")
    for kind, title in TITLES.items():
        lines = [f"  {finding.line()}" for finding in found if finding.kind == kind]
        shown = lines if FLAGS.all else lines[:SHOWN]
        more = [f"  ... and {len(lines) - len(shown):,} more: --all shows them"]
        if lines:
            print("\n".join(["", f"{title} ({len(lines):,}):", *shown, *more[: lines != shown]]))
    is_damaged = any(c[kind] for kind in DAMAGE)
    print(f"\n{'something' if is_damaged else 'nothing'} is damaged or lost")
    return DAMAGED if is_damaged else cli.OK


if __name__ == "__main__":
    cli.start(main)
