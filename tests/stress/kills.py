"""Kills at random moments: no run is lost or recorded twice, and each ends as if undisturbed."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from workspace import runs_of

from normlab.runs import files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import Damaged
from normlab.runs.store import Store
from normlab.settings import Config
from stress.campaign import Report, Workspace
from stress.processes import ARMS, CHUNK, Child, Stage, until

COMPARED = ("status", "diverged_at", "skipped_steps", "final", "curve_sha256")
"""What of a result must not depend on kills."""
VARIANTS: tuple[Config, ...] = (
    {"norm.name": "batch", "optim.name": "momentum"},
    {"norm.name": "batch_renorm", "optim.name": "adamw", "optim.lr": 0.01},
    {"norm.name": "group", "norm.noise": 0.5, "optim.name": "adam", "optim.lr": 0.01},
)
STEPS, RUN_KILLS, STUDY_KILLS = (600, 2500), (3, 120), (3, 120)
"""Of the short version and the long one."""
WAITS = {"start": 3.0, "row": 1.5, "finishing": 0.06}
"""Most seconds from the start, the first row of a curve or the first result to a kill."""
SIGN_S, QUIET_S, LIMIT_S = 15.0, 30.0, 600.0
"""For a sign, until a killed command must have no process, and until all commands must end."""
GIVEN_UP, ENOUGH, DOZEN = 70, 20, 12
"""The exit code of a command whose worker was killed too often, the failures that end a campaign,
and the kills that must catch a mutant."""
Facts = dict[str, dict[str, Any]]
"""Run -> its result.json."""


class Kill(NamedTuple):
    """What is to be killed, and how many seconds after which sign."""

    part: str
    sign: str
    seconds: float


def any_kill(rng: random.Random) -> Kill:
    sign = rng.choices(list(WAITS), (20, 55, 25))[0]
    part = rng.choices(("all", "worker", "supervisor"), (45, 40, 15))[0]
    return Kill(part, sign, rng.uniform(0, WAITS[sign]))


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
    recent: list[Kill] = field(default_factory=list)
    runs: int = 0
    wrong: int = 0
    restarts: int = 0
    redone: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.parts.total()

    def fail(self, stage: Stage, message: str) -> None:
        where = f"seed {self.workspace.seed}, {stage.folder.name}, {self.recent[-3:]}"
        self.failures.append(f"{where}: {message}")

    def close(self, stage: Stage, expected: Facts) -> None:
        """Judge a stage on which all runs should be done."""
        store = stage.store
        wrong = [difference(store, run, facts) for run, facts in expected.items()]
        wrong = [line for line in wrong if line]
        extra = [f"run {run} was not asked for" for run in store.done() - expected.keys()]
        for line in [*wrong, *extra, *stage.log.faults(), *leftovers(store.root)]:
            self.fail(stage, line)
        if not wrong:
            told = (facts_of(store, run)["provenance"] for run in expected)
            self.restarts += sum({p["population"]: len(p["restarts"]) for p in told}.values())
        self.runs, self.wrong = self.runs + len(expected), self.wrong + len(wrong)
        self.redone = max([self.redone, *stage.log.redone().values()])
        self.recent.clear()
        equal = self.runs - self.wrong
        self.workspace.emit(f"{self.kills} kills, {equal} of {self.runs} runs bit-equal")

    def ended_well(self, stage: Stage, child: Child) -> bool:
        """Tell whether a command ended well; note where it ended in a way that no kill explains."""
        code = child.process.poll()
        if code != 0 and not (code in (-9, GIVEN_UP) and child.hits):
            self.fail(stage, child.last_words())
        return code == 0


def strike(stage: Stage, children: list[Child], kill: Kill, tally: Tally) -> bool:
    """Wait for the sign of a kill from one of some commands, then for its moment, and kill; return
    whether there was a process to kill."""

    def signs(child: Child) -> list[str]:
        notes = stage.log.notes()[child.since :]
        return ["start"] + [note.kind for note in notes if note.group == child.group]

    def ready() -> list[Child]:
        return [child for child in children if child.has_ended() or kill.sign in signs(child)]

    until(ready, SIGN_S)
    child = (ready() or children)[0]
    until(child.has_ended, kill.seconds)
    if not child.kill(kill.part):
        return False
    child.since = len(stage.log.notes())
    tally.parts[kill.part] += 1
    tally.recent.append(kill)
    return True


def besiege(
    stage: Stage,
    start: Callable[[], Child],
    count: int,
    limit: int,
    tally: Tally,
    draw: Callable[[random.Random], Kill] = any_kill,
) -> list[Child]:
    """Let `count` commands work, kill one after another while the tally has less than `limit` kills
    and start it again; return the commands once all have ended well."""
    rng, end = tally.workspace.generator(stage.folder.name), time.monotonic() + LIMIT_S
    children = [start() for _ in range(count)]
    while time.monotonic() < end and len(tally.failures) < ENOUGH:
        for i, child in enumerate(children):
            if child.has_ended() and not tally.ended_well(stage, child):
                if not until(child.is_empty, QUIET_S):
                    tally.fail(stage, "a process outlived the kill")
                children[i] = start()
        going = [child for child in children if not child.has_ended()]
        if not going:
            return children
        rng.shuffle(going)
        if tally.kills >= limit or not strike(stage, going, draw(rng), tally):
            time.sleep(0.02)
    tally.fail(stage, f"not done after {LIMIT_S:g} s")
    return children


def undisturbed(tally: Tally, name: str, start: Callable[[Stage], Child], count: int) -> Facts:
    """Return the results of commands that nobody kills; together they begin each run once."""
    with Stage(tally.workspace, name) as stage:
        besiege(stage, partial(start, stage), count, 0, tally)
        for run, times in stage.log.count("trains").items():
            if times > 1:
                tally.fail(stage, f"run {run} was begun {times} times")
        return {run: facts_of(stage.store, run) for run in sorted(stage.store.done())}


def kill_runs(tally: Tally) -> None:
    """Kill scripts/train.py, each run until it is done."""
    is_long = tally.workspace.is_long
    steps: Config = {"train.steps": STEPS[is_long]}
    variants = VARIANTS if is_long else VARIANTS[:1]
    starts = [
        partial(Stage.start_run, settings=v | steps | {"seed": i}) for i, v in enumerate(variants)
    ]
    expected = [undisturbed(tally, f"run-{i}", start, 1) for i, start in enumerate(starts)]
    number = 0
    while tally.kills < RUN_KILLS[is_long] and len(tally.failures) < ENOUGH:
        which = number % len(starts)
        with Stage(tally.workspace, f"killed-run-{number}") as stage:
            besiege(stage, partial(starts[which], stage), 1, RUN_KILLS[is_long], tally)
            tally.close(stage, expected[which])
        number += 1


def kill_studies(tally: Tally) -> None:
    """Kill two scripts/study.py on one directory, or three in the long version."""
    is_long, number = tally.workspace.is_long, 0
    crew, limit = 3 if is_long else 2, tally.kills + STUDY_KILLS[is_long]
    expected = undisturbed(tally, "study", Stage.start_study, crew)
    while tally.kills < limit and len(tally.failures) < ENOUGH:
        with Stage(tally.workspace, f"killed-study-{number}") as stage:
            children = besiege(stage, stage.start_study, crew, limit, tally)
            if len({child.table() for child in children} - {""}) != 1:
                tally.fail(stage, f"not one table: {[child.table() for child in children]}")
            if len(expected) != runs_of(len(ARMS)):
                tally.fail(stage, f"{len(expected)} runs were done, not {runs_of(len(ARMS))}")
            tally.close(stage, expected)
        number += 1


def begin_again_in_silence() -> None:
    """Be a mutant: write checkpoints in place and slowly, and begin again where one is damaged."""
    whole = files.write_atomic

    def write(path: Path, content: str | bytes) -> None:
        if not path.match("checkpoint-*.json"):
            return whole(path, content)
        data = content.encode() if isinstance(content, str) else content
        with open(path, "wb", buffering=0) as file:
            for first in range(0, len(data), len(data) // 20 + 1):
                file.write(data[first : first + len(data) // 20 + 1])
                time.sleep(0.003)

    def newest(self: PopulationFolder, warn: Callable[[str], None]) -> Checkpoint | None:
        del warn
        try:
            return self.read(self.steps()[0])
        except (IndexError, FileNotFoundError, Damaged):
            return None

    files.write_atomic, PopulationFolder.newest = write, newest


def is_mutant_caught(workspace: Workspace) -> bool:
    """Tell whether a dozen kills show the broken writer of checkpoints."""
    mutant, tally = begin_again_in_silence, Tally(workspace)
    rng = workspace.generator(mutant.__name__)
    with Stage(workspace, mutant.__name__, mutant) as stage:
        while not stage.log.faults() and len(stage.children) < DOZEN:
            child = stage.start_run(VARIANTS[0] | {"train.steps": STEPS[True]})
            strike(stage, [child], Kill("all", "row", rng.uniform(0.1, 1)), tally)
            until(child.is_empty, QUIET_S)
        return bool(stage.log.faults())


def run(workspace: Workspace) -> Report:
    """Kill single runs, then studies that share a directory, then mutants."""
    began, tally = time.monotonic(), Tally(workspace)
    kill_runs(tally)
    kill_studies(tally)
    seconds = (time.monotonic() - began) / max(tally.kills, 1)
    is_caught = is_mutant_caught(workspace)
    lost = [line for line in tally.failures if "is lost" in line]
    twice = [line for line in tally.failures if "twice" in line]
    figures = {
        "kills": tally.kills,
        "of": ", ".join(f"{part} {n}" for part, n in tally.parts.most_common()),
        "restarts from a checkpoint": tally.restarts,
        "runs lost": len(lost),
        "runs recorded twice": len(twice),
        "bit-equal": f"{tally.runs - tally.wrong} of {tally.runs}",
        "steps redone, most": tally.redone,
        "seconds per kill": round(seconds, 1),
        "mutants caught": f"{int(is_caught)} of 1",
    }
    goal = f"no run lost or recorded twice, all as if undisturbed, at most {CHUNK} steps redone"
    failures = tally.failures + ([] if is_caught else ["a mutant was not caught"])
    return Report("Kills of runs and of studies that share a directory", goal, figures, failures)
