"""What is written to a results directory, and what must hold after an attempt failed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from normlab.runs.checkpoints import Checkpoint
from normlab.runs.store import Store
from stress.campaign import Broken
from stress.states import States, same

SPOILT = "checkpoint-0000000015.safetensors"


class Operation(NamedTuple):
    """A call that writes; it may be repeated until it is done."""

    name: str
    state: str
    """Of the results directory in which it begins, see states.SAVED."""
    act: Callable[[Store], object]
    prepare: Callable[[Store], object] = lambda store: None


def operations_of(states: States) -> list[Operation]:
    return population_operations(states) + run_operations(states)


def population_operations(states: States) -> list[Operation]:
    """Return the operations on a population: checkpoints, the manifest, the end."""

    new = states.saves[-1]

    def save(store: Store) -> None:
        states.population(store).save(new.step, new.arrays, new.facts)

    def form(store: Store) -> None:
        states.population(store).form(states.configs, states.facts)

    def end(store: Store) -> None:
        for run, result in states.results.items():
            store.finish(run, result, states.curves[run])
        states.population(store).finish()

    def put_away(store: Store) -> None:
        states.population(store).newest(lambda message: None)

    def remove(store: Store) -> None:
        shutil.rmtree(states.population(store).path)

    def leave_half(store: Store) -> None:
        (states.population(store).path / ".manifest.json.1.tmp").write_text("{")

    def spoil(store: Store) -> None:
        path = states.population(store).path / SPOILT
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    return [
        Operation("checkpoint", "before-15", save),
        Operation("form", "before-5", form, remove),
        Operation("form again", "stopped", form, leave_half),
        Operation("end", "stopped", end),
        Operation("put away", "stopped", put_away, spoil),
    ]


def run_operations(states: States) -> list[Operation]:
    """Return the operations on one run: its curve and its result."""
    run = next(iter(states.configs))
    begun, rest = states.curves[run][:3], states.curves[run][3:]

    def lock(store: Store) -> None:
        lock = store.lock(run)
        if lock is None:
            raise Broken("its lock is held by a process that has ended")
        lock.release()

    def write_curve(store: Store) -> None:
        store.start_curve(run, begun)
        store.append_curve(run, rest)

    def write_run(store: Store) -> None:
        lock(store)
        write_curve(store)
        store.finish(run, states.results[run], states.curves[run])

    def prepare(store: Store) -> None:
        store.start_curve(run)
        store.fail(run, {"attempts": []})

    return [
        Operation("run", "before-5", write_run, prepare),
        Operation("curve", "stopped", write_curve),
    ]


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
        self.checkpoints, self.may_warn = [checkpoint], bool(warnings)
        store = self.begin()
        operation.act(store)
        self.new = tree(store.root)
        self.checkpoints.append(self._newest(store)[0])
        written = [n for n, content in self.new.items() if self.old.get(n) != content]
        self.lengths = [len(self.new[name]) for name in written]

    def begin(self) -> Store:
        store = self.states.copy(self.operation.state, self.place)
        self.operation.prepare(store)
        return store

    def _newest(self, store: Store) -> tuple[Checkpoint | None, list[str]]:
        warnings: list[str] = []
        return self.states.population(store).newest(warnings.append), warnings

    def check(self, store: Store) -> None:
        """Raise Broken unless old or new is there, whole, and the same call leads to the new."""
        now = tree(store.root)
        for name in self.old.keys() | now.keys():
            is_whole = now.get(name) in (self.old.get(name), self.new.get(name))
            is_begun = name.endswith("curve.jsonl") and self.new[name].startswith(now[name])
            if not (is_whole or is_begun or name.endswith(".tmp")):
                raise Broken(f"{name} is neither as it was nor as it should be")
        self._check_readers(store)
        self._recover(store)
        self.operation.act(store)
        again = tree(store.root)
        wrong = sorted(n for n in self.new.keys() | again.keys() if self.new.get(n) != again.get(n))
        if wrong:
            raise Broken(f"after the same call these are not as they should be: {wrong}")

    def _check_readers(self, store: Store) -> None:
        """Raise Broken where a reader gets something else than the old or the new."""
        population, configs = self.states.population(store), self.states.configs
        runs = population.runs_if_known()
        if runs != configs and (runs or population.is_unfinished()):
            raise Broken(f"the population has the runs {sorted(runs)}")
        done = [run for run in configs if store.is_done(run)]
        for run in done:
            if not self.states.is_as_recorded(store, run):
                raise Broken(f"run {run} has another result than was written")
        if len(done) == len(configs):
            return  # no command needs a checkpoint any more
        found, warnings = self._newest(store)
        if warnings and not self.may_warn:
            raise Broken(f"it warned: {warnings[0]}")
        if not any(same(found, checkpoint) for checkpoint in self.checkpoints):
            raise Broken(f"the newest is {found and found.step}, or has other bits")

    def _recover(self, store: Store) -> None:
        """Do what the next command does before it writes."""
        for run in self.states.configs:
            lock = store.lock(run)
            if lock is None:
                raise Broken(f"the lock of run {run} is held by a process that has ended")
            lock.release()
        self.states.population(store).form(self.states.configs, self.states.facts)


def check_message(message: str, root: Path, words: str = "") -> None:
    """Raise Broken unless it is a StorageError of one line that names a path below `root`."""
    is_line = message.startswith("StorageError: ") and os.linesep not in message
    if not (is_line and str(root) in message and words in message):
        raise Broken(f"not a StorageError of one line that names the path {words}: {message}")
