"""The real runs of the calibration: noise to draw from, an arm that changes nothing, and contrasts
that are known to be large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.runner import Check
from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.failures import lost_runs
from normlab.launch.supervisor import Supervisor
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.settings import Config
from normlab.studies.decisions import Contrast, decide
from normlab.studies.effects import Claim, error_difference, speedup
from normlab.studies.looks import SetupLooks
from normlab.studies.metrics import error_points, restricted_octaves
from normlab.studies.planning import ConfigCache
from normlab.studies.protocols import rate_of
from normlab.studies.setup import FIRST_SEED, Arm, Setup
from normlab.studies.study import load_study

PROFILE = "quick"
STUDIES = ("convergence", "batch_size")
"""Studies whose networks are trained."""
SEEDS = range(FIRST_SEED, FIRST_SEED + 48)
"""Of the runs whose noise is drawn from."""
EXPONENTS = tuple(i / 4 for i in range(-8, 1))
"""log10 of the rates at which both arms of the pool run."""
RATE = 0.1
"""At which steps to the target are counted."""


OnEvent = Callable[[WorkerHandle, str, dict[str, Any]], None]


class Pool(NamedTuple):
    """Real noise."""

    errors: np.ndarray
    """Errors in points: [arms, rates, seeds, (validation, test)]; statistics over 4, over 64."""
    octaves: np.ndarray
    """log2 of the steps to the target, layer over batch norm, for each seed."""


def named(name: str, **settings: float | str) -> Arm:
    changed = {f"norm.{key}": value for key, value in settings.items()}
    return Arm(name, {"norm.name": "batch"} | changed, is_primary=True)


def train_missing(
    store: Store, wanted: Callable[[], dict[str, Config]], on_event: OnEvent = lambda *_: None
) -> None:
    """Train as a study does until `wanted()` names no run that is not done; raises RuntimeError."""
    with Supervisor(store, on_event=on_event) as supervisor:
        supervisor.run(lambda: {n: c for n, c in wanted().items() if not store.is_done(n)})
    lost = lost_runs(supervisor.failures, store)
    for failure in lost.values():
        raise RuntimeError(f"{len(lost)} runs could not be finished: {failure.message}")


def trained(store: Store, setup: Setup, settings: Config) -> list[Record]:
    """Return the runs of SEEDS."""
    cache = ConfigCache()
    wanted = dict(cache.look_up(setup, settings | {"seed": seed}) for seed in SEEDS)
    train_missing(store, lambda: wanted)
    return [store.read(name) for name in wanted]


def pool_of(store: Store, speed: Setup, size: Setup) -> Pool:
    """Train what is missing of the runs whose noise is drawn from."""
    surface = [
        [
            [
                [error_points(run, split) for split in ("validation", "test")]
                for run in trained(store, size, arm.settings | {"optim.lr": rate_of(exponent)})
            ]
            for exponent in EXPONENTS
        ]
        for arm in (named("over 4", stats_batch=4), named("over 64", stats_batch=64))
    ]
    fixed = {"optim.lr": RATE, "train.stop_at": speed.target}
    layer, batch = (trained(store, speed, {"norm.name": n} | fixed) for n in ("layer", "batch"))
    octaves = [restricted_octaves(a, b, speed.target)[0] for a, b in zip(layer, batch, strict=True)]
    return Pool(np.array(surface), np.array(octaves))


def real_contrasts(store: Store, speed: Setup, size: Setup) -> list[tuple[list[Contrast], str]]:
    """Return real contrasts of 12 seeds at their looks, each with the word that it must get."""
    null = named("1e-5", epsilon=1e-5), named("2e-5", epsilon=2e-5)
    large = named("over 2", stats_batch=2), named("over 64", stats_batch=64)
    pair = tuple(replace(arm, is_primary=True) for arm in speed.arms if arm.is_primary)
    effects = (
        error_difference("1e-5", "2e-5", "ReLU MLP: test error, epsilon 1e-5 against 2e-5"),
        error_difference("over 2", "over 64", "ReLU MLP: test error, statistics over 2 - over 64"),
        replace(
            speedup("none", "batch"), comparison="sigmoid MLP: steps to 90 %, none over batch norm"
        ),
    )
    setups = (
        replace(size, name="null", arms=null, report_settings={}),
        replace(size, name="size", arms=large, report_settings={}),
        replace(speed, name="speed", arms=pair, follows=()),
    )
    words = ("refuted", "supported", "supported")
    sesois = (1.0, 1.0, 0.32)
    cache = ConfigCache()
    claims = [
        (setup, Claim(setup.name, "", setup.name, effect, sesoi, looks=(12,)))
        for setup, effect, sesoi in zip(setups, effects, sesois, strict=True)
    ]

    def followed() -> list[tuple[SetupLooks, list[Contrast]]]:
        looks = [(SetupLooks(setup, Records(store), cache), claim) for setup, claim in claims]
        return [(at, at.follow(claim, PROFILE)) for at, claim in looks]

    def wanted() -> dict[str, Config]:
        runs = [at.furthest.wanted for at, _ in followed()]
        return {name: run.config for found in runs for name, run in found.items()}

    train_missing(store, wanted)
    return [(path, word) for (_, path), word in zip(followed(), words, strict=True)]


def real_check(path: Sequence[Contrast], word: str) -> Check:
    """Judge the word of a real contrast."""
    found = decide(path)
    contrast, (low, high) = found.contrast, found.estimate.interval
    text = (
        f"{found.estimate.centre:.2f} [{low:.2f}, {high:.2f}] {contrast.unit.name}, n = {found.n}"
    )
    said = f"{found.word} ({found.qualifier})" if found.qualifier else found.word
    cells = [contrast.comparison, f"{contrast.sesoi:g}", text, said, word]
    return Check(f"{contrast.comparison}: {word}", cells, found.word == word)


def measure(store: Store) -> tuple[Pool, list[Check]]:
    """Train what is missing. Return the noise to draw from and the checks of real contrasts."""
    setups = {s.name: s for name in STUDIES for s in load_study(name).setups[PROFILE]}
    speed, size = setups["convergence-mlp"], setups["stats-batch-mlp"]
    checks = [real_check(*found) for found in real_contrasts(store, speed, size)]
    return pool_of(store, speed, size), checks
