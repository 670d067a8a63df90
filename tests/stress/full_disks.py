"""Disks that are full, folders that are gone and folders without permission.

Each must be reported at once, in one line, and change nothing that is there; with room again the
same call works. `python -m stress.full_disks FOLDER SEED COUNT` tries it in a process without jax,
which can fork children that limit themselves.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from normlab.runs.checkpoints import unfinished
from normlab.runs.store import Store
from normlab.studies.setup import ROOT
from stress.campaign import Broken, Report, Workspace, caught, error_of
from stress.crash_injection import ask, in_child
from stress.mutants import CARELESS_WRITERS, WRITERS, planted
from stress.operations import Operation, Trial, check_message, operations_of, tree
from stress.states import States, train_states

PAGE, NOBODY, REFUSED = 4096, 65534, 7
"""Bytes of a page, a user without rights, the exit code of a command that cannot write."""
MUTANTS = CARELESS_WRITERS | {name: WRITERS[name] for name in ("a file is written over",)}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Give a file system of its own, in memory; None where this process may not mount one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, free: int) -> Path:
    """Fill the file system of a folder until `free` bytes are left; return the file to remove."""
    facts, filler = os.statvfs(folder), folder / "filler"
    with open(filler, "ab") as file:
        length = file.tell() + facts.f_bavail * facts.f_frsize - free
        if length > 0:
            os.posix_fallocate(file.fileno(), 0, length)
    return filler


def limit_files(length: int) -> None:
    """Make every write beyond `length` bytes of a file fail in this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))


def become_nobody() -> None:
    """Give up the rights of root, whom the permissions of a file do not stop."""
    if os.geteuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)


def limited(trial: Trial, store: Store, limit: Callable[[], object]) -> str:
    """Return how the operation fails in a child that has limited itself."""

    def act(emit: Callable[[str], None]) -> None:
        limit()
        emit(error_of(partial(trial.operation.act, store)))

    return in_child(act)[1]


def outcome(trial: Trial, store: Store, message: str, where: str, words: str = "") -> str:
    """Return "done", "refused", or else what is wrong; `words`: what a refusal must contain."""

    def check() -> None:
        if message:
            check_message(message, store.root, words)
            left = {name for name in tree(store.root).keys() - trial.old if name.endswith(".tmp")}
            if left:
                raise Broken(f"left: {left}")
        trial.check(store)

    wrong = error_of(check)
    if wrong:
        return f"{trial.operation.name}, {where}: {wrong}"
    return "refused" if message else "done"


def short_of_room(
    states: States, operation: Operation, rng: random.Random, count: int
) -> Iterator[str]:
    """Yield the outcome at each of `count` lengths that no file may exceed, and at as many counts
    of free pages where a disk can be mounted."""
    trial = Trial(states, operation, states.folder / "place")
    most = max(trial.lengths, default=1)
    for length in [0, most - 1, most, *(rng.randrange(most) for _ in range(count - 3))]:
        store = trial.begin()
        message = limited(trial, store, partial(limit_files, length))
        words = "are free" if message else ""
        yield outcome(trial, store, message, f"files of at most {length} bytes", words)
    with small_disk(states.folder / "small") as folder:
        if folder is not None:
            trial = Trial(states, operation, folder / "results")
            most = sum(-(-length // PAGE) + 1 for length in trial.lengths)
            for pages in rng.sample(range(most + 1), min(count, most + 1)):
                store = trial.begin()
                filler = fill(folder, pages * PAGE)
                message = error_of(partial(operation.act, store))
                filler.unlink()
                yield outcome(trial, store, message, f"{pages} pages of {PAGE} bytes")


def without_permission(states: States, operation: Operation) -> Iterator[str]:
    """Yield the outcome where nothing may be written, and where the folder is gone."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # others may read it
        trial = Trial(states, operation, Path(place, "results"))
        store = trial.begin()
        modes = {path: path.stat().st_mode for path in [store.root, *store.root.rglob("*")]}
        for path, mode in modes.items():
            path.chmod(mode & 0o555)
        message = limited(trial, store, become_nobody)
        for path, mode in modes.items():
            path.chmod(mode)
        yield outcome(trial, store, message, "without permission")
        if operation.name in ("checkpoint", "curve"):  # the others make their folder again
            shutil.rmtree(store.root)
            message = error_of(partial(operation.act, store))
            yield error_of(partial(check_message, message, store.root)) or "refused"


def outcomes(states: States, operation: Operation, seed: str, count: int) -> list[str]:
    rng = random.Random(f"{seed} {operation.name}")
    found = list(short_of_room(states, operation, rng, count))
    return found + list(without_permission(states, operation))


def main() -> None:
    """Print as JSON the number of each outcome, what was wrong, and the mutants not caught."""
    folder, seed, count = sys.argv[1:]
    states = States(Path(folder))
    operations = operations_of(states)
    found = [o for op in operations for o in outcomes(states, op, seed, int(count))]
    counts, missed = Counter(found), []
    for name, mutant in MUTANTS.items():
        with planted(mutant):
            if {"done", "refused"} >= set(outcomes(states, operations[0], seed, 4)):
                missed.append(name)
    good = {name: counts.pop(name, 0) for name in ("done", "refused")}
    print(json.dumps(good | {"bad": list(counts), "missed": missed}))


COMMAND = (
    f"{ROOT / 'scripts' / 'train.py'} --config=digits_mlp --config.data.name=synthetic "
    "--config.model.widths=(8,) --config.train.steps=600 --config.train.eval_every=5 "
    "--config.host.chunk=5 --config.train.checkpoint_seconds=0"
).split()
ROOM = 12_000
"""Bytes: above those of this network's arrays, below those of its last checkpoint's curve."""


LIMITED = (
    "import os, resource, sys; n = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); os.execv(sys.argv[2], sys.argv[2:])"
)


def train(root: Path, room: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run scripts/train.py, whose files may have at most `room` bytes."""
    limit = [] if room is None else [sys.executable, "-c", LIMITED, str(room)]
    command = [*limit, sys.executable, *COMMAND, f"--results={root}"]
    return subprocess.run(command, capture_output=True, text=True)


def check_training(whole: Store, root: Path, room: int) -> None:
    """Raise Broken unless a training without room ends with exit code 7 and one line, and the same
    command with room again ends with the bits of an undisturbed one."""
    run = train(root, room)
    if run.returncode != REFUSED or run.stderr.count("\n") != 1 or str(root) not in run.stderr:
        raise Broken(f"exit code {run.returncode}, not one line with the path: {run.stderr}")
    warnings: list[str] = []
    saved = [folder.newest(warnings.append) for folder in unfinished(Store(root))]
    steps = [checkpoint.step for checkpoint in saved if checkpoint]
    if warnings or not all(f"checkpoint is that of step {step}" in run.stderr for step in steps):
        raise Broken(f"its last checkpoint is of {steps}, {warnings}: {run.stderr}")
    again, (name,) = train(root), whole.done()
    if again.returncode:
        raise Broken(f"with room again it ends with {again.returncode}: {again.stderr}")
    found, expected = Store(root).read(name), whole.read(name)
    if (found.final, found.curve) != (expected.final, expected.curve):
        raise Broken("it ended with other bits than an undisturbed run")
    if [restart["step"] for restart in found.provenance["restarts"]] != steps:
        raise Broken(f"it did not go on from {steps}")


def run(workspace: Workspace) -> Report:
    """Take room, permission, the folder and the disk away from all that is written, then let a
    training run out of room and give the same command again."""
    count, seed = 20 if workspace.is_long else 3, f"seed {workspace.seed}"
    states = train_states(workspace.folder / "states")
    answer = ask("stress.full_disks", states.folder, workspace.seed, count)
    failures = [f"{seed}: {text}" for text in answer["bad"]]
    whole, rng = workspace.folder / "whole", workspace.generator("training")
    train(whole)
    rooms = [ROOM, *(rng.randrange(300, ROOM) for _ in range(6 if workspace.is_long else 0))]
    for room in rooms:
        place = workspace.folder / f"room-{room}"
        wrong = error_of(partial(check_training, Store(whole), place, room))
        failures += [f"{seed}: files of at most {room} bytes: {wrong}"] if wrong else []
    failures += [f"a mutant was not caught: {name}" for name in answer["missed"]]
    figures = {
        "refused": answer["refused"],
        "done, there was room": answer["done"],
        "trainings refused and continued": len(rooms),
        "bad": len(failures),
        "mutants caught": caught(answer["missed"], MUTANTS),
    }
    goal = "reported at once in one line; what was there is whole; with room the same call works"
    return Report("Full disks, lost permission and lost folders", goal, figures, failures)


if __name__ == "__main__":
    main()
