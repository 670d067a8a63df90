"""Kills at random moments: no run is lost or recorded twice, and each ends as if undisturbed.

There are three targets: scripts/train.py on one run, several scripts/study.py on one directory,
and processes that race for the locks of runs. The trainings of a race only sleep.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from made_up_runs import PROVENANCE
from workspace import ROOT, runs_of, study_text

from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder
from normlab.runs.errors import Damaged
from normlab.runs.store import Store
from normlab.settings import Config, defaults
from stress.campaign import Report, Workspace, report
from stress.processes import CHUNK, Child, Stage, until

COMPARED = ("status", "diverged_at", "skipped_steps", "final", "curve_sha256")
"""What of a result must not depend on kills."""
ARMS, STUDY_STEPS, RUN_STEPS = ("none", "batch", "layer"), (100, 400), (600, 2500)
"""Arms of the study; steps of its runs and of a single run in the short and in the long version."""
SIZES = {"train_eval_every": CHUNK, "eval_curve_examples": 100, "eval_stats_examples": 64}
TINY: Config = {name.replace("_", ".", 1): value for name, value in SIZES.items()}
TINY |= {"data.name": "synthetic", "model.widths": (16,)}
"""A small network, evaluated after every chunk, so that its curve shows its progress."""
VARIANTS: tuple[Config, ...] = (
    {"norm.name": "batch", "optim.name": "momentum"},
    {"norm.name": "batch_renorm", "optim.name": "adamw", "optim.lr": 0.01},
    {"norm.name": "group", "norm.noise": 0.5, "optim.name": "adam", "optim.lr": 0.01},
)
WAITS = (("start", 3.0), ("row", 1.5), ("row", 1.5), ("finishing", 0.06))
RACED = [f"run-{number:04d}" for number in range(100)]
SIGN_S, QUIET_S, LIMIT_S = 15.0, 30.0, 600.0
"""For a sign, until a killed command must have no process, and until all commands must end."""
GIVEN_UP, ENOUGH, DOZEN = 70, 20, 12
"""The exit code of a command whose worker was killed too often; the failures that end a campaign;
the kills that must catch a mutant."""
Facts = dict[str, dict[str, Any]]
"""Run -> its result.json."""


class Target(NamedTuple):
    """Commands that work on one results directory, and how they are killed."""

    name: str
    start: Callable[[Stage], Child]
    runs: int
    """How many there must be in the end."""
    crew: int = 1
    """How many commands work at the same time."""
    kills: tuple[int, int] = (3, 40)
    """Of the short version and of the long one."""
    parts: tuple[str, ...] = ("all", "all", "all", "worker", "worker", "supervisor")
    waits: tuple[tuple[str, float], ...] = WAITS
    """Most seconds from a sign to the kill: the start, a row of a curve, a result."""
    mutant: Callable[[], None] | None = None


def start_script(stage: Stage, name: str, flags: list[str], settings: Config) -> Child:
    """Start a script with a checkpoint after every chunk."""
    settings = {"train.checkpoint_seconds": 0, "host.processes": 1, "host.chunk": CHUNK} | settings
    flags += [f"--config.{name}={value}" for name, value in settings.items()]
    return stage.start(str(ROOT / "scripts" / name), f"--results={stage.store.root}", *flags)


def start_run(stage: Stage, settings: Config) -> Child:
    return start_script(stage, "train.py", ["--config=digits_mlp"], TINY | settings)


def start_study(stage: Stage, steps: int) -> Child:
    file = stage.folder / "tiny.py"
    if not stage.children:
        file.write_text(study_text(ARMS, steps, **SIZES), encoding="utf-8")
    return start_script(stage, "study.py", [f"--study={file}"], {})


def start_race(stage: Stage, **flags: bool) -> Child:
    how = f"{str(stage.store.root)!r}, seed={len(stage.children)}, **{flags}"
    return stage.start("-c", f"import {__name__} as s; s.race({how})")


def race(root: str, seed: int, has_locks: bool = True, looks_again: bool = True) -> None:
    """Be one process of several: plan which runs are missing, then train each as the worker does.
    That is under its lock, if it is not done by then. Without one of the two it is a mutant."""
    store, rng = Store(root).open(), random.Random(seed)
    result = {"config": defaults(), "status": "trained", "final": {}, "diverged_at": None}
    result |= {"skipped_steps": 0, "seconds": 0.0, "provenance": PROVENANCE}
    while missing := [run for run in RACED if not store.is_done(run)]:
        for run in missing:
            lock = store.lock(run)
            if lock and not has_locks:
                lock.release()
            if lock or not has_locks:
                with lock if lock and has_locks else nullcontext():
                    if not (looks_again and store.is_done(run)):
                        time.sleep(rng.uniform(0.002, 0.02))
                        store.finish(run, result, [])


def forget_checkpoints() -> None:
    """Be a mutant: start a stopped population from step 0, without a message."""
    PopulationFolder.newest = lambda self, warn: None


def targets(is_long: bool) -> list[Target]:
    steps: Config = {"train.steps": RUN_STEPS[is_long]}
    runs = [
        Target(f"run-{i}", partial(start_run, settings=variant | steps | {"seed": i}), runs=1)
        for i, variant in enumerate(VARIANTS if is_long else VARIANTS[:1])
    ]
    study = partial(start_study, steps=STUDY_STEPS[is_long])
    crew = 3 if is_long else 2
    race: Any = {
        "parts": ("all",),
        "waits": (("start", 0.5), ("finishing", 0.1), ("finishing", 0.1)),
    }
    return [
        *runs,
        Target("study", study, runs_of(len(ARMS)), crew, kills=(3, 120)),
        Target("race", start_race, len(RACED), crew=3, kills=(3, 180), **race),
    ]


def mutants() -> list[Target]:
    """Return targets that break a promise, which must be noticed."""
    run, _, race = targets(is_long=False)
    long_run = partial(start_run, settings=VARIANTS[0] | {"train.steps": RUN_STEPS[True]})
    waits = (("row", 1.0),)
    return [
        run._replace(
            name="silent",
            start=long_run,
            parts=("all",),
            waits=waits,
            kills=(DOZEN, DOZEN),
            mutant=forget_checkpoints,
        ),
        race._replace(name="no locks", start=partial(start_race, has_locks=False), kills=(0, 0)),
        race._replace(
            name="no second look", start=partial(start_race, looks_again=False), kills=(0, 0)
        ),
    ]


def facts_of(store: Store, run: str) -> dict[str, Any]:
    """Return the result of a run; raises Damaged where it or its curve is not as it was written."""
    store.read(run)
    return files.read_json(store.run_dir(run) / "result.json")


def difference(store: Store, run: str, expected: dict[str, Any]) -> str:
    """Return what is wrong with one run, "" for nothing."""
    if not store.is_done(run):
        return f"run {run} is lost"
    try:
        found = facts_of(store, run)
    except Damaged as error:
        return str(error)
    wrong = [key for key in COMPARED if json.dumps(found[key]) != json.dumps(expected[key])]
    if not found["provenance"]["bit_exact"]:
        wrong.append("its provenance, which is not bit-exact")
    return f"run {run} differs in {', '.join(wrong)}" if wrong else ""


def leftovers(root: Path) -> list[str]:
    """Return what no finished run may leave, and damaged checkpoints."""
    kinds = ("checkpoint-*", "unfinished", "*.corrupt")
    patterns = (*(f"populations/*/{kind}" for kind in kinds), "runs/*/.*.tmp")
    found = sorted({path for pattern in patterns for path in root.glob(pattern)})
    return [f"{path.relative_to(root)} is left" for path in found]


@dataclass
class Tally:
    """What is counted while processes are killed."""

    workspace: Workspace
    parts: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    wrong: int = 0
    restarts: int = 0
    redone: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.parts.total()

    def fail(self, stage: Stage, message: str) -> None:
        self.failures.append(f"seed {self.workspace.seed}, {stage.folder.name}: {message}")

    def close(self, stage: Stage, expected: Facts) -> None:
        """Judge a stage on which all runs should be done."""
        store, (faults, redone) = stage.store, stage.log.judge()
        wrong = [difference(store, run, facts) for run, facts in expected.items()]
        wrong = [line for line in wrong if line]
        extra = [f"run {run} was not asked for" for run in store.done() - expected.keys()]
        for line in [*wrong, *extra, *faults, *leftovers(store.root)]:
            self.fail(stage, line)
        if not wrong:
            origins = (facts_of(store, run)["provenance"] for run in expected)
            restarts = {p["population"]: len(p["restarts"]) for p in origins}
            self.restarts += sum(restarts.values())
        self.runs, self.wrong = self.runs + len(expected), self.wrong + len(wrong)
        self.redone = max([self.redone, *redone.values()])
        equal = self.runs - self.wrong
        self.workspace.emit(f"{self.kills} kills, {equal} of {self.runs} runs bit-equal")

    def ended_well(self, stage: Stage, child: Child) -> bool:
        """Return whether a command ended well; note an end that no kill explains."""
        code = child.process.poll()
        if code != 0 and not (code in (-9, GIVEN_UP) and child.hits):
            self.fail(stage, child.last_words())
        return code == 0


def strike(
    stage: Stage, children: list[Child], target: Target, rng: random.Random, tally: Tally
) -> bool:
    """Wait for a sign from one of some commands, then a random time, and kill a part of it. Return
    whether there was a process to kill."""
    sign, most = rng.choice(target.waits)
    part, seconds = rng.choice(target.parts), rng.uniform(0, most)

    def signs(child: Child) -> list[str]:
        notes = stage.log.notes()[child.since :]
        return ["start"] + [note.kind for note in notes if note.group == child.group]

    def ready() -> list[Child]:
        return [child for child in children if child.has_ended() or sign in signs(child)]

    until(ready, SIGN_S)
    child = (ready() or children)[0]
    until(child.has_ended, seconds)
    if not child.kill(part):
        return False
    child.since = len(stage.log.notes())
    tally.parts[part] += 1
    return True


def besiege(stage: Stage, target: Target, limit: int, tally: Tally) -> list[Child]:
    """Let the commands of a target work, kill one after another while the tally has less than
    `limit` kills and start it again. Return the commands once all have ended well, or a fault is
    seen."""
    rng, end = tally.workspace.generator(stage.folder.name), time.monotonic() + LIMIT_S
    children = [target.start(stage) for _ in range(target.crew)]
    while time.monotonic() < end and len(tally.failures) < ENOUGH and not stage.log.judge()[0]:
        for i, child in enumerate(children):
            if child.has_ended() and not tally.ended_well(stage, child):
                if not until(child.is_empty, QUIET_S):
                    tally.fail(stage, "a process outlived the kill")
                children[i] = target.start(stage)
        going = [child for child in children if not child.has_ended()]
        if not going:
            return children
        rng.shuffle(going)
        if tally.kills >= limit or not strike(stage, going, target, rng, tally):
            time.sleep(0.02)
    tally.fail(stage, f"not done after {LIMIT_S:g} s, or a fault was seen")
    return children


def undisturbed(target: Target, tally: Tally) -> Facts:
    """Return the results of commands that nobody kills; together they begin each run once."""
    with Stage(tally.workspace, target.name) as stage:
        besiege(stage, target, 0, tally)
        begun = Counter(note.run for note in stage.log.notes() if note.kind == "trains")
        for run in [run for run, times in begun.items() if times > 1]:
            tally.fail(stage, f"run {run} was begun {begun[run]} times")
        found = {run: facts_of(stage.store, run) for run in sorted(stage.store.done())}
        if len(found) != target.runs:
            tally.fail(stage, f"{len(found)} runs were done, not {target.runs}")
        return found


def attack(target: Target, tally: Tally) -> None:
    """Kill the commands of a target, each time until its runs are done, and judge what is left."""
    expected, number = undisturbed(target, tally), 0
    limit = tally.kills + target.kills[tally.workspace.is_long]
    while tally.kills < limit and len(tally.failures) < ENOUGH:
        with Stage(tally.workspace, f"killed-{target.name}-{number}") as stage:
            tables = {child.table() for child in besiege(stage, target, limit, tally)}
            if len(tables) != 1 or (target.name == "study" and tables == {""}):
                tally.fail(stage, f"not one table: {tables}")
            tally.close(stage, expected)
        number += 1


def is_caught(mutant: Target, workspace: Workspace) -> bool:
    with Stage(workspace, mutant.name, mutant.mutant) as stage:
        besiege(stage, mutant, mutant.kills[workspace.is_long], Tally(workspace))
        return bool(stage.log.judge()[0])


def run(workspace: Workspace) -> Report:
    """Kill single runs, studies that share a directory and races; then let mutants be seen."""
    tally = Tally(workspace)
    for target in targets(workspace.is_long):
        attack(target, tally)
    missed = [mutant.name for mutant in mutants() if not is_caught(mutant, workspace)]
    figures = {
        "kills": tally.kills,
        "of": ", ".join(f"{part} {n}" for part, n in tally.parts.most_common()),
        "restarts from a checkpoint": tally.restarts,
        "runs lost": sum("is lost" in line for line in tally.failures),
        "runs recorded twice": sum("twice" in line for line in tally.failures),
        "bit-equal": f"{tally.runs - tally.wrong} of {tally.runs}",
        "steps redone, most": tally.redone,
    }
    return report(figures, tally.failures, missed, mutants())
