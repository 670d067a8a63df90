"""A process that ends at its n-th file operation, for every n until it survives.

It ends in one of three ways: before the operation; in the middle of a write; before the operation
and with the power gone, so that what was written but not synced is empty, and what was renamed in a
folder that was not synced has its old name again. The crashes happen in children of a process
without jax: `python -m stress.crashes FOLDER WAY ...`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from normlab.runs.checkpoints import Checkpoint
from normlab.runs.store import Store, curve_text
from stress.campaign import Report, Workspace
from stress.crash_injection import DIED, Doomed, ask, in_child
from stress.mutants import WRITERS, planted
from stress.real_runs import Broken, Real, leftovers, same, train_real

WAYS = {
    "before": "before an operation",
    "half": "in the middle of a write",
    "power": "before an operation, with what was not synced lost",
}
MOST = 500
"""Operations after which a call that has not survived is given up."""
SPOILT = "checkpoint-0000000015.safetensors"


@dataclass(frozen=True)
class Job:
    """A call that is to survive its crashes."""

    name: str
    state: str
    """Of the results directory in which it begins, see real.STATES."""
    act: Callable[[Store], object]
    check: Callable[[Store], None]
    """Raises where a crash broke a promise; does the call anew, and then it must be done."""
    prepare: Callable[[Store], object] = lambda store: None


class Populations:
    """What is written of a population, and what must hold after a crash."""

    def __init__(self, real: Real):
        self.real = real

    def jobs(self) -> list[Job]:
        return [
            Job("end", "stopped", self._end, self._ended),
            *map(self._save, range(3)),
            Job("form", "before-5", self._form, self._formed, self._remove),
            Job("form again", "stopped", self._form, self._formed, self._leave_half),
            Job("put away", "stopped", self._put_away, self._away, self._spoil),
        ]

    def _look(self, store: Store, *allowed: Checkpoint | None, may_warn: bool = False) -> None:
        told: list[str] = []
        found = self.real.population(store).newest(told.append)
        if told and not may_warn:
            raise Broken(f"it warned: {told[0]}")
        if not any(same(found, checkpoint) for checkpoint in allowed):
            raise Broken(f"the newest is {found and found.step}, or has other bits")

    def _save(self, number: int) -> Job:
        old, new = [None, *self.real.saves][number], self.real.saves[number]
        steps = [c.step for c in self.real.saves[: number + 1]][:-3:-1]

        def act(store: Store) -> None:
            self.real.population(store).save(new.step, new.arrays, new.facts)

        def check(store: Store) -> None:
            self._look(store, old, new)
            self._form(store)
            act(store)
            self._look(store, new)
            folder = self.real.population(store)
            arrays = len(list(folder.path.glob("*.safetensors")))
            if folder.steps() != steps or arrays != len(steps) or leftovers(store.root):
                raise Broken(f"left: {_names(folder.path)}")

        return Job(f"save {number + 1}", f"before-{new.step}", act, check)

    def _form(self, store: Store) -> None:
        self.real.population(store).form(self.real.configs, self.real.facts)

    def _formed(self, store: Store) -> None:
        folder = self.real.population(store)
        is_stopped = bool(folder.steps())
        self._look(store, self.real.saves[2] if is_stopped else None)
        runs = folder.runs_if_known()
        if runs != self.real.configs and (runs or is_stopped):
            raise Broken(f"it knows of the runs {sorted(runs)}")
        self._form(store)
        if folder.runs() != self.real.configs or leftovers(store.root):
            raise Broken(f"left: {_names(folder.path)}")

    def _remove(self, store: Store) -> None:
        shutil.rmtree(self.real.population(store).path)

    def _leave_half(self, store: Store) -> None:
        (self.real.population(store).path / ".manifest.json.1.tmp").write_text("{")

    def _end(self, store: Store) -> None:
        for run, result in self.real.results.items():
            store.finish(run, result, self.real.curves[run])
        self.real.population(store).finish()

    def _ended(self, store: Store) -> None:
        """A run without a result must have a checkpoint; then nobody asks for one any more."""
        folder = self.real.population(store)
        if not all(map(store.is_done, self.real.configs)):
            self._look(store, *self.real.saves[1:])
        self._end(store)
        if folder.is_unfinished() or _names(folder.path) != ["manifest.json"]:
            raise Broken(f"left: {_names(folder.path)}")

    def _spoil(self, store: Store) -> None:
        path = self.real.population(store).path / SPOILT
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    def _put_away(self, store: Store) -> None:
        self.real.population(store).newest(lambda message: None)

    def _away(self, store: Store) -> None:
        self._look(store, self.real.saves[1], may_warn=True)
        self._look(store, self.real.saves[1])


class Runs:
    """What is written of a single run, and what must hold after a crash."""

    def __init__(self, real: Real):
        self.real, self.run = real, next(iter(real.configs))
        self.result, self.curve = real.results[self.run], real.curves[self.run]
        self.begun, self.rest = self.curve[:3], self.curve[3:]

    def jobs(self) -> list[Job]:
        def append(store: Store) -> None:
            store.append_curve(self.run, self.rest)

        return [
            Job("result", "stopped", self._finish, self._finished, self._fail),
            Job("run", "before-5", self._all, self._finished, self._remove),
            Job("curve", "stopped", append, self._appended),
        ]

    def _finish(self, store: Store) -> None:
        store.finish(self.run, self.result, self.curve)

    def _remove(self, store: Store) -> None:
        shutil.rmtree(store.run_dir(self.run))

    def _fail(self, store: Store) -> None:
        store.fail(self.run, {"attempts": []})

    def _all(self, store: Store) -> None:
        lock = store.lock(self.run)
        if lock is None:
            raise Broken("its lock is held by nobody that lives")
        store.start_curve(self.run, self.begun)
        store.append_curve(self.run, self.rest)
        self._finish(store)
        lock.release()

    def _finished(self, store: Store) -> None:
        if store.is_done(self.run):
            self._read(store)
        self._all(store)
        self._read(store)
        if _names(store.run_dir(self.run)) != [".lock", "curve.jsonl", "result.json"]:
            raise Broken(f"left: {_names(store.run_dir(self.run))}")

    def _read(self, store: Store) -> None:
        record = store.read(self.run)
        if (record.final, record.curve) != (self.result["final"], self.curve):
            raise Broken("another result than was written")

    def _appended(self, store: Store) -> None:
        rows = store.live_curve(self.run)
        if rows[:3] != self.begun or rows != self.curve[: len(rows)]:
            raise Broken(f"its live curve has rows that nobody wrote: {curve_text(rows)!r}")
        self._finished(store)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def crash_points(real: Real, job: Job, way: str, place: Path) -> Iterator[str]:
    """Yield for each point at which the job is ended what is wrong then: "" where nothing is."""
    for at in range(1, MOST):
        store = real.copy(job.state, place)
        job.prepare(store)

        def doom(tell: Callable[[str], None], at: int = at, store: Store = store) -> None:
            Doomed(at, way, tell).install()
            job.act(store)

        code, told = in_child(doom)
        wrong = f"exit code {code}" if code not in (0, DIED) else ""
        try:
            job.check(store)
        except Exception as error:
            wrong = wrong or f"{type(error).__name__}: {error}"
        wrong = wrong and f"{job.name}, {way} operation {at} ({told}): {wrong}"
        if code == DIED or wrong:
            yield wrong
        if code != DIED:
            return
    yield f"{job.name}, {way}: not done after {MOST} operations"


def main() -> None:
    """Print as JSON the crash points of each way, what was wrong, and the faults that were not."""
    patch.object(os, "fsync", lambda handle: None).start()  # power losses are only acted here
    real, ways = Real(Path(sys.argv[1])), sys.argv[2:]
    jobs = Populations(real).jobs() + Runs(real).jobs()
    memory = Path("/dev/shm")  # thousands of small files are faster there
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        place = Path(folder, "results")
        told = {w: [t for job in jobs for t in crash_points(real, job, w, place)] for w in ways}
        missed = []
        for name, fault in WRITERS.items():
            with planted(fault):
                if not any(any(crash_points(real, job, "power", place)) for job in jobs):
                    missed.append(name)
    points = {way: len(texts) for way, texts in told.items()}
    bad = [text for texts in told.values() for text in texts if text]
    print(json.dumps({"points": points, "bad": bad, "missed": missed}))


def every_file_operation(desk: Workspace) -> Report:
    """End a process at each file operation of all that is written of a population and of a run.

    Nothing is thrown here: long and short differ in the ways alone.
    """
    real = train_real(desk.folder)
    ways = list(WAYS) if desk.is_long else ["half", "power"]
    told = ask("stress.crashes", real.folder, *ways)
    points, bad, missed = told["points"], told["bad"], told["missed"]
    return Report(
        "Crash at every file operation",
        "after each the old or the new is there, whole, and the same call works",
        {
            "crash points": sum(points.values()),
            **{WAYS[way]: count for way, count in points.items()},
            "bad": len(bad),
            "planted faults caught": f"{len(WRITERS) - len(missed)} of {len(WRITERS)}",
        },
        bad + [f"a planted fault was not noticed: {name}" for name in missed],
    )


if __name__ == "__main__":
    main()
