"""Benchmarks: how exact the layers are and how long they take, beside other libraries.

Examples:
  python scripts/bench.py --suite=numerics                 # prints the tables, about 3 minutes
  python scripts/bench.py --suite=numerics --write         # and writes docs/numerics.md
  python scripts/bench.py --suite=numerics --cases="std 1e" --against=flax,torch
  python scripts/bench.py --suite=layers --sizes=60x100 --schemes=batch,layer --dtypes=float32
  python scripts/bench.py --suite=layers --write           # and its section of docs/benchmarks.md
  python scripts/bench.py --suite=steps --write            # whole training steps, likewise

Without --write only the terminal is written to; with it a selection replaces the whole table.
Libraries that are not installed are left out with a line saying so; --against= (empty) asks for
none. Timings mean something only on a machine that does nothing else.
"""

from __future__ import annotations

from absl import flags

from normlab.bench import BadSelection
from normlab.lab import cli
from normlab.lab.config import ConfigError
from normlab.lab.study import ROOT

SUITES = ("numerics", "layers", "steps")
flags.DEFINE_enum("suite", None, SUITES, "What is measured.", required=True)
flags.DEFINE_list("against", None, "Libraries; none given: all that the suite knows.")
flags.DEFINE_list("schemes", [], "Only these schemes.")
flags.DEFINE_string("cases", "", "numerics: only cases whose name contains this.")
flags.DEFINE_list("sizes", [], "layers: only these shapes [N, ..., C], like 64x8x8x32.")
flags.DEFINE_list("dtypes", [], "layers: only these, of float32, bfloat16 and float16.")
flags.DEFINE_integer("repeats", 15, "layers, steps: rounds that count.", lower_bound=1)
flags.DEFINE_bool("write", False, "Write the page in docs/ too.")
FLAGS = flags.FLAGS


def numerics() -> None:
    from normlab.bench import numerics
    from normlab.bench.page import write_page

    plan = numerics.plan(FLAGS.schemes, FLAGS.cases, FLAGS.against)
    page = numerics.run(plan, print)
    if FLAGS.write:
        write_page(ROOT / "docs" / "numerics.md", page)


def layers() -> None:
    from normlab.bench import layers
    from normlab.bench.page import write_section

    plan = layers.plan(FLAGS.sizes, FLAGS.dtypes, FLAGS.schemes, FLAGS.against, FLAGS.repeats)
    section = layers.run(plan, print)
    if FLAGS.write:
        write_section(ROOT / "docs" / "benchmarks.md", "layers", section)


def steps() -> None:
    from normlab.bench import steps
    from normlab.bench.page import write_section

    section = steps.run(steps.plan(FLAGS.schemes, FLAGS.repeats), print)
    if FLAGS.write:
        write_section(ROOT / "docs" / "benchmarks.md", "steps", section)


def main() -> int:
    try:
        {"numerics": numerics, "layers": layers, "steps": steps}[FLAGS.suite]()
    except BadSelection as error:
        raise ConfigError(str(error)) from error
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
