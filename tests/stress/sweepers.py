"""Several commands on one directory: every run exactly once, with and without kills."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

from normlab.runs.errors import StorageError
from normlab.runs.provenance import SCHEMA
from normlab.runs.store import Store
from normlab.settings import defaults
from stress.campaign import Report, Workspace
from stress.kills import (
    LIMIT_SECONDS,
    Blow,
    Facts,
    Tally,
    ended_well,
    facts_of,
    leftovers,
    strike,
)
from stress.studies import RUNS, Child, Stage, need_linux, table_of, until

ROUNDS, SIZES, KILLS = 4, (2, 3, 4), 6
"""Of the long version: rounds of every size, and the workers killed in a round with kills."""
APART = 0.0, 3.0
"""Most seconds between two starts: none, or as long as a worker needs to take up what was planned
for it, which another may have finished by then."""
RACED, BADLY_RACED = 200, 40
"""Runs of a race, and of one with a broken claimer."""
SHORTEST, LONGEST = 0.002, 0.02
"""Seconds of a training that only sleeps."""
Claimer = Callable[[Store, str, random.Random], object]


# Studies.


def kill_workers(
    stage: Stage, hands: list[Child], dice: random.Random, kills: int, tally: Tally
) -> None:
    """Kill workers at random moments, `kills` of them unless the work is done before."""
    limit = tally.kills + kills
    while tally.kills < limit:
        going = [child for child in hands if not child.has_ended()]
        if not going:
            return
        sign, seconds = dice.choice((("start", 3), ("row", 0.5), ("row", 0.5), ("finishing", 0.05)))
        blow = Blow("worker", sign, dice.uniform(0, seconds))
        strike(stage, going, blow, dice, tally)


def gather(stage: Stage, size: int, kills: int, dice: random.Random, tally: Tally) -> str:
    """Start some commands at once or soon after each other, take note of what they do wrong, and
    return their table."""
    hands, apart = [], dice.choice(APART)
    for _ in range(size):
        hands.append(stage.start_study("--retries=1000"))
        time.sleep(dice.uniform(0, apart))
    kill_workers(stage, hands, dice, kills, tally)
    if not until(lambda: all(child.is_empty() for child in hands), LIMIT_SECONDS):
        tally.fail(stage, f"not done after {LIMIT_SECONDS:g} s")
    for child in hands:
        if child.process.poll() != 0:
            tally.fail(stage, child.last_words())
    tables = sorted({table_of(child) for child in hands})
    if len(tables) > 1 or not tables[0]:
        tally.fail(stage, f"not one table but {tables}")
    for name, times in sorted(stage.log.count("trains").items()):
        if times > 1 and not kills:
            tally.fail(stage, f"run {name} was begun {times} times")
    return tables[0]


def crowd(desk: Workspace) -> Report:
    """Start two, three and four scripts/study.py on one directory, then again with workers killed;
    the short version: two, once, without kills."""
    need_linux()
    tally, expected, table, rounds = Tally(desk), Facts(), "", 0
    for number in range(ROUNDS if desk.is_long else 1):
        for size in SIZES if desk.is_long else SIZES[:1]:
            for kills in (0, KILLS) if desk.is_long else (0,):
                name = f"crowd-{size}-{kills}-{number}"
                with Stage(desk, name) as stage:
                    told = gather(stage, size, kills, desk.dice(name), tally)
                    if not expected:  # what all later rounds must give, to the bit
                        done = sorted(stage.store.done())
                        expected, table = {run: facts_of(stage.store, run) for run in done}, told
                        if len(done) != RUNS:
                            tally.fail(stage, f"{len(done)} runs are done, not {RUNS}")
                    if told != table:
                        tally.fail(stage, f"{told!r} is told instead of {table!r}")
                tally.close(stage, expected)
                rounds += 1
    goal = "each run exactly once, all commands exit with 0 and tell the same verdicts"
    report = tally.report("several studies on one directory", goal)
    return replace(report, figures={"rounds": rounds, **report.figures})


# Claims, with a training that only sleeps.


def names(runs: int) -> list[str]:
    return [f"run-{number:04d}" for number in range(runs)]


def train(store: Store, name: str, dice: random.Random) -> None:
    """Take some milliseconds and record a result that is complete and made up."""
    time.sleep(dice.uniform(SHORTEST, LONGEST))
    provenance = {fact: kinds[0]() for fact, kinds in SCHEMA.items()}
    result = {"config": defaults(), "status": "trained", "final": {}, "diverged_at": None}
    store.finish(name, result | {"seconds": 0.0, "provenance": provenance}, [])


def claim(store: Store, name: str, dice: random.Random) -> None:
    """Train a run as the worker does: under its lock, if it is not done by then."""
    lock = store.lock(name)
    if lock:
        with lock:
            if not store.is_done(name):
                train(store, name, dice)


def claim_without_a_lock(store: Store, name: str, dice: random.Random) -> None:
    store.run_dir(name).mkdir(exist_ok=True)
    if not store.is_done(name):
        train(store, name, dice)


def claim_without_a_second_look(store: Store, name: str, dice: random.Random) -> None:
    lock = store.lock(name)
    if lock:
        with lock:
            train(store, name, dice)


BROKEN: tuple[Claimer, ...] = (claim_without_a_lock, claim_without_a_second_look)


def race(root: str, claimer: Claimer, runs: int, seed: str) -> None:
    """Be one process of a crowd: plan what is missing, then claim it, until nothing is missing."""
    store, dice = Store(root).open(), random.Random(seed)
    while missing := [name for name in names(runs) if not store.is_done(name)]:
        for name in missing:
            claimer(store, name, dice)


def run_race(
    stage: Stage, claimer: Claimer, runs: int, kills: int, dice: random.Random, tally: Tally, size=4
) -> None:
    """Let some processes race through all runs, killing them up to `kills` times."""

    def start() -> Child:
        me, root, seed = __name__, str(stage.store.root), str(dice.random())
        how = f"{root!r}, {me}.{claimer.__name__}, {runs}, {seed!r}"
        return stage.start("-c", f"import {me}; {me}.race({how})")

    hands, limit = [start() for _ in range(size)], tally.kills + kills
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        for i, child in enumerate(hands):
            if child.has_ended() and not ended_well(stage, child, tally, retries=0):
                hands[i] = start()
        going = [child for child in hands if not child.has_ended()]
        if not going:
            return
        if tally.kills < limit:
            sign, seconds = dice.choice((("start", 0.5), ("finishing", 0.1), ("finishing", 0.1)))
            strike(stage, going, Blow("all", sign, dice.uniform(0, seconds)), dice, tally)
        time.sleep(0.01)
    tally.fail(stage, f"not done after {LIMIT_SECONDS:g} s")


def claims(desk: Workspace) -> Report:
    """Let processes race for runs that take milliseconds, and kill them; then the same with
    claimers that are broken, whose duplicates must be seen."""
    need_linux()
    tally, lost, twice, rounds = Tally(desk), 0, 0, 0
    for number in range(ROUNDS if desk.is_long else 1):
        for size in SIZES if desk.is_long else SIZES[-1:]:
            name = f"claims-{size}-{number}"
            with Stage(desk, name) as stage:
                kills = 20 if desk.is_long else 6
                run_race(stage, claim, RACED, kills, desk.dice(name), tally, size)
            missing, again = set(names(RACED)) - stage.store.done(), stage.log.recorded_twice()
            wrong = [f"run {run} is lost" for run in sorted(missing)] + leftovers(stage.store.root)
            wrong += [f"run {run} was recorded twice" for run in again]
            for run in sorted(stage.store.done()):
                try:
                    stage.store.read(run)
                except StorageError as error:
                    wrong.append(str(error))
            for line in wrong:
                tally.fail(stage, line)
            lost, twice, rounds = lost + len(missing), twice + len(again), rounds + 1
            desk.tell(f"{rounds} races, {tally.kills} kills, lost {lost}, twice {twice}")
    figures: dict[str, int | str] = {"races": rounds, "runs": rounds * RACED}
    figures |= {"kills": tally.kills, "runs lost": lost, "runs recorded twice": twice}
    for claimer in BROKEN:
        with Stage(desk, claimer.__name__) as stage:
            run_race(stage, claimer, BADLY_RACED, 0, desk.dice(claimer.__name__), tally)
            found = len(stage.log.recorded_twice())
            if not found:
                tally.fail(stage, "the broken claimer was not caught")
        figures[f"twice by {claimer.__name__.replace('_', ' ')}"] = found
    goal = "no run lost, none recorded twice; claimers broken on purpose are caught"
    return Report("claims", goal, figures, tally.failures)
