"""Examine a results directory and change nothing: what is finished, stopped, damaged or left over.

Examples:
  python scripts/fsck.py
  python scripts/fsck.py --results=/big/disk/results
  python scripts/fsck.py --all                        # every finding, not the first of each kind

Reads every record and every checkpoint once, and may run while studies do. Each finding is told
with what to do.
Exit codes: 0 nothing is damaged, 1 something is damaged or lost, 2 no results directory.
"""

from __future__ import annotations

from absl import flags

from normlab import cli
from normlab.runs.fsck import DAMAGE, Examination

flags.DEFINE_string("results", "results", "Directory of all results.")
flags.DEFINE_bool("all", False, "Show every finding.")
FLAGS = flags.FLAGS

DAMAGED = 1
SHOWN = 20
"""Findings of a kind that are shown without --all."""
TITLES = {
    "damaged": "Damaged",
    "provenance": "Results whose provenance is not complete",
    "misnamed": "Not what their names say",
    "duplicate": "Results of one run in several folders",
    "lost": "Lost",
    "link": "Links that lead out, and what is neither file nor folder",
    "name": "Names that are not allowed",
    "failed": "Runs that failed",
    "stopped": "Populations that stopped and can go on",
    "half": "Runs without a result",
    "leftover": "Leftovers, harmless",
    "kept": "Set aside, harmless",
    "unknown": "Unknown, harmless",
    "note": "Notes",
}


def summary(found: Examination) -> str:
    """Return in three lines what there is."""
    c = found.counts
    bad = {f.path for f in found.findings if f.kind in DAMAGE and f.path.startswith("runs/")}
    waiting = sum(f.kind == "stopped" for f in found.findings)
    states = ("stopped", "failed", "trained now", "never begun")
    runs = [f"{c['finished']:,} finished ({c['diverged']:,} of them diverged)"]
    runs += [f"{len(bad):,} damaged", *(f"{c[state]:,} {state}" for state in states)]
    now = f"{waiting:,} of them stopped, {c['populations trained now']:,} trained now"
    locks = f"{c['locks held']:,} held, {c['locks free']:,} free"
    return f"runs: {', '.join(runs)}\npopulations: {c['populations']:,}, {now}\nlocks: {locks}"


def group(found: Examination, kind: str) -> list[str]:
    """Return the findings of a kind under its title."""
    lines = [f"  {f.path}: {f.told}" for f in found.findings if f.kind == kind]
    kept = lines if FLAGS.all else lines[:SHOWN]
    more = [f"  ... and {len(lines) - len(kept):,} more: --all shows them"]
    return ["", f"{TITLES[kind]} ({len(lines):,}):", *kept, *more[: len(lines) > len(kept)]]


def main() -> int:
    found = Examination(FLAGS.results)
    kinds = {f.kind for f in found.findings}
    lines = [line for kind in TITLES if kind in kinds for line in group(found, kind)]
    end = "nothing is damaged or lost" if found.is_whole else "something is damaged or lost"
    print("\n".join([summary(found), *lines, "", end]))
    return cli.OK if found.is_whole else DAMAGED


if __name__ == "__main__":
    cli.start(main)
