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
  python scripts/bench.py --suite=tutorial --write         # one network beside Keras, 2 minutes
  python scripts/bench.py --suite=anchors --write          # exact theory, below a minute
  python scripts/bench.py --suite=controls --write         # of the verdicts, about 5 minutes

Without --write only the terminal is written to (tutorial: also RESULTS/bench/tutorial.json,
controls: the runs that it trains); with it a selection replaces the whole table.
Libraries that are not installed are left out with a line saying so; --against= (empty) asks for
none. Timings mean something only on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from normlab import cli, data
from normlab.launch.supervisor import Supervisor, lost_runs
from normlab.runs.errors import ConfigError
from normlab.runs.files import make_folder, write_json
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.settings import Config
from normlab.studies import decisions
from normlab.studies import effects as contrasts
from normlab.studies.hypothesis_tests import PAIRED_T, SIGNED_RANK, TESTS
from normlab.studies.metrics import error_points, is_failed, log_octaves, steps_to_target
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.study import ROOT, Setup, adapt, check_study, load_config, load_study
from normlab.studies.units import OCTAVES, PLAIN, POINTS

sys.path.insert(0, str(ROOT))  # where `benchmarks` is found
from benchmarks import BadSelection

if TYPE_CHECKING:
    from benchmarks.validation.calibration import Contrast, Metric

SUITES = ("numerics", "layers", "steps", "training", "study", "tutorial", "anchors", "controls")
STUDY, PROFILE = "learning_rate", "quick"
CONTROLLED = ("convergence", "batch_size")
"""Studies whose networks the controls train."""
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
flags.DEFINE_string("results", "results", "Directory of all results, for tutorial and controls.")
flags.DEFINE_bool("write", False, "Write the page in docs/ too.")
FLAGS = flags.FLAGS


def repeats(usual: int) -> int:
    return FLAGS.repeats or usual


def tell(line: str) -> None:
    print(line, flush=True)


def keep(section: str) -> None:
    """Write the suite's section of docs/benchmarks.md where --write asks for it."""
    from benchmarks.page import write_section

    if FLAGS.write:
        write_section(ROOT / "docs" / "benchmarks.md", FLAGS.suite, section)


def record(facts: dict[str, Any]) -> None:
    """Write the suite's figures below --results: bench/<suite>.json."""
    write_json(make_folder(Path(FLAGS.results), "bench") / f"{FLAGS.suite}.json", facts)


def numerics() -> None:
    from benchmarks import numerics
    from benchmarks.page import write_page

    plan = numerics.plan(FLAGS.schemes, FLAGS.cases, FLAGS.against)
    page = numerics.run(plan, print)
    if FLAGS.write:
        write_page(ROOT / "docs" / "numerics.md", page)


def layers() -> None:
    from benchmarks import layers

    plan = layers.plan(FLAGS.sizes, FLAGS.dtypes, FLAGS.schemes, FLAGS.against, repeats(15))
    section = layers.run(plan, print)
    keep(section)


def steps() -> None:
    from benchmarks import steps

    section = steps.run(steps.plan(FLAGS.schemes, repeats(15)), print)
    keep(section)


def training() -> None:
    from benchmarks import training

    plan = training.plan(FLAGS.networks, FLAGS.populations, FLAGS.against, repeats(5))
    section = training.run(plan, tell)
    keep(section)


def study() -> None:
    from benchmarks import study

    planned = adapt(load_study(STUDY), arms=tuple(FLAGS.schemes))
    check_study(planned, PROFILE)
    groups: dict[tuple[str, str], list[Config]] = {}
    for setup in planned.setups[PROFILE]:
        for run in SetupRuns(setup, {}).wanted.values():
            groups.setdefault((run.setup, run.arm), []).append(run.config)
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), f"--study={STUDY}"]
    command += [f"--profile={PROFILE}"]
    command += [f"--arms={','.join(FLAGS.schemes)}"] if FLAGS.schemes else []
    found = [study.Group(*names, configs) for names, configs in groups.items()]
    section = study.run(study.plan(found, command, FLAGS.against, FLAGS.share), tell)
    keep(section)


def tutorial() -> None:
    from benchmarks.validation import keras_parity as tutorial

    config = load_config("tutorial")
    data.check(config["data.name"])
    backend = tutorial.find_keras()
    runs = tutorial.compare_all(config, data.load(config["data.name"]), tell)
    record(tutorial.facts_of(runs, backend))
    table = tutorial.table_of(runs, backend)
    tell(f"\n{table.terminal()}\n{tutorial.verdict(runs)}; {tutorial.tally(runs)}")
    keep(table.markdown())


def anchors() -> None:
    from benchmarks.page import write_page
    from benchmarks.validation import theory as anchors

    page = anchors.run(tell)
    if FLAGS.write:
        write_page(ROOT / "docs" / "anchors.md", page)


def trained(asked: Sequence[tuple[Setup, Config, int]]) -> list[list[Record]]:
    """Return the runs of each (setup, settings, seeds 0 .. n - 1), in order of the seed: those of
    --results, the others trained as a study's are. Raises RuntimeError."""
    cache, store = ConfigCache(), Store(FLAGS.results).open()
    found = [
        dict(cache.look_up(setup, settings | {"seed": seed}) for seed in range(n))
        for setup, settings, n in asked
    ]
    wanted = {name: config for runs in found for name, config in runs.items()}
    with Supervisor(store) as supervisor:
        supervisor.run(lambda: {n: c for n, c in wanted.items() if not store.is_done(n)})
    lost = lost_runs(supervisor.failures, store)
    for failure in lost.values():
        raise RuntimeError(f"{len(lost)} runs could not be finished: {failure.message}")
    return [[store.read(name) for name in runs] for runs in found]


def judge(contrasts: Sequence[Contrast]) -> list[str]:
    """Return what the rule says of the rows of one study."""
    facts: dict[str, Any] = dict.fromkeys(("claim", "sentence", "comparison", "scope"), "")
    rows = [
        decisions.Contrast(
            id=str(number),
            effects=dict(enumerate(c.effects)),
            sesoi=c.delta,
            n=len(c.effects),
            test=TESTS[c.test],
            unit=PLAIN,
            **facts,
        )
        for number, c in enumerate(contrasts)
    ]
    return [verdict.word for verdict in decisions.decide(rows)]


def metrics_of(batch: list[Record], layer: list[Record], target: float) -> list[Metric]:
    """Return the figures of two arms that the controls judge: steps to the target, test error."""
    from benchmarks.validation.calibration import Metric

    steps, errors = (
        [[measure(run) for run in arm] for arm in (batch, layer)]
        for measure in (lambda run: steps_to_target(run, target), error_points)
    )
    octaves = [log_octaves(b, a) for a, b in zip(*steps, strict=True)]
    points = [b - a for a, b in zip(*errors, strict=True)]
    title = f"steps to {target:.0%}"
    return [
        Metric(title, "octaves", "wilcoxon", 0.32, steps[0], log_octaves, octaves),
        Metric("test error", "points", "t", 1.0, errors[0], lambda a, b: a - b, points),
    ]


def tuned(setups: Sequence[Setup]) -> list[SetupRuns]:
    """Return the setups with all their runs, rates tuned as in a study; trains what is missing.
    Raises RuntimeError."""
    cache, store = ConfigCache(), Store(FLAGS.results).open()

    def evidences() -> list[SetupRuns]:
        return [SetupRuns(setup, Records(store), cache) for setup in setups]

    def missing() -> dict[str, Config]:
        wanted = {n: w.config for e in evidences() for n, w in e.wanted.items()}
        return {n: config for n, config in wanted.items() if not store.is_done(n)}

    with Supervisor(store) as supervisor:
        supervisor.run(missing)
    for failure in lost_runs(supervisor.failures, store).values():
        raise RuntimeError(f"a run could not be finished: {failure.message}")
    return evidences()


def primaries(setup: Setup, n: int, *names: str) -> Setup:
    """Return the setup with these arms alone, which run at the planned n."""
    arms = tuple(replace(a, is_primary=True) for a in setup.arms if a.name in names)
    return replace(setup, arms=arms, follows=(), seeds=n)


def positive_rows(speed: SetupRuns, size: SetupRuns) -> list[decisions.Contrast]:
    """Return the rows that have to come out supported, every arm at its own best rate."""
    facts: dict[str, Any] = {"claim": "", "sentence": "", "n": size.setup.seeds}
    return [
        contrasts.error_row(
            *(size, "batch/2", "batch/64"),
            id="size",
            comparison="ReLU MLP: error of batch norm over 2 - over 64, tuned rates",
            sesoi=1.0,
            **facts,
        ),
        decisions.Contrast(
            id="speed",
            comparison=f"sigmoid MLP: octaves of speed to {speed.setup.target:.0%}, tuned rates",
            scope=speed.setup.title,
            effects=contrasts.octaves(speed, "none", "batch"),
            unit=OCTAVES,
            sesoi=0.32,
            test=SIGNED_RANK,
            **facts,
        ),
    ]


def fixed_rows(worse: list[Record], better: list[Record]) -> list[decisions.Contrast]:
    """Return the errors at one fixed rate: by the rule, and with a failed run's as 90 points."""
    errors = [{s: error_points(r) for s, r in enumerate(runs)} for runs in (worse, better)]
    facts = {"claim": "", "sentence": "", "scope": "", "sesoi": 1.0, "n": len(worse)}
    name = "ReLU MLP: error of batch norm over 2 - over 64, rate 0.1"
    by_rule = contrasts.accuracy_row(
        better=errors[1],
        worse=errors[0],
        failed=lambda s: (is_failed(better[s]), is_failed(worse[s])),
        **facts | {"id": "rule", "comparison": name, "unit": POINTS},
    )
    plain = {s: errors[0][s] - errors[1][s] for s in errors[0]}
    contrast = f"{name}, 90 points for a failed run"
    as_points = decisions.Contrast(
        id="points", comparison=contrast, effects=plain, unit=POINTS, test=PAIRED_T, **facts
    )
    return [by_rule, as_points]


def effect_text(verdict: decisions.Verdict) -> str:
    low, high = verdict.interval
    return f"{verdict.effect:.2f} [{low:.2f}, {high:.2f}] {verdict.contrast.unit.name}"


def controls() -> None:
    from benchmarks.page import write_page
    from benchmarks.validation import calibration as controls

    decisions.SEARCH = controls.N  # the n that would decide is not asked for here, and takes long
    setups = {s.name: s for name in CONTROLLED for s in load_study(name).setups[PROFILE]}
    speed, size = setups["convergence-mlp"], setups["stats-batch-mlp"]
    rate, n = {"optim.lr": 0.1}, controls.N
    asked = {
        "batch": (speed, rate | {"norm.name": "batch"}, controls.RUNS),
        "layer": (speed, rate | {"norm.name": "layer"}, controls.RUNS),
        "64": (size, rate | {"norm.name": "batch", "norm.stats_batch": 64}, n),
        "2": (size, rate | {"norm.name": "batch", "norm.stats_batch": 2}, n),
    }
    tell(f"training what is missing of {sum(k for *_, k in asked.values())} runs")
    runs = dict(zip(asked, trained(list(asked.values())), strict=True))
    pairs = primaries(speed, n, "none", "batch"), primaries(size, n, "batch/2", "batch/64")
    found = [(v, True) for v in decisions.decide(positive_rows(*tuned(pairs)))]
    for row in fixed_rows(runs["2"], runs["64"]):
        found += [(v, False) for v in decisions.decide([row])]
    positives = [
        controls.Positive(v.contrast.comparison, effect_text(v), v.word, is_judged)
        for v, is_judged in found
    ]
    metrics = metrics_of(runs["batch"], runs["layer"], speed.target)
    page = controls.run(metrics, positives, judge, tell)
    if FLAGS.write:
        write_page(ROOT / "docs" / "controls.md", page)


def main() -> int:
    suites = (numerics, layers, steps, training, study, tutorial, anchors, controls)
    try:
        dict(zip(SUITES, suites, strict=True))[FLAGS.suite]()
    except BadSelection as error:
        raise ConfigError(str(error)) from error
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
