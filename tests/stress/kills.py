"""Kills at random moments: no run is lost or recorded twice, and each ends as if undisturbed."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from normlab.runs import files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import Damaged
from normlab.runs.store import Store
from normlab.settings import Config
from stress.campaign import Report, Workspace
from stress.studies import CHUNK, Child, Stage, need_linux, table_of, until

COMPARED = ("status", "diverged_at", "skipped_steps", "final", "curve_sha256")
"""What of a result must not depend on kills."""
VARIANTS: tuple[Config, ...] = (
    {"norm.name": "batch", "optim.name": "momentum"},
    {"norm.name": "batch", "optim.name": "adam", "optim.lr": 0.01},
    {"norm.name": "layer", "optim.name": "sgd"},
    {"norm.name": "batch_renorm", "optim.name": "adamw", "optim.lr": 0.01},
    {"norm.name": "batch", "norm.average": "cumulative", "optim.schedule": "cosine"},
    {"norm.name": "group", "norm.noise": 0.5, "optim.name": "momentum"},
)
RUN_STEPS = 600, 2500
RUN_KILLS, STUDY_KILLS = (4, 260), (3, 250)
"""Of the short version and the long one."""
WAITS = {"start": 3.0, "row": 1.5, "finishing": 0.06}
"""Seconds in which a kill may come after the start, the first row of a curve, the first result."""
SIGN_SECONDS, QUIET_SECONDS, LIMIT_SECONDS = 15.0, 30.0, 600.0
"""For a sign (workers may have nothing to do), until a command that was hit must be gone, and until
those that nobody hits must have ended."""
GIVEN_UP, ENOUGH, DOZEN = 70, 20, 12
"""The exit code of a command whose worker was killed too often, the failures that end a campaign,
and the kills that must catch a broken writer."""
PHASES = {"start": "starting", "trains": "compiling", "row": "training"}
PHASES |= dict.fromkeys(("finishing", "again", "finished"), "finishing")


GOAL = f"no run lost or recorded twice, all as if undisturbed, at most {CHUNK} steps redone"
Facts = dict[str, dict[str, Any]]
"""Run -> its result.json."""


def facts_of(store: Store, name: str) -> dict[str, Any]:
    """Return the result of a run; raises Damaged where it or its curve is not as it was written."""
    store.read(name)
    return files.read_json(store.run_dir(name) / "result.json")


def differences(store: Store, name: str, expected: dict[str, Any]) -> list[str]:
    """Return what is wrong with one run."""
    if not store.is_done(name):
        return [f"run {name} is lost"]
    try:
        found = facts_of(store, name)
    except Damaged as error:
        return [str(error)]
    wrong = [k for k in COMPARED if json.dumps(found[k]) != json.dumps(expected[k])]
    if not found["provenance"]["bit_exact"]:
        wrong.append(f"its place, marked not bit-exact: {found['provenance']['restarts']}")
    return [f"run {name} differs in {', '.join(wrong)}"] if wrong else []


def setbacks(stage: Stage) -> list[str]:
    """Return the signs that checkpoints were lost or damaged."""
    told = [
        f"run {s.name} went on from step {s.step} after step {s.before}"
        for s in stage.log.starts()
        if s.before - s.step > CHUNK
    ]
    damaged = sorted(stage.store.root.glob("populations/*/*.corrupt"))
    return told + [f"a damaged checkpoint: {path.name}" for path in damaged]


def leftovers(root: Path) -> list[str]:
    """Return what no finished run may leave."""
    patterns = ("populations/*/checkpoint-*", "populations/*/unfinished", "runs/*/.*.tmp")
    found = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    return [f"{path.relative_to(root)} is left" for path in found]


def audit(stage: Stage, expected: Facts) -> list[str]:
    """Return every promise that was broken on a stage where all runs should be done."""
    store, log = stage.store, stage.log
    told = [line for name, facts in expected.items() for line in differences(store, name, facts)]
    told += [f"run {name} was never asked for" for name in store.done() - expected.keys()]
    told += [f"run {name} was recorded twice" for name in log.recorded_twice()]
    told += [f"run {name} was trained by two at once" for name in log.trained_by_two()]
    return told + leftovers(store.root) + setbacks(stage)


@dataclass(frozen=True)
class Blow:
    """What is to be killed and when, as the dice fell."""

    part: str
    sign: str
    seconds: float

    @staticmethod
    def throw(dice: random.Random) -> Blow:
        sign = dice.choices(list(WAITS), (20, 55, 25))[0]
        part = dice.choices(("all", "worker", "supervisor"), (45, 40, 15))[0]
        return Blow(part, sign, dice.uniform(0, WAITS[sign]))


@dataclass
class Tally:
    """What is counted while processes are killed."""

    desk: Workspace
    began: float = field(default_factory=time.monotonic)
    parts: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    blows: list[Blow] = field(default_factory=list)
    runs: int = 0
    equal: int = 0
    lost: int = 0
    twice: int = 0
    restarts: int = 0
    redone: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.parts.total()

    def fail(self, stage: Stage, what: str) -> None:
        where = f"seed {self.desk.seed}, {stage.folder.name}, {self.blows[-3:]}"
        self.failures.append(f"{where}: {what}")

    def close(self, stage: Stage, expected: Facts) -> None:
        """Judge a stage where all runs should be done."""
        for line in audit(stage, expected):
            self.fail(stage, line)
        store, restarts = stage.store, dict[str, int]()
        for name, facts in expected.items():
            if not differences(store, name, facts):
                self.equal += 1
                told = facts_of(store, name)["provenance"]
                restarts[told["population"]] = len(told["restarts"])
        self.runs += len(expected)
        self.lost += sum(not store.is_done(name) for name in expected)
        self.twice += len(stage.log.recorded_twice())
        self.restarts += sum(restarts.values())
        self.redone += [start.before - start.step for start in stage.log.starts()]
        self.blows.clear()
        self.desk.tell(f"{self.kills} kills, {self.equal} of {self.runs} runs bit-equal")

    def report(self, title: str, goal: str) -> Report:
        figures = {
            "kills": self.kills,
            "of": ", ".join(f"{part} {n}" for part, n in self.parts.most_common()),
            "while": ", ".join(f"{phase} {n}" for phase, n in self.phases.most_common()),
            "restarts from a checkpoint": self.restarts,
            "runs lost": self.lost,
            "runs recorded twice": self.twice,
            "bit-equal": f"{self.equal} of {self.runs}",
            "steps redone, median": statistics.median(self.redone or [0]),
            "steps redone, most": max(self.redone, default=0),
            "seconds per kill": round((time.monotonic() - self.began) / max(self.kills, 1), 1),
        }
        return Report(title, goal, figures, self.failures)


def strike(
    stage: Stage, children: list[Child], blow: Blow, dice: random.Random, tally: Tally
) -> bool:
    """Wait for a blow's sign from any of some commands, then for its moment, and kill; return
    whether there was something to kill."""

    def news(child: Child) -> list[str]:
        notes = stage.log.read()[child.since :]
        return ["start"] + [note.kind for note in notes if note.group == child.group]

    def ready() -> list[Child]:
        return [child for child in children if child.has_ended() or blow.sign in news(child)]

    until(ready, SIGN_SECONDS)
    child = dice.choice(ready() or children)
    until(child.has_ended, blow.seconds)
    phase = PHASES[news(child)[-1]]
    if not child.kill(blow.part):
        return False
    child.since = len(stage.log.read())
    tally.parts[blow.part] += 1
    tally.phases[phase] += 1
    tally.blows.append(blow)
    return True


def ended_well(stage: Stage, child: Child, tally: Tally, retries: int) -> bool:
    """Tell whether a command ended well, and take note where it ended as it must not."""
    code = child.process.poll()
    is_given_up = code == GIVEN_UP and child.hits > retries
    if code != 0 and not is_given_up and not (code == -9 and child.hits):
        tally.fail(stage, child.last_words())
    return code == 0


def besiege(stage: Stage, settings: Config, dice: random.Random, limit: int, tally: Tally) -> None:
    """Start a run again and again, killing it while the tally has less than `limit` kills, until it
    ends by itself."""
    while True:
        child, is_hit = stage.start_run(settings), False
        while tally.kills < limit and not (is_hit or child.has_ended()):
            is_hit = strike(stage, [child], Blow.throw(dice), dice, tally)
        if not until(child.is_empty, QUIET_SECONDS if is_hit else LIMIT_SECONDS):
            tally.fail(stage, "a process outlived the kill" if is_hit else "it never ends")
            return
        if ended_well(stage, child, tally, retries=0) or not is_hit:
            return


def undisturbed(desk: Workspace, name: str, start: Callable[[Stage], Child]) -> tuple[Facts, str]:
    """Return the results and the table of a command that nobody kills; raises RuntimeError."""
    with Stage(desk, name) as stage:
        child = start(stage)
        if not until(child.is_empty, LIMIT_SECONDS) or child.process.returncode:
            raise RuntimeError(f"an undisturbed command failed: {child.last_words()}")
        done = sorted(stage.store.done())
        return {run: facts_of(stage.store, run) for run in done}, table_of(child)


def single_runs(desk: Workspace) -> Report:
    """Kill scripts/train.py, each run until it is done."""
    need_linux()
    limit, variants = RUN_KILLS[desk.is_long], VARIANTS if desk.is_long else VARIANTS[:1]
    steps: Config = {"train.steps": RUN_STEPS[desk.is_long]}
    runs = [variant | steps | {"seed": seed} for seed, variant in enumerate(variants)]
    expected = [
        undisturbed(desk, f"undisturbed-{i}", lambda stage, run=run: stage.start_run(run))[0]
        for i, run in enumerate(runs)
    ]
    tally, number = Tally(desk), 0
    while tally.kills < limit and len(tally.failures) < ENOUGH:
        which = number % len(runs)
        with Stage(desk, f"run-{number}") as stage:
            besiege(stage, runs[which], desk.dice(stage.folder.name), limit, tally)
        tally.close(stage, expected[which])
        number += 1
    report = tally.report("kills of single runs", GOAL)
    planted = broken_writers(desk) if desk.is_long else Report("", "", {})
    figures = {**report.figures, **planted.figures}
    return replace(report, figures=figures, failures=report.failures + planted.failures)


def besiege_study(
    stage: Stage, crew: int, dice: random.Random, limit: int, table: str, tally: Tally
) -> None:
    """Let several commands work on one study, kill one after another and start it again, until all
    of them have ended well."""
    hands = [stage.start_study() for _ in range(crew)]
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end and len(tally.failures) < ENOUGH:
        for i, child in enumerate(hands):
            if child.has_ended() and not ended_well(stage, child, tally, retries=1):
                hands[i] = stage.start_study()
        going = [child for child in hands if not child.has_ended()]
        if not going:
            tables = {table_of(child) for child in hands}
            if tables != {table}:
                tally.fail(stage, f"{tables} is told instead of {table!r}")
            if not until(lambda: all(c.is_empty() for c in stage.children), QUIET_SECONDS):
                tally.fail(stage, "a process outlived its command")
            return
        if tally.kills < limit:
            strike(stage, going, Blow.throw(dice), dice, tally)
        time.sleep(0.05)
    tally.fail(stage, f"not done after {LIMIT_SECONDS:g} s")


def study(desk: Workspace) -> Report:
    """Kill three scripts/study.py on one directory, or two and for a moment."""
    need_linux()
    limit, crew = STUDY_KILLS[desk.is_long], 3 if desk.is_long else 2
    expected, table = undisturbed(desk, "undisturbed", Stage.start_study)
    tally, number = Tally(desk), 0
    while tally.kills < limit and len(tally.failures) < ENOUGH:
        with Stage(desk, f"study-{number}") as stage:
            besiege_study(stage, crew, desk.dice(stage.folder.name), limit, table, tally)
        tally.close(stage, expected)
        number += 1
    return tally.report("kills of studies that share a directory", GOAL)


# Broken on purpose, in child processes only.


def save_in_place() -> None:
    """Break checkpoints: their facts are written under their own name, and slowly."""
    whole = files.write_atomic

    def write(path: Path, content: str | bytes) -> None:
        if not path.match("checkpoint-*.json"):
            return whole(path, content)
        data = content.encode() if isinstance(content, str) else content
        with open(path, "wb", buffering=0) as file:
            for first in range(0, len(data), len(data) // 20 + 1):
                file.write(data[first : first + len(data) // 20 + 1])
                time.sleep(0.003)

    files.write_atomic = write


def begin_again_in_silence() -> None:
    """Break checkpoints, and answer a damaged one by beginning at step 0."""
    save_in_place()

    def newest(self: PopulationFolder, warn: Callable[[str], None]) -> Checkpoint | None:
        del warn
        try:
            return self.read(self.steps()[0])
        except (IndexError, FileNotFoundError, Damaged):
            return None

    PopulationFolder.newest = newest


FAULTS = {save_in_place: "a damaged checkpoint", begin_again_in_silence: "went on from step 0"}
"""Broken writer -> what the campaign must say of it."""


def broken_writers(desk: Workspace) -> Report:
    """Try writers of checkpoints that are broken: a dozen kills must show it."""
    need_linux()
    tally, missed = Tally(desk), set(FAULTS)
    for fault, sign in FAULTS.items():
        dice = desk.dice(fault.__name__)
        with Stage(desk, fault.__name__, fault) as stage:
            while fault in missed and len(stage.children) < DOZEN:
                child = stage.start_run(VARIANTS[0] | {"train.steps": RUN_STEPS[True]})
                strike(stage, [child], Blow("all", "row", dice.uniform(0.1, 1)), dice, tally)
                until(child.is_empty, QUIET_SECONDS)
                if any(sign in line for line in setbacks(stage)):
                    missed.remove(fault)
            if fault in missed:
                tally.fail(stage, f"{DOZEN} kills did not show that the writer is broken")
    caught = f"{len(FAULTS) - len(missed)} of {len(FAULTS)}"
    figures = {"planted faults caught": caught, "kills to catch them": tally.kills}
    return Report("broken writers of checkpoints", "noticed", figures, tally.failures)
