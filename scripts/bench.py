"""Benchmarks: how exact the layers are and how long they take, beside other libraries.

Examples:
  python scripts/bench.py --suite=numerics                 # prints the tables, about 3 minutes
  python scripts/bench.py --suite=numerics --write         # and writes docs/numerics.md
  python scripts/bench.py --suite=numerics --cases="std 1e" --against=flax,torch
  python scripts/bench.py --suite=layers --sizes=60x100 --schemes=batch,layer --dtypes=float32
  python scripts/bench.py --suite=layers --write           # and its section of docs/benchmarks.md
  python scripts/bench.py --suite=steps --write            # whole training steps, likewise
  python scripts/bench.py --suite=training --write         # populations, beside other loops
  python scripts/bench.py --suite=training --networks=mlp --populations=1,16 --against=flax,torch
  python scripts/bench.py --suite=study --write            # a whole study, about 20 minutes

Without --write only the terminal is written to; with it a selection replaces the whole table.
Libraries that are not installed are left out with a line saying so; --against= (empty) asks for
none. Timings mean something only on a machine that does nothing else.
"""

from __future__ import annotations

import sys

from absl import flags

from normlab.bench import BadSelection
from normlab.lab import cli
from normlab.lab.errors import ConfigError
from normlab.lab.evidence import SetupEvidence
from normlab.lab.study import ROOT, adapt, check_study, load_study
from normlab.settings import Config

SUITES = ("numerics", "layers", "steps", "training", "study")
STUDY, PROFILE = "learning_rate", "quick"
flags.DEFINE_enum("suite", None, SUITES, "What is measured.", required=True)
flags.DEFINE_list("against", None, "Libraries; none given: all that the suite knows.")
flags.DEFINE_list("schemes", [], "Only these schemes (study: arms).")
flags.DEFINE_string("cases", "", "numerics: only cases whose name contains this.")
flags.DEFINE_list("sizes", [], "layers: only these shapes [N, ..., C], like 64x8x8x32.")
flags.DEFINE_list("dtypes", [], "layers: only these, of float32, bfloat16 and float16.")
flags.DEFINE_list("networks", [], "training: only these, of mlp, cnn8, cnn28 and resnet20.")
flags.DEFINE_list("populations", [], "training: runs that train together, like 1,16.")
flags.DEFINE_integer("share", 5, "study: the loops train every so-manieth run.", lower_bound=1)
flags.DEFINE_integer("repeats", None, "Rounds that count; layers, steps: 15, training: 5.", 1)
flags.DEFINE_bool("write", False, "Write the page in docs/ too.")
FLAGS = flags.FLAGS


def repeats(usual: int) -> int:
    return FLAGS.repeats or usual


def tell(line: str) -> None:
    print(line, flush=True)


def keep(section: str) -> None:
    """Write the suite's section of docs/benchmarks.md where --write asks for it."""
    from normlab.bench.page import write_section

    if FLAGS.write:
        write_section(ROOT / "docs" / "benchmarks.md", FLAGS.suite, section)


def numerics() -> None:
    from normlab.bench import numerics
    from normlab.bench.page import write_page

    plan = numerics.plan(FLAGS.schemes, FLAGS.cases, FLAGS.against)
    page = numerics.run(plan, print)
    if FLAGS.write:
        write_page(ROOT / "docs" / "numerics.md", page)


def layers() -> None:
    from normlab.bench import layers

    plan = layers.plan(FLAGS.sizes, FLAGS.dtypes, FLAGS.schemes, FLAGS.against, repeats(15))
    section = layers.run(plan, print)
    keep(section)


def steps() -> None:
    from normlab.bench import steps

    section = steps.run(steps.plan(FLAGS.schemes, repeats(15)), print)
    keep(section)


def training() -> None:
    from normlab.bench import training

    plan = training.plan(FLAGS.networks, FLAGS.populations, FLAGS.against, repeats(5))
    section = training.run(plan, tell)
    keep(section)


def study() -> None:
    from normlab.bench import study

    planned = adapt(load_study(STUDY), arms=tuple(FLAGS.schemes))
    check_study(planned, PROFILE)
    groups: dict[tuple[str, str], list[Config]] = {}
    for setup in planned.setups[PROFILE]:
        for run in SetupEvidence(setup, {}).wanted.values():
            groups.setdefault((run.setup, run.arm), []).append(run.config)
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), f"--study={STUDY}"]
    command += [f"--profile={PROFILE}"]
    command += [f"--arms={','.join(FLAGS.schemes)}"] if FLAGS.schemes else []
    found = [study.Group(*names, configs) for names, configs in groups.items()]
    section = study.run(study.plan(found, command, FLAGS.against, FLAGS.share), tell)
    keep(section)


def main() -> int:
    suites = (numerics, layers, steps, training, study)
    try:
        dict(zip(SUITES, suites, strict=True))[FLAGS.suite]()
    except BadSelection as error:
        raise ConfigError(str(error)) from error
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
