"""Processes that race for the locks of runs: each run exactly once, with and without kills.

A training of this campaign only sleeps, so that the race is about the locks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from made_up_runs import PROVENANCE

from normlab.runs.errors import StorageError
from normlab.runs.store import Store
from normlab.settings import defaults
from stress.campaign import Report, Workspace
from stress.kills import Kill, Tally, besiege, leftovers
from stress.processes import Child, Stage

SIZES, ROUNDS, KILLS = (2, 3, 4), 4, 15
"""Of the long version: processes, rounds of each size, and kills of a round."""
RACED, BADLY_RACED = 100, 30
"""Runs of a race, and of one with a broken claimer."""
Claimer = Callable[[Store, str, random.Random], object]


def train(store: Store, run: str, rng: random.Random) -> None:
    """Take some milliseconds and record a result that is complete and made up."""
    time.sleep(rng.uniform(0.002, 0.02))
    result = {"config": defaults(), "status": "trained", "final": {}, "diverged_at": None}
    store.finish(run, result | {"seconds": 0.0, "provenance": PROVENANCE}, [])


def claim(store: Store, run: str, rng: random.Random) -> None:
    """Train a run as the worker does: under its lock, if it is not done by then."""
    if lock := store.lock(run):
        with lock:
            if not store.is_done(run):
                train(store, run, rng)


def claim_without_a_lock(store: Store, run: str, rng: random.Random) -> None:
    store.run_dir(run).mkdir(exist_ok=True)
    if not store.is_done(run):
        train(store, run, rng)


def claim_without_a_second_look(store: Store, run: str, rng: random.Random) -> None:
    if lock := store.lock(run):
        with lock:
            train(store, run, rng)


MUTANTS: tuple[Claimer, ...] = (claim_without_a_lock, claim_without_a_second_look)


def names(runs: int) -> list[str]:
    return [f"run-{number:04d}" for number in range(runs)]


def race(root: str, claimer: Claimer, runs: int, seed: str) -> None:
    """Be one process of several: plan what is missing, then claim it, until nothing is missing."""
    store, rng = Store(root).open(), random.Random(seed)
    while missing := [name for name in names(runs) if not store.is_done(name)]:
        for name in missing:
            claimer(store, name, rng)


def run_race(
    stage: Stage, claimer: Claimer, runs: int, size: int, limit: int, tally: Tally
) -> None:
    """Let `size` processes race through all runs while the tally has less than `limit` kills."""

    def start() -> Child:
        how = f"{str(stage.store.root)!r}, s.{claimer.__name__}, {runs}, '{len(stage.children)}'"
        return stage.start("-c", f"import {__name__} as s; s.race({how})")

    def draw(rng: random.Random) -> Kill:
        sign, seconds = rng.choice((("start", 0.5), ("finishing", 0.1), ("finishing", 0.1)))
        return Kill("all", sign, rng.uniform(0, seconds))

    besiege(stage, start, size, limit, tally, draw)


def judge(stage: Stage, tally: Tally) -> None:
    """Note every run that is lost, recorded twice or damaged."""
    lost = set(names(RACED)) - stage.store.done()
    wrong = [f"run {run} is lost" for run in sorted(lost)]
    wrong += [line for line in stage.log.faults() if "recorded twice" in line]
    for run in sorted(stage.store.done()):
        try:
            stage.store.read(run)
        except StorageError as error:
            wrong.append(str(error))
    for line in [*wrong, *leftovers(stage.store.root)]:
        tally.fail(stage, line)


def run(workspace: Workspace) -> Report:
    """Let processes race for runs that take milliseconds, and kill them; then let broken claimers
    race, whose duplicates must be seen."""
    tally, races = Tally(workspace), 0
    sizes = SIZES * ROUNDS if workspace.is_long else SIZES[1:2]
    for number, size in enumerate(sizes):
        with Stage(workspace, f"race-{number}") as stage:
            limit = tally.kills + (KILLS if workspace.is_long else 3)
            run_race(stage, claim, RACED, size, limit, tally)
            judge(stage, tally)
        races += 1
        workspace.emit(f"{races} races, {tally.kills} kills, {len(tally.failures)} failures")
    found = {}
    for claimer in MUTANTS:
        with Stage(workspace, claimer.__name__) as stage:
            run_race(stage, claimer, BADLY_RACED, 3, tally.kills, tally)
            found[claimer.__name__] = len(stage.log.count("again") or stage.log.faults())
        if not found[claimer.__name__]:
            tally.failures.append(f"a mutant was not caught: {claimer.__name__}")
    figures: dict[str, int | str] = {"races": races, "runs": races * RACED, "kills": tally.kills}
    figures["runs lost"] = sum("is lost" in line for line in tally.failures)
    figures["runs recorded twice"] = sum("twice" in line for line in tally.failures)
    figures["mutants caught"] = f"{sum(map(bool, found.values()))} of {len(MUTANTS)}"
    goal = "no run lost, none recorded twice"
    return Report("Processes that race for runs", goal, figures, tally.failures)
