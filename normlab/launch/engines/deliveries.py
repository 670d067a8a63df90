"""The command's side of workers that do not share its disk: it locks, checks and writes.

Each request is a delivery. Its runs are locked when it is opened. What arrives is written by
threads, since most of the time of a write is waiting for the disk. Once all is written the locks
are free, and only then the supervisor hears of the end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from normlab.launch.claims import Claim
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.runs.checkpoints import PopulationFolder, population_id, unfinished
from normlab.runs.errors import Damaged, LabError, StorageError
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.runs.transfer import adopt_checkpoints, adopt_run, checkpoint_contents
from normlab.settings import Config

WRITERS = 16
"""Threads that write results; a run takes 22 ms of waiting alone, 2 ms with 16 of them."""
ENDS = ("done", "error", "measured", "gone")
"""The last event of a delivery."""


@dataclass(eq=False)
class Delivery:
    """A request that is with a worker."""

    worker: WorkerHandle
    request: Facts
    claim: Claim | None = None
    writes: int = 0
    """How many are left."""
    problem: Facts | None = None
    """What went wrong with a write."""
    end: Facts | None = None
    """The last event, which waits for the writes."""
    records: dict[str, Record] = field(default_factory=dict)
    """What was written, so that nobody has to read it again."""
    folder: threading.Lock = field(default_factory=threading.Lock)
    """Held by the thread that writes to the folder of the population."""
    free: threading.Event = field(default_factory=threading.Event)
    """Set once its locks are."""

    @property
    def configs(self) -> dict[str, Config]:
        return self.request["configs"]

    @property
    def population(self) -> str:
        return population_id(self.configs)


class Deliveries:
    """The open deliveries of one store; `events` gets what the supervisor needs to know."""

    def __init__(self, store: Store, events: queue.Queue[tuple[WorkerHandle, Facts]]):
        self.store, self.events = store, events
        self.lock = threading.RLock()
        self.writers = ThreadPoolExecutor(WRITERS, "writer")

    def open(self, worker: WorkerHandle, request: Mapping[str, Any]) -> Delivery | None:
        """Lock the runs of a request and add the checkpoint from which they continue. Return None
        where nothing is left to do, or where it cannot be done; the supervisor hears of it."""
        delivery = Delivery(worker, dict(request))
        if request["do"] != "train":
            return delivery
        names, resumes = list(request["configs"]), request["resumes"]
        delivery.claim = claim = Claim(self.store, names, resumes)
        configs = {name: request["configs"][name] for name in claim.free}
        delivery.request |= {"configs": configs, "files": {}}
        try:
            if claim.free and resumes:
                delivery.request["files"] = self._checkpoint(worker, delivery.population)
        except LabError as error:
            self.end(delivery, problem_of(error))
            return None
        if not claim.free:
            self.end(delivery, {"event": "done", "ids": [], "busy": claim.busy})
            return None
        return delivery

    def reopen(self, worker: WorkerHandle, request: Mapping[str, Any]) -> Delivery | None:
        """Lock the runs of a request that an earlier command sent, whose answer can still come.
        Return None where another process has them by now, or where none is left."""
        delivery, names = Delivery(worker, dict(request)), list(request["configs"])
        begun = {folder.name for folder in unfinished(self.store)}
        delivery.claim = claim = Claim(self.store, names, delivery.population in begun)
        left = {name for name in names if not self.store.is_done(name)}
        if left and left.issubset(claim.free):
            return delivery
        claim.release()
        return None

    def _checkpoint(self, worker: WorkerHandle, name: str) -> dict[str, bytes]:
        folder = PopulationFolder(self.store, name)

        def warn(message: str) -> None:
            self.events.put((worker, {"event": "warning", "message": message}))

        newest = folder.newest(warn)
        return checkpoint_contents(folder, newest.step) if newest else {}

    def take(self, delivery: Delivery, facts: Facts) -> bool:
        """Take an event and write the files that it brings; return whether it is the last."""
        event = facts["event"]
        if event == "checkpoint":
            self._write(delivery, partial(self._adopt_checkpoints, delivery, facts["files"]))
        elif event == "done":
            self._write(delivery, partial(self._adopt_checkpoints, delivery, facts["manifest"]))
            for run, contents in facts["files"].items():
                self._write(delivery, partial(self._adopt_run, delivery, run, contents))
            busy = [*(delivery.claim.busy if delivery.claim else []), *facts["busy"]]
            busy = [name for name in busy if name not in facts["ids"]]
            end = {"event": "done", "ids": facts["ids"], "busy": busy}
            self.end(delivery, end | {"records": delivery.records})
        elif event in ENDS:
            self.end(delivery, facts)
        else:
            self.events.put((delivery.worker, facts))
        return event in ENDS

    def _adopt_run(self, delivery: Delivery, run: str, contents: Mapping[str, bytes]) -> None:
        if not self.store.is_done(run):
            record = adopt_run(self.store, run, delivery.configs[run], contents)
            delivery.records[run] = record

    def _adopt_checkpoints(self, delivery: Delivery, contents: Mapping[str, bytes]) -> None:
        with delivery.folder:
            adopt_checkpoints(PopulationFolder(self.store, delivery.population), contents)

    def _write(self, delivery: Delivery, act: Callable[[], None]) -> None:
        with self.lock:
            delivery.writes += 1

        def write() -> None:
            try:
                act()
            except Exception as error:
                delivery.problem = problem_of(error)
            finally:
                with self.lock:
                    delivery.writes -= 1
                self._settle(delivery)

        self.writers.submit(write)

    def end(self, delivery: Delivery, facts: Facts | None) -> None:
        """Let a delivery end with an event, None for no event, as soon as all is written."""
        with self.lock:
            delivery.end = facts or {"event": ""}
        self._settle(delivery)

    def _settle(self, delivery: Delivery) -> None:
        with self.lock:
            if delivery.end is None or delivery.writes or delivery.free.is_set():
                return
            event = delivery.end["event"]
            if event == "done" and not delivery.problem and delivery.end["ids"]:
                with suppress(StorageError):  # the next command tidies up
                    PopulationFolder(self.store, delivery.population).finish()
            if delivery.claim:
                delivery.claim.release()
            delivery.free.set()
        if event:
            self.events.put((delivery.worker, delivery.problem or delivery.end))

    def drop(self, delivery: Delivery) -> None:
        """Forget a delivery; return when its runs are free."""
        self.end(delivery, None)
        delivery.free.wait()

    def close(self) -> None:
        self.writers.shutdown()


def problem_of(error: Exception) -> Facts:
    """Return the event of an error on this side. What was damaged on its way is tried again."""
    kind = error.kind if isinstance(error, LabError) else "error"
    if isinstance(error, OSError):
        kind = StorageError.kind
    message = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
    again = isinstance(error, Damaged)
    return {"event": "error", "status": kind, "message": message, "tail": [], "again": again}
