"""Check a norm of your own, or one of the table: contract, numerics, gradients, masks and more.

Examples:
  python scripts/check_norm.py docs/examples/my_norm.py
  python scripts/check_norm.py my_norms.py --name=my_norm --checks=masks,gradients
  python scripts/check_norm.py --builtin=batch,layer
  python scripts/check_norm.py --builtin=all

Prints one line for each claim: pass, fail, skip (with the reason) or info, what was measured and
the limit. Exit code 0: all passed; 1: something failed; 2: bad input.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.lookup import local_path
from normlab.norms.outside import add_norms
from normlab.norms.table import NORMS

FAILED = 1
GROUPS = "contract,claims,numerics,gradients,masks,degenerate,usage,devices,cost"
flags.DEFINE_list("name", [], "Only these rows of the file.")
flags.DEFINE_list("builtin", [], "Rows of the table in place of a file, or all.")
flags.DEFINE_list("checks", GROUPS.split(","), "Only these groups of checks.")
FLAGS = flags.FLAGS


def chosen(files: list[str]) -> list[str]:
    """Return the rows to check; raises ValueError."""
    if FLAGS.builtin == ["all"]:
        return list(NORMS)
    names = FLAGS.builtin or add_norms([local_path(file) for file in files])
    picked = FLAGS.builtin or FLAGS.name or names
    for name in picked:
        known = list(NORMS) if FLAGS.builtin else names
        if name not in known:
            raise ValueError(f"there is no norm {name!r} (norms: {', '.join(known)})")
    return picked


def force_devices() -> None:
    """Make 8 devices of the CPU, for the check that several give what one gives."""
    flag = "--xla_force_host_platform_device_count"
    given = os.environ.get("XLA_FLAGS", "")
    if flag not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}=8".strip()


def main(words: list[str]) -> int:
    if len(words) + bool(FLAGS.builtin) != 1:
        raise cli.UsageError("give one file, or --builtin=batch,...; see --help")
    for group in FLAGS.checks:
        if group not in GROUPS.split(","):
            raise cli.UsageError(f"no checks {group!r} (checks: {GROUPS})")
    force_devices()
    try:
        names = chosen(words)
    except ValueError as error:
        if FLAGS.debug:
            raise
        cli.leave(cli.USAGE, "norm", str(error))
    from normlab.testing import check_norm  # imports jax, which reads the flag
    from normlab.testing.result import count, table

    failures = 0
    for name in names:
        start = time.perf_counter()
        results = check_norm(name, checks=FLAGS.checks)
        failures += count(results, "fail")
        print(f"{name} ({NORMS[name].title})\n{table(results)}")
        counts = ", ".join(f"{count(results, s)} {s}" for s in ("pass", "fail", "skip"))
        print(f"{name}: {counts}; {time.perf_counter() - start:.0f} s\n", flush=True)
    return FAILED if failures else cli.OK


if __name__ == "__main__":
    cli.start(main, takes_words=True)
