"""The real runs of the calibration: one arm and its pair, and contrasts known to be large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from normlab.studies.hypothesis_tests import PAIRED_T, SIGNED_RANK, HypothesisTest

from benchmarks.runner import Check
from normlab.launch.supervisor import Supervisor, lost_runs
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.settings import Config
from normlab.studies.decisions import Contrast, Verdict, decide
from normlab.studies.effects import Claim, Measured, error_difference, paired_errors, speedup
from normlab.studies.metrics import error_points, log_octaves, steps_to_target
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.setup import Setup
from normlab.studies.study import load_study
from normlab.studies.units import OCTAVES, PLAIN, POINTS, Unit

PROFILE = "quick"
STUDIES = ("convergence", "batch_size")
"""Studies whose networks are trained."""
N = 12
"""Seeds of a row."""
RUNS = 60
"""Of the arm that is its own null, and of the arm that is paired with it."""
RATE = 0.1


def contrast_of(
    comparison: str,
    effects: Mapping[int, float],
    sesoi: float,
    test: HypothesisTest,
    unit: Unit = PLAIN,
) -> Contrast:
    """Return a contrast of no study."""
    names = dict.fromkeys(("id", "claim", "sentence", "scope"), "")
    facts: Any = dict(effects=effects, unit=unit, sesoi=sesoi, n=len(effects), test=test)
    return Contrast(comparison=comparison, **names, **facts)


class Metric(NamedTuple):
    """A figure of runs that differ in nothing but their seed, and how the rule tests it."""

    title: str
    unit: Unit
    test: HypothesisTest
    sesoi: float
    values: Sequence[float]
    """One for each run of one arm."""
    effect: Callable[[float, float], float]
    """Of two runs."""
    differences: Sequence[float]
    """Effects of two arms, paired by seed."""


def metrics_of(batch: list[Record], layer: list[Record], target: float) -> list[Metric]:
    """Return the figures of two arms that are judged: steps to the target, test error."""
    steps, errors = (
        [[measure(run) for run in arm] for arm in (batch, layer)]
        for measure in (lambda run: steps_to_target(run, target), error_points)
    )
    octaves = [log_octaves(b, a) for a, b in zip(*steps, strict=True)]
    points = [b - a for a, b in zip(*errors, strict=True)]
    title = f"steps to {target:.0%}"
    return [
        Metric(title, OCTAVES, SIGNED_RANK, 0.32, steps[0], log_octaves, octaves),
        Metric("test error", POINTS, PAIRED_T, 1.0, errors[0], lambda a, b: a - b, points),
    ]


def train_missing(store: Store, wanted: Callable[[], dict[str, Config]]) -> None:
    """Train as a study does until `wanted()` names no run that is not done; raises RuntimeError."""
    with Supervisor(store) as supervisor:
        supervisor.run(lambda: {n: c for n, c in wanted().items() if not store.is_done(n)})
    lost = lost_runs(supervisor.failures, store)
    for failure in lost.values():
        raise RuntimeError(f"{len(lost)} runs could not be finished: {failure.message}")


def trained(store: Store, setup: Setup, settings: Config, n: int) -> list[Record]:
    """Return the runs of seeds 0 .. n - 1 at the fixed rate."""
    cache, fixed = ConfigCache(), settings | {"optim.lr": RATE}
    wanted = dict(cache.look_up(setup, fixed | {"seed": seed}) for seed in range(n))
    train_missing(store, lambda: wanted)
    return [store.read(name) for name in wanted]


def tuned(store: Store, setups: Sequence[Setup]) -> list[SetupRuns]:
    """Return the setups with all their runs, rates tuned as in a study."""
    cache = ConfigCache()

    def found() -> list[SetupRuns]:
        return [SetupRuns(setup, Records(store), cache) for setup in setups]

    train_missing(store, lambda: {n: w.config for s in found() for n, w in s.wanted.items()})
    return found()


def primaries(setup: Setup, *names: str) -> Setup:
    """Return the setup with these arms alone, which run at the planned n."""
    arms = tuple(replace(a, is_primary=True) for a in setup.arms if a.name in names)
    return replace(setup, arms=arms, follows=(), seeds=N)


def large_contrasts(speed: SetupRuns, size: SetupRuns) -> list[Contrast]:
    """Return the contrasts that have to be supported, every arm at its own best rate."""
    errors = error_difference(
        *("batch/2", "batch/64"), "ReLU MLP: error of batch norm over 2 - over 64, tuned rates"
    )
    name = f"sigmoid MLP: octaves of speed to {speed.setup.target:.0%}, tuned rates"
    faster = replace(speedup("none", "batch"), comparison=name)
    return [
        Claim("size", "", size.setup.name, errors, sesoi=1.0, n=N).contrast(size, PROFILE),
        Claim("speed", "", speed.setup.name, faster, sesoi=0.32, n=N).contrast(speed, PROFILE),
    ]


def fixed_contrasts(worse: list[Record], better: list[Record]) -> list[Contrast]:
    """Return the errors at one fixed rate: by the rule, and with a failed run's as 90 points."""
    pairs = list(enumerate(zip(worse, better, strict=True)))
    by_rule = paired_errors(pairs)
    as_points = Measured({s: error_points(a) - error_points(b) for s, (a, b) in pairs})
    name = f"ReLU MLP: error of batch norm over 2 - over 64, rate {RATE:g}"
    names = {name: by_rule, f"{name}, 90 points for a failed run": as_points}
    return [
        contrast_of(name, measured.effects, 1.0, measured.test or PAIRED_T, measured.unit or POINTS)
        for name, measured in names.items()
    ]


def positive_check(verdict: Verdict, is_judged: bool) -> Check:
    low, high = verdict.interval
    effect = f"{verdict.effect:.2f} [{low:.2f}, {high:.2f}] {verdict.contrast.unit.name}"
    cells = [verdict.contrast.comparison, effect, verdict.word]
    holds = verdict.word == "supported" if is_judged else None
    return Check(f"{cells[0]}, {effect}", cells, holds)


def measure(store: Store) -> tuple[list[Metric], list[Check]]:
    """Train what is missing. Return the metrics of the null, and the checks of large effects."""
    setups = {s.name: s for name in STUDIES for s in load_study(name).setups[PROFILE]}
    speed, size = setups["convergence-mlp"], setups["stats-batch-mlp"]
    batch, layer = (trained(store, speed, {"norm.name": n}, RUNS) for n in ("batch", "layer"))
    over_2, over_64 = (
        trained(store, size, {"norm.name": "batch", "norm.stats_batch": b}, N) for b in (2, 64)
    )
    pairs = primaries(speed, "none", "batch"), primaries(size, "batch/2", "batch/64")
    judged = decide(large_contrasts(*tuned(store, pairs)))
    checks = [positive_check(verdict, is_judged=True) for verdict in judged]
    for contrast in fixed_contrasts(over_2, over_64):
        checks.append(positive_check(decide([contrast])[0], is_judged=False))
    return metrics_of(batch, layer, speed.target), checks
