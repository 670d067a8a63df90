"""What is written to a results directory, and what must hold when a disk refuses it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from normlab.report.report import write_report
from normlab.runs import files as disk
from normlab.runs.store import Store
from stress.crash_injection import in_child
from stress.real_runs import Broken, Real, same

DONE, REFUSED = "done", "refused"
TIMES = {"A processor": {f"p{i}": i / 8 for i in range(300)}}


@dataclass(frozen=True)
class Task:
    """Something that is written, which a disk may refuse."""

    name: str
    state: str
    act: Callable[[Store], object]
    prepare: Callable[[Store], object] = lambda store: None
    again: Callable[[Store], object] | None = None
    """What is done when the disk is mended; None: the same."""


def tasks_of(real: Real) -> list[Task]:
    """Return all kinds of files that are written, by those who write them."""
    run, new = next(iter(real.configs)), real.saves[2]
    begun, rest = real.curves[run][:3], real.curves[run][3:]

    def append(store: Store) -> None:
        store.append_curve(run, rest)

    def begin_and_append(store: Store) -> None:
        store.start_curve(run, begun)
        append(store)

    def save(store: Store) -> None:
        real.population(store).save(new.step, new.arrays, new.facts)

    def finish(store: Store) -> None:
        store.finish(run, real.results[run], real.curves[run])

    def write_times(store: Store) -> None:
        disk.write_json(store.root / "steptimes.json", TIMES)

    def old_times(store: Store) -> None:
        disk.write_json(store.root / "steptimes.json", {"A processor": {}})

    def old_report(store: Store) -> None:
        for path in write_report(store, []).parent.rglob("*.*"):
            path.write_text("old")

    return [
        Task("checkpoint", "before-15", save),
        Task("curve", "stopped", append, again=begin_and_append),
        Task("result", "stopped", finish),
        Task("json", "stopped", write_times, old_times),
        Task("report", "stopped", lambda store: write_report(store, []), old_report),
    ]


def tree(root: Path) -> dict[str, bytes]:
    """Return name -> content of all files that are not locks."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def differing(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


class Trial:
    """A task at a place, with all files as they are before it (`old`) and after it (`new`)."""

    def __init__(self, real: Real, task: Task, place: Path):
        self.real, self.task, self.place = real, task, place
        self.old = tree(self.begin().root)
        store = self.begin()
        task.act(store)
        self.new = tree(store.root)
        written = differing(self.old, self.new)
        self.lengths = [len(self.new[name]) for name in written if name in self.new]

    def begin(self) -> Store:
        store = self.real.copy(self.task.state, self.place)
        self.task.prepare(store)
        return store

    def act(self, store: Store) -> str:
        """Return "done", or the error and its message."""
        try:
            self.task.act(store)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return DONE

    def act_apart(self, store: Store, limit: Callable[[], object]) -> str:
        """Return the same of a child that has limited itself."""

        def child(tell: Callable[[str], None]) -> None:
            limit()
            tell(self.act(store))

        return in_child(child)[1]

    def verdict(self, store: Store, told: str, where: str, words: str = "") -> str:
        """Return DONE, REFUSED, or what is wrong; `words`: what a refusal must say."""
        try:
            if told != DONE and words not in told:
                raise Broken(f"it does not say how many bytes {words}: {told}")
            self._check(store, told)
        except Exception as error:
            return f"{self.task.name}, {where}: {type(error).__name__}: {error}"
        return DONE if told == DONE else REFUSED

    def verdict_gone(self, store: Store) -> str:
        """Return the same where the results directory has vanished."""
        shutil.rmtree(store.root)
        told = self.act(store)
        try:
            check_message(told, store.root)
        except Broken as error:
            return f"{self.task.name}, its folder gone: {error}"
        return REFUSED

    def _check(self, store: Store, told: str) -> None:
        now = tree(store.root)
        if told == DONE:
            if now != self.new:
                raise Broken(f"told as done, but these are not: {differing(now, self.new)}")
            return
        check_message(told, store.root)
        for name in self.old.keys() | now.keys():
            is_whole = now.get(name) in (self.old.get(name), self.new.get(name))
            is_torn = self.task.name == "curve" and self.new[name].startswith(now[name])
            if name not in now or not (is_whole or is_torn):
                raise Broken(f"{name} is neither as it was nor as it should be")
        if self.task.name == "checkpoint":
            self._check_checkpoint(store)
        (self.task.again or self.task.act)(store)
        if tree(store.root) != self.new:
            raise Broken(f"mended, but not done: {differing(tree(store.root), self.new)}")

    def _check_checkpoint(self, store: Store) -> None:
        told: list[str] = []
        found = self.real.population(store).newest(told.append)
        if told or not any(same(found, checkpoint) for checkpoint in self.real.saves[1:]):
            raise Broken(f"the checkpoint from before cannot be used ({told})")


def check_message(told: str, root: Path) -> None:
    """Raise Broken unless it is a StorageError of one line that names a path below `root`."""
    if not told.startswith("StorageError: ") or "\n" in told or str(root) not in told:
        raise Broken(f"not a StorageError of one line that names the path: {told}")
