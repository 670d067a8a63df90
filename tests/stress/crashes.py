"""A process that is ended or refused at its n-th file operation, for every n until it completes.

There are three ways. The process ends before the operation. Or it ends there with a loss of power:
what was written but not synced becomes empty. What was renamed in a folder that was not synced gets
its old name again. Or from there on all that needs room is refused, as on a full disk.

After each the old or the new is there, whole, and the same call works.

All of this happens in children of a process without jax: `python -m stress.crashes FOLDER`. Then a
training runs out of room.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from normlab.runs.checkpoints import Checkpoint, PopulationFolder, unfinished
from normlab.runs.store import Store
from normlab.shipped import ROOT
from stress.campaign import Broken, Report, Workspace, error_of, report
from stress.crash_injection import CRASHED, CrashPoint, ask, in_child
from stress.mutants import WRITERS
from stress.states import NAME, OWN, SAVED, States, bits, train_states

WAYS = {
    "before": "before an operation",
    "power": "before an operation, with a loss of power",
    "full": "refused by a full disk",
}
MOST = 500
"""Operations after which an attempt is given up."""
RUN = next(iter(OWN))


class Operation(NamedTuple):
    """A call that writes; it may be repeated until it is done."""

    name: str
    act: Callable[[States, Store], object]
    steps: tuple[int, ...] = SAVED[1:]
    """Of the checkpoints that are there before."""
    prepare: Callable[[Store], object] = lambda store: None


def save(states: States, store: Store) -> None:
    new = states.saves[SAVED[-1]]
    PopulationFolder(store, NAME).save(new.step, new.arrays, new.facts)


def form(states: States, store: Store) -> None:
    PopulationFolder(store, NAME).form(OWN, states.facts)


def end(states: States, store: Store) -> None:
    for run in OWN:
        store.finish(run, states.results[run], states.curves[run])
    PopulationFolder(store, NAME).finish()


def put_away(states: States, store: Store) -> None:
    PopulationFolder(store, NAME).newest(lambda message: None)


def write_run(states: States, store: Store) -> None:
    release_lock(store, RUN)
    store.start_curve(RUN, states.curves[RUN][:3])
    store.append_curve(RUN, states.curves[RUN][3:])
    store.finish(RUN, states.results[RUN], states.curves[RUN])


def release_lock(store: Store, run: str) -> None:
    lock = store.lock(run)
    if lock is None:
        raise Broken(f"the lock of run {run} is held by a process that has ended")
    lock.release()


def remove(store: Store) -> None:
    shutil.rmtree(PopulationFolder(store, NAME).path)


def leave_half(store: Store) -> None:
    (PopulationFolder(store, NAME).path / ".manifest.json.1.tmp").write_text("{")


def spoil(store: Store) -> None:
    path = PopulationFolder(store, NAME).path / f"checkpoint-{SAVED[-1]:010d}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def fail(store: Store) -> None:
    store.start_curve(RUN)
    store.fail(RUN, {"attempts": []})


OPERATIONS = (
    Operation("checkpoint", save, SAVED[:2]),
    Operation("form", form, (), remove),
    Operation("form again", form, prepare=leave_half),
    Operation("end", end),
    Operation("put away", put_away, prepare=spoil),
    Operation("run", write_run, (), fail),
)


def tree(root: Path) -> dict[str, bytes]:
    """Return name -> content of all files that are not locks."""
    paths = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


class Trial:
    """An operation at a place, with all files before it (`old`) and after it (`new`)."""

    def __init__(self, states: States, operation: Operation, place: Path):
        self.states, self.operation, self.place = states, operation, place
        self.old = tree(self.begin().root)
        checkpoint, warnings = self._newest(self.begin())
        self.checkpoints, self.may_warn = [bits(checkpoint)], bool(warnings)
        store = self.begin()
        operation.act(states, store)
        self.new = tree(store.root)
        self.checkpoints.append(bits(self._newest(store)[0]))

    def begin(self) -> Store:
        store = self.states.copy(self.place, self.operation.steps)
        self.operation.prepare(store)
        return store

    def _newest(self, store: Store) -> tuple[Checkpoint | None, list[str]]:
        warnings: list[str] = []
        return PopulationFolder(store, NAME).newest(warnings.append), warnings

    def outcomes(self, way: str) -> Iterator[str]:
        """Yield for each point at which the operation is stopped what is wrong then, "" for
        nothing."""
        for at in range(1, MOST):
            store = self.begin()

            def stop(emit: Callable[[str], None], at: int = at, store: Store = store) -> None:
                CrashPoint(at, way, emit).install()
                emit(error_of(partial(self.operation.act, self.states, store)))

            code, message = in_child(stop)
            wrong = error_of(partial(self.check, store, code, message))
            if wrong or code or message:
                where = f"{self.operation.name}, {WAYS[way]}, operation {at} ({message})"
                yield wrong and f"{where}: {wrong}"
            if not (code or message):
                return
        yield f"{self.operation.name}, {WAYS[way]}: not done after {MOST} operations"

    def check(self, store: Store, code: int, message: str) -> None:
        """Raise Broken unless old or new is there, whole, and the same call leads to the new."""
        now = tree(store.root)
        if code not in (0, CRASHED):
            raise Broken(f"exit code {code}")
        if code == 0:
            self._check_answer(store, message, now)
        for name in self.old.keys() | now.keys():
            is_whole = now.get(name) in (self.old.get(name), self.new.get(name))
            is_begun = name.endswith("curve.jsonl") and self.new[name].startswith(now[name])
            if not (is_whole or is_begun or name.endswith(".tmp")):
                raise Broken(f"{name} is neither as it was before nor as it should be")
        self._check_readers(store)
        for run in OWN:  # what the next command does before it writes
            release_lock(store, run)
        form(self.states, store)
        self.operation.act(self.states, store)
        again = tree(store.root)
        wrong = sorted(n for n in self.new.keys() | again.keys() if self.new.get(n) != again.get(n))
        if wrong:
            raise Broken(f"after the same call these are not as they should be: {wrong}")

    def _check_answer(self, store: Store, message: str, now: dict[str, bytes]) -> None:
        """Raise Broken unless all is written, or one line says which file cannot be written."""
        if not message and now != self.new:
            raise Broken("it says nothing, and not all is written")
        is_line = message.startswith("StorageError: ") and os.linesep not in message
        if message and not (is_line and str(store.root) in message):
            raise Broken(f"not a StorageError of one line that names the path: {message}")
        left = {name for name in now.keys() - self.old.keys() if name.endswith(".tmp")}
        if left:
            raise Broken(f"left: {left}")

    def _check_readers(self, store: Store) -> None:
        """Raise Broken where a reader gets something else than the old or the new."""
        population = PopulationFolder(store, NAME)
        runs = population.runs_if_known()
        if runs != OWN and (runs or population.is_unfinished()):
            raise Broken(f"the population has the runs {sorted(runs)}")
        done = [run for run in OWN if store.is_done(run)]
        for run in done:
            if not self.states.is_as_recorded(store, run):
                raise Broken(f"run {run} has another result than was written")
        if len(done) == len(OWN):
            return  # no command needs a checkpoint any more
        found, warnings = self._newest(store)
        if warnings and not self.may_warn:
            raise Broken(f"it warned: {warnings[0]}")
        if bits(found) not in self.checkpoints:
            raise Broken(f"the newest is {found and found.step}, or has other bits")


def main() -> None:
    """Print as JSON the points of each way, what was wrong, and the mutants not caught."""
    patch.object(os, "fsync", lambda handle: None).start()  # losses of power are simulated here
    states, memory = States(Path(sys.argv[1])), Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        trials = [Trial(states, op, Path(folder, op.name)) for op in OPERATIONS]
        outcomes = {way: [o for t in trials for o in t.outcomes(way)] for way in WAYS}
        missed = []
        for name, (way, mutant) in WRITERS.items():
            with patch.object(*mutant):
                if not any(outcome for trial in trials for outcome in trial.outcomes(way)):
                    missed.append(name)
    points = {way: len(texts) for way, texts in outcomes.items()}
    bad = [text for texts in outcomes.values() for text in texts if text]
    print(json.dumps({"points": points, "bad": bad, "missed": missed}))


COMMAND = (
    f"{ROOT / 'scripts' / 'train.py'} --config=digits_mlp --config.data.name=synthetic "
    "--config.model.widths=(8,) --config.train.steps=600 --config.train.eval_every=5 "
    "--config.host.chunk=5 --config.train.checkpoint_seconds=0"
).split()
ROOM, REFUSED = 12_000, 7
"""Bytes: above those of this network's arrays, below those of its last checkpoint's curve; and the
exit code of a command that cannot write."""
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
    """Raise Broken unless a training without room ends with exit code 7 and one line. With room the
    same command must end with the bits of an undisturbed one."""
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
        raise Broken(f"it did not continue from {steps}")


def run(workspace: Workspace) -> Report:
    """Stop a process at each file operation of all that is written of a population and of a run;
    nothing is random there. Then let trainings run out of room."""
    states = train_states(workspace.folder / "states")
    answer = ask("stress.crashes", states.folder)
    points, failures, missed = answer["points"], answer["bad"], answer["missed"]
    whole, rng = workspace.folder / "whole", workspace.generator("training")
    train(whole)
    rooms = [ROOM, *(rng.randrange(300, ROOM) for _ in range(6 if workspace.is_long else 0))]
    for room in rooms:
        check = partial(check_training, Store(whole), workspace.folder / f"room-{room}", room)
        wrong = error_of(check)
        failures += [f"files of at most {room} bytes: {wrong}"] if wrong else []
    figures = {
        "points": sum(points.values()),
        **{WAYS[way]: count for way, count in points.items()},
        "trainings refused and continued": len(rooms),
    }
    return report(figures, failures, missed, WRITERS)


if __name__ == "__main__":
    main()
