"""Disks that are full, read-only or gone, and folders without rights.

Each must be told at once, in one line, and change nothing that is there; when it is mended, the
same call works. `python -m stress.full_disks CAMPAIGN FOLDER SEED COUNT` does it in a process
without jax, which can fork children that limit themselves.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from normlab.runs.checkpoints import unfinished
from normlab.runs.store import Store
from normlab.studies.study import ROOT
from stress.campaign import Report, Workspace
from stress.crash_injection import ask, become_nobody, fill, limit_files, small_disk
from stress.mutants import CARELESS_WRITERS, DISK_WRITERS, planted
from stress.real_runs import Broken, Real, leftovers, train_real
from stress.tasks import DONE, REFUSED, Task, Trial, tasks_of

PAGE = 4096
REFUSAL = 7
"""The exit code of a command that cannot write its results."""
FAULTS = {"full": DISK_WRITERS, "permission": CARELESS_WRITERS}


def full_disks(real: Real, task: Task, dice: random.Random, count: int) -> Iterator[str]:
    """Yield the verdict at each of `count` lengths that no file may exceed, and at as many counts
    of free pages where a disk can be mounted: from nothing to all that the task needs."""
    trial = Trial(real, task, real.folder / "place")
    most = max(trial.lengths)
    lengths = [0, most - 1, most, *(dice.randrange(most) for _ in range(count - 3))]
    for length in lengths:
        store = trial.begin()
        told = trial.act_apart(store, lambda n=length: limit_files(n))
        yield trial.verdict(store, told, f"files of at most {length} bytes", "are free")
    with small_disk(real.folder / "small") as folder:
        if folder is not None:
            trial = Trial(real, task, folder / "results")
            most = sum(-(-length // PAGE) + 1 for length in trial.lengths)
            for pages in dice.sample(range(most + 1), min(count, most + 1)):
                store = trial.begin()
                filler = fill(folder, pages * PAGE)
                told = trial.act(store)
                filler.unlink()
                yield trial.verdict(store, told, f"{pages} pages of {PAGE} bytes", "are free")


def lost_rights(real: Real, task: Task) -> Iterator[str]:
    """Yield the verdict where nothing may be written, where the disk is read-only, if one can be
    mounted, and where the folder is gone."""
    place = Path(tempfile.mkdtemp())  # where nobody may read too
    try:
        place.chmod(0o755)
        trial = Trial(real, task, place / "results")
        store = trial.begin()
        modes = {path: path.stat().st_mode for path in [store.root, *store.root.rglob("*")]}
        for path, mode in modes.items():
            path.chmod(mode & 0o555)
        told = trial.act_apart(store, become_nobody)
        for path, mode in modes.items():
            path.chmod(mode)
        yield trial.verdict(store, told, "without rights")
        if task.name != "report":  # which makes its folder anew
            yield trial.verdict_gone(store)
    finally:
        shutil.rmtree(place)
    with small_disk(real.folder / "small") as folder:
        if folder is not None:
            trial = Trial(real, task, folder / "results")
            store = trial.begin()
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            told = trial.act(store)
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            yield trial.verdict(store, told, "on a read-only disk")


def verdicts(campaign: str, real: Real, task: Task, seed: str, count: int) -> list[str]:
    if campaign == "full":
        return list(full_disks(real, task, random.Random(f"{seed} {task.name}"), count))
    return list(lost_rights(real, task))


def main() -> None:
    """Print as JSON what was done and refused, what was wrong, and the faults that went unseen."""
    campaign, folder, seed, count = sys.argv[1:]
    real = Real(Path(folder))
    tasks = tasks_of(real)
    told = [text for task in tasks for text in verdicts(campaign, real, task, seed, int(count))]
    counts, missed = Counter(told), []
    for name, fault in FAULTS[campaign].items():
        with planted(fault):
            if {DONE, REFUSED} >= set(verdicts(campaign, real, tasks[0], seed, 4)):
                missed.append(name)
    bad = [text for text in told if text not in (DONE, REFUSED)]
    facts = {"done": counts[DONE], "refused": counts[REFUSED], "bad": bad, "missed": missed}
    print(json.dumps(facts))


def full(desk: Workspace) -> Report:
    """Let the disk be full at many places of all that is written."""
    return _report(desk, "full", "Full disks", 20 if desk.is_long else 4)


def permission(desk: Workspace) -> Report:
    """Take the rights, the folder and the disk away from all that is written."""
    return _report(desk, "permission", "Lost rights, read-only disks and lost folders", 1)


def _report(desk: Workspace, campaign: str, title: str, count: int) -> Report:
    real = train_real(desk.folder)
    told = ask("stress.full_disks", campaign, real.folder, desk.seed, count)
    missed, faults = told["missed"], len(FAULTS[campaign])
    failures = [f"seed {desk.seed}: {text}" for text in told["bad"]]
    failures += [f"a planted fault was not noticed: {name}" for name in missed]
    return Report(
        title,
        "told at once in one line; what was there is whole; once mended, the same call works",
        {
            "tried": told["done"] + told["refused"] + len(told["bad"]),
            "refused": told["refused"],
            "done, there was room": told["done"],
            "bad": len(told["bad"]),
            "planted faults caught": f"{faults - len(missed)} of {faults}",
        },
        failures,
    )


COMMAND = (
    f"{ROOT / 'scripts' / 'train.py'} --config=digits_mlp --config.data.name=synthetic "
    "--config.model.widths=(8,) --config.train.steps=600 --config.train.eval_every=5 "
    "--config.host.chunk=5 --config.train.checkpoint_seconds=0"
).split()
LIMITED = (
    "import os, resource, sys; n = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); os.execv(sys.argv[2], sys.argv[2:])"
)
SOME = 12_000
"""Bytes: above those of this network's arrays, below those of its last checkpoint's curve."""


class Filling:
    """A training on a disk that fills, and the same command on a disk with room again."""

    def __init__(self, whole: Store):
        self.name = next(iter(whole.done()))
        self.expected = whole.read(self.name)
        self.told: Counter[str] = Counter()

    def limited(self, root: Path, length: int) -> None:
        """Raise Broken where a promise is not kept by a process whose files have a limit."""
        self.finish(start(root, sys.executable, "-c", LIMITED, str(length)), root)

    def filled(self, root: Path, step: int) -> None:
        """Raise the same where the disk below `root` is full from a checkpoint of `step` on."""
        process = start(root)
        while process.poll() is None:
            folders = unfinished(Store(root))
            if any(s >= step for folder in folders for s in folder.steps()):
                with suppress(OSError):  # it took the last byte meanwhile
                    fill(root.parent, 0)
            time.sleep(0.002)
        (root.parent / "filler").unlink(missing_ok=True)
        self.finish(process, root)

    def finish(self, process: subprocess.Popen[str], root: Path) -> None:
        error, steps = process.communicate()[1], []
        if process.returncode:
            steps = self.check_refusal(process.returncode, error, root)
            again = start(root)
            error = again.communicate()[1]
            if again.returncode:
                raise Broken(f"with room again it ends with {again.returncode}: {error}")
        else:
            self.told["full too late"] += 1
        found = Store(root).read(self.name)
        if (found.final, found.curve) != (self.expected.final, self.expected.curve):
            raise Broken("it ended with other bits than without a full disk")
        restarts = [restart["step"] for restart in found.provenance["restarts"]]
        if restarts != steps or not found.provenance["bit_exact"]:
            raise Broken(f"its checkpoints were of {steps}, it went on from {restarts}")
        if leftovers(root):
            raise Broken(f"left: {leftovers(root)}")

    def check_refusal(self, code: int, error: str, root: Path) -> list[int]:
        """Return the steps of the checkpoints from which the run can go on."""
        lines = error.splitlines()
        if code != REFUSAL or len(lines) != 1 or str(root) not in error:
            raise Broken(f"exit code {code}, not one line that names the path: {error}")
        warned: list[str] = []
        saved = [folder.newest(warned.append) for folder in unfinished(Store(root))]
        if warned:
            raise Broken(f"its checkpoint is not whole: {warned[0]}")
        steps = [checkpoint.step for checkpoint in saved if checkpoint]
        if not steps:
            self.told["refused before the first checkpoint"] += 1
        for step in steps:
            self.told["refused, and went on from a checkpoint"] += 1
            if f"the last good checkpoint is that of step {step}" not in error:
                raise Broken(f"its last good checkpoint, of step {step}, is not told: {error}")
        return steps


def start(root: Path, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, *COMMAND, f"--results={root}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, text=True)


def training(desk: Workspace) -> Report:
    """Let the disk fill while scripts/train.py trains, then give the same command again."""
    process = start(desk.folder / "whole")
    error = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{' '.join(COMMAND)} ends with {process.returncode}: {error}")
    filling, dice = Filling(Store(desk.folder / "whole")), desk.dice("training")
    more = 6 if desk.is_long else 0
    limits = [SOME, *(dice.randrange(300, 30_000) for _ in range(more))]
    steps = [dice.randrange(5, 300) for _ in range(more)]
    wrong = []

    def attempt(act: Callable[[], None], where: str) -> None:
        desk.tell(where)
        try:
            act()
        except Exception as error:
            wrong.append(f"seed {desk.seed}: {where}: {type(error).__name__}: {error}")

    for n in limits:
        attempt(partial(filling.limited, desk.folder / f"limit-{n}", n), f"at most {n} bytes")
    with small_disk(desk.folder / "small") as folder:
        if folder is not None:
            for step in steps:
                place = folder / f"results-{step}"
                attempt(partial(filling.filled, place, step), f"disk full from step {step} on")
    return Report(
        "Disks that fill while it trains",
        "exit code 7 and one line; the same command then ends with the bits of a run with room",
        {"tried": len(limits) + len(steps), **filling.told, "bad": len(wrong)},
        wrong,
    )


if __name__ == "__main__":
    main()
