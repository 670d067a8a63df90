"""A study of 24 runs on workers that are killed under it, and what has to be there in the end.

Each run must be recorded once, with the bits of an undisturbed study on this machine alone.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workspace import ROOT, runs_of, study_text

from normlab.runs import files
from stress.campaign import Broken, Report, Workspace
from stress.kills import Facts, difference, facts_of
from stress.processes import Child, Stage, members, until

ARMS = ("none", "batch", "layer", "group")
STEPS, CHUNK = 24_000, 1_000
SIZES = {"train_eval_every": CHUNK, "eval_curve_examples": 100, "eval_stats_examples": 64}
SIGN_S, END_S = 120.0, 300.0
"""Seconds for a sign of training, and for the rest of the study."""
MOST_S = {"frozen": 90.0, "head": 70.0}
"""Most seconds from a fault to its replacement, and to the end of the command."""


def witness(log: str) -> None:
    """Make this process append to a log, by single writes, which results it records."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    write = files.write_atomic

    def logged(path: Path, content: str | bytes) -> None:
        write(path, content)
        if path.name == "result.json" and "normlab-worker-" not in str(path):
            os.write(handle, f"recorded {os.getpgid(0)} {path.parent.name} 0\n".encode())

    files.write_atomic = logged


def start(stage: Stage, steps: int, *flags: str) -> Child:
    file = stage.folder / "tiny.py"
    file.write_text(study_text(ARMS, steps, **SIZES), encoding="utf-8")
    settings = ["--config.train.checkpoint_seconds=0", f"--config.host.chunk={CHUNK}"]
    script = str(ROOT / "scripts" / "study.py")
    return stage.start(
        script, f"--study={file}", f"--results={stage.store.root}", *settings, *flags
    )


def undisturbed(workspace: Workspace, steps: int = STEPS) -> Facts:
    """Return the results of the study on the processes of this machine."""
    with Stage(workspace, "local") as stage:
        child = start(stage, steps)
        until(child.has_ended, END_S)
        return {run: facts_of(stage.store, run) for run in sorted(stage.store.done())}


@dataclass
class Attack:
    """One study on one cluster, and what is done to it. A fault is a method of a subclass."""

    stage: Stage
    workspace: Workspace
    flags: Sequence[str]
    steps: int = STEPS
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Fault -> until it was dealt with."""

    def __post_init__(self) -> None:
        self.again()

    def again(self) -> None:
        """Give the same command."""
        self.child = start(self.stage, self.steps, *self.flags)

    def seen(self) -> bool:
        """Wait until a population has a new checkpoint; return whether there was one in time."""
        known = self.checkpoints()
        found = until(lambda: self.child.has_ended() or self.checkpoints() - known, SIGN_S)
        if not found or self.child.has_ended():
            self.failures.append(f"no training to be seen: {self.child.last_words()}")
        return found and not self.child.has_ended()

    def checkpoints(self) -> set[str]:
        paths = self.stage.store.root.glob("populations/*/checkpoint-*.json")
        return {f"{path.parent.name}/{path.name}" for path in paths}

    def printed(self) -> str:
        return self.child.out.read_text(encoding="utf-8")

    def interrupted(self) -> int:
        """Return how often the command said that a population was interrupted."""
        return self.printed().count("; tried again")

    def wait(self, fault: str, condition: Callable[[], object]) -> None:
        """Wait until a fault is dealt with, and note how long that took."""
        began, most = time.monotonic(), MOST_S.get(fault, SIGN_S)
        in_time = until(condition, 2 * most)
        self.seconds[fault] = time.monotonic() - began
        if not in_time or self.seconds[fault] > most:
            self.failures.append(f"{fault}: dealt with after {self.seconds[fault]:.0f} s")

    def command(self) -> None:
        os.killpg(self.child.group, signal.SIGKILL)
        self.child.process.wait()
        until(lambda: not members(self.child.group), SIGN_S)
        self.again()

    def carry_out(self, faults: Sequence[str]) -> None:
        for fault in faults:
            if not self.seen():
                return
            self.workspace.emit(f"{fault} ...")
            try:
                getattr(self, fault)()
            except Broken as error:
                self.failures.append(f"{fault}: {error}")
        if not until(self.child.has_ended, END_S) or self.child.process.poll() != 0:
            self.failures.append(f"the study did not end well: {self.child.last_words()}")

    def judge(self, expected: Facts, faults: Sequence[str]) -> Report:
        """Compare what is there now with the undisturbed study."""
        recorded = Counter(note.run for note in self.stage.log.notes())
        found = [difference(self.stage.store, name, facts) for name, facts in expected.items()]
        wrong = list(filter(None, found))
        twice = [f"run {name} was recorded {n} times" for name, n in recorded.items() if n > 1]
        few = [] if len(expected) == runs_of(len(ARMS)) else [f"{len(expected)} runs undisturbed"]
        figures: dict[str, int | str] = {
            "faults": len(faults),
            "runs lost": sum("is lost" in line for line in wrong),
            "runs recorded twice": len(twice),
            "bit-equal": f"{len(expected) - len(wrong)} of {len(expected)}",
        }
        figures |= {f"{fault}, s": f"{seconds:.0f}" for fault, seconds in self.seconds.items()}
        return Report(figures, [*self.failures, *few, *wrong, *twice])
