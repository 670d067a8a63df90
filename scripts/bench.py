"""Benchmarks: how exact the layers are, how long they take, and what the science is checked by.

Examples:
  python scripts/bench.py --suite=numerics                 # prints the tables, about 3 minutes
  python scripts/bench.py --suite=numerics --write         # and writes docs/numerics.md
  python scripts/bench.py --suite=numerics --cases="std 1e" --against=flax,torch
  python scripts/bench.py --suite=layers --sizes=60x100 --schemes=batch,layer --dtypes=float32
  python scripts/bench.py --suite=layers --write           # and its section of docs/benchmarks.md
  python scripts/bench.py --suite=steps --write            # whole training steps, likewise
  python scripts/bench.py --suite=training --write         # populations and other libraries' loops
  python scripts/bench.py --suite=training --networks=mlp --populations=1,16 --against=flax,torch
  python scripts/bench.py --suite=sequences --write        # recurrent networks, one thread each
  python scripts/bench.py --suite=study --write            # a whole study, about 20 minutes
  python scripts/bench.py --suite=scaling --write          # many nodes, simulated, 2 minutes
  python scripts/bench.py --suite=keras_parity --write     # one network and Keras, 3 minutes
  python scripts/bench.py --suite=text_parity --write      # text and PyTorch, 7 minutes
  python scripts/bench.py --suite=theory --write           # exact theory, below a minute
  python scripts/bench.py --suite=leak --write             # norms that see later steps, 4 minutes
  python scripts/bench.py --suite=calibration --write      # of the verdicts, about 16 minutes
  python scripts/bench.py --suite=stability --cases=C8b,C13 --results=DIR  # trains for hours
  python scripts/bench.py --suite=stability --notrain --results=DIR --write  # what is complete

Without --write only the terminal is written to (keras_parity: also RESULTS/bench/tutorial.json,
calibration and stability: the runs that they train). With it a selection replaces the whole section
of the page.
Libraries that are not installed are left out with a line saying so; --against= (empty) asks for
none. Timings mean something only on a machine that does nothing else.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.runs.errors import ConfigError
from normlab.shipped import ROOT

SUITES = {
    "numerics": ("numerics", "numerics"),
    "layers": ("layers", "benchmarks"),
    "steps": ("steps", "benchmarks"),
    "training": ("training", "benchmarks"),
    "sequences": ("sequences", "benchmarks"),
    "study": ("study", "benchmarks"),
    "scaling": ("scaling", "scaling"),
    "keras_parity": ("validation.keras_parity", "benchmarks"),
    "text_parity": ("validation.text_parity", "benchmarks"),
    "theory": ("validation.theory", "theory"),
    "leak": ("validation.leak", "theory"),
    "calibration": ("validation.calibration", "calibration"),
    "stability": ("validation.stability", "calibration"),
}
"""Suite -> its module in benchmarks/, its page in docs/."""
OLD_NAMES = {"tutorial": "keras_parity", "anchors": "theory", "controls": "calibration"}

flags.DEFINE_enum("suite", None, [*SUITES, *OLD_NAMES], "What is measured.", required=True)
flags.DEFINE_list("against", None, "Libraries; none given: all that the suite knows.")
flags.DEFINE_list("schemes", [], "Only these schemes (study: arms).")
flags.DEFINE_string("cases", "", "numerics: a part of the name of cases; stability: contrasts.")
flags.DEFINE_list("sizes", [], "layers: only these shapes [N, ..., C], like 64x8x8x32.")
flags.DEFINE_list("dtypes", [], "layers: only these, of float32, bfloat16 and float16.")
flags.DEFINE_list("networks", [], "training, sequences: only these networks, like mlp.")
flags.DEFINE_list("populations", [], "training: runs that train together, like 1,16.")
flags.DEFINE_integer("share", 5, "study: the loops train one run in this many.", lower_bound=1)
flags.DEFINE_integer("repeats", None, "Rounds; layers, steps: 15, sequences: 7, training: 5.", 1)
cli.define_path("results", "results", "Directory of results; keras_parity, validation.")
flags.DEFINE_bool("train", True, "stability: train the runs that are missing.")
flags.DEFINE_bool("write", False, "Write the page in docs/ too.")
FLAGS = flags.FLAGS


def main() -> int:
    from benchmarks import runner

    asked_suite = str(FLAGS.suite)
    suite = OLD_NAMES.get(asked_suite, asked_suite)
    module, page = SUITES[suite]
    names = ("against", "schemes", "cases", "sizes", "dtypes", "networks", "populations")
    asked: dict[str, Any] = {
        name: FLAGS[name].value for name in (*names, "repeats", "results", "train")
    }
    options = runner.Options(**asked, stride=FLAGS.share)
    try:
        section = importlib.import_module(f"benchmarks.{module}").run(options)
    except runner.BadSelection as error:
        raise ConfigError(str(error)) from error
    if FLAGS.write:
        runner.write_section(ROOT / "docs" / f"{page}.md", suite, section)
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
