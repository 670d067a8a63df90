"""Workers as jobs of Slurm, which places, limits and ends them. Requests and events are files.

Only these files say what was trained: what Slurm says of a job decides no more than whether others
are still to be expected.
"""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normlab.data import DATASETS
from normlab.data.prepared import data_root
from normlab.launch.batching import PlannedPopulation
from normlab.launch.engines import slurm_jobs as jobs
from normlab.launch.engines import spool
from normlab.launch.engines.deliveries import Deliveries, Delivery, problem_of
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.launch.engines.options import LaunchOptions
from normlab.launch.engines.remote import SILENT_S, checked, gone, kept_names
from normlab.launch.engines.slurm_box import Box, end_of
from normlab.launch.engines.slurm_jobs import SlurmError, State
from normlab.launch.json_lines import last_line
from normlab.launch.lease import Lease
from normlab.runs.errors import Damaged
from normlab.runs.provenance import git_facts, host_facts
from normlab.runs.store import Store
from normlab.settings import from_json
from normlab.shipped import PACKAGES

POLL_S, LOOK_S, AGAIN_S = 0.1, 5.0, 10.0
"""Seconds between two looks at the files, at Slurm, and between two tries to submit."""
REFUSED_S = 300.0
"""Seconds after which the command gives up where Slurm takes no jobs."""
BEGIN_S = 300.0
"""Seconds that a worker has until it is ready, once its job runs."""
MOST_SLOTS = 64
"""Jobs at the same time, unless the user asks for more: clusters have other users."""


class SlurmEngine:
    """The jobs of one command."""

    is_remote = True

    def __init__(
        self,
        store: Store,
        options: LaunchOptions,
        data_dir: str | None = None,
        takes_over: bool = False,
    ):
        self.store, self.options, self.data_dir = store, options, data_dir
        self.lost_retries = options.retries
        jobs.check(options)
        self.lease = Lease(store.root, takes_over)
        self.lease.check()
        self.slots = options.slots or min(MOST_SLOTS, jobs.room(options))
        self.events: queue.Queue[tuple[WorkerHandle, Facts]] = queue.Queue()
        self.deliveries = Deliveries(store, self.events)
        self.root = store.root.resolve() / spool.FOLDER
        self.boxes: dict[WorkerHandle, Box] = {}
        self.used: list[tuple[Delivery, Path, bool]] = []
        """Files that have been taken: of a delivery, whether they end it."""
        self.lock, self.is_closed = threading.RLock(), threading.Event()
        self.facts, self.code = host_facts(), None
        self.is_replaced = False
        """Whether another command has the workers by now."""
        self.threads: list[threading.Thread] = []

    def adopt(self) -> list[WorkerHandle]:
        self.lease.take()
        workers = []
        for folder in sorted(self.root.glob(f"{jobs.PREFIX}*/*/")):
            numbers = map(spool.REQUEST.fullmatch, spool.names_in(folder))
            number = max((int(found[1]) for found in numbers if found), default=0)
            if box := self._adopted(folder, number, len(workers)):
                self.boxes[box.worker] = box
                workers.append(box.worker)
            else:  # its worker, if it has one, notices that and leaves
                shutil.rmtree(folder, ignore_errors=True)
        self._begin()
        return workers

    def _adopted(self, folder: Path, number: int, place: int) -> Box | None:
        """Return the box in a folder whose last request may still be answered."""
        try:
            request = spool.read(spool.request_path(folder, number))["request"]
        except (FileNotFoundError, Damaged):
            return None
        request["configs"] = {n: from_json(c) for n, c in request["configs"].items()}
        population = PlannedPopulation(request["configs"], request["resumes"])
        worker = WorkerHandle(place, population, is_ready=True)
        delivery = self.deliveries.reopen(worker, request)
        if delivery is None:
            return None
        job, index = folder.parent.name, int(folder.name)
        taken = spool.first_event(folder, number) - 1
        facts = {"number": number, "events": taken, "delivery": delivery}
        return Box(worker, job, index, is_adopted=True, **facts)

    def send(self, worker: WorkerHandle, request: Mapping[str, Any]) -> None:
        delivery = self.deliveries.open(worker, request)
        if delivery is None:
            return
        name = next(iter(delivery.configs.values()))["data.name"]
        data = {name: str(data_root(self.data_dir).resolve())} if DATASETS[name].prepared else {}
        commit = git_facts() if self.options.code == "ship" else {}
        facts = {"request": delivery.request, "kept": kept_names(self.store.root), "data": data}
        facts |= {"results": str(self.store.root.resolve())}
        facts |= {"options": asdict(self.options) | {"commit": commit}}
        if (old := self.boxes.get(worker)) and (old.is_over or old.is_adopted):
            self.kill(worker)
        with self.lock:
            box = self.boxes.setdefault(worker, Box(worker))
            box.number, box.events, box.delivery = box.number + 1, 0, delivery
            box.facts, box.heard = facts, box.heard and time.monotonic()
            if box.job:
                self._post(box)

    def _folder(self, box: Box) -> Path:
        return self.root / box.job / str(box.place)

    def _post(self, box: Box) -> None:
        spool.write(spool.request_path(self._folder(box), box.number), box.facts)

    def stop(self, worker: WorkerHandle) -> None:
        with self.lock:
            box = None if self.is_replaced else self.boxes.get(worker)
            if box and box.delivery and box.heard is None:  # it may wait for days
                self._deliver(box, gone("killed", ""))
            elif box and box.job:
                box.is_stopped = True
                with suppress(OSError):
                    spool.ask_to_stop(self._folder(box))

    def kill(self, worker: WorkerHandle) -> None:
        with self.lock:
            box = self.boxes.pop(worker, None)
        if box is None:
            return
        if box.delivery:
            self.deliveries.drop(box.delivery)
        if self.is_replaced:
            return
        if box.job_id and State(box.job_id, box.state).is_live:
            jobs.cancel([box.job_id])
        if box.job:
            shutil.rmtree(self._folder(box), ignore_errors=True)

    def _begin(self) -> None:
        """Start to look at files and jobs."""

        def keep(loop: Callable[[], None]) -> None:
            try:
                loop()
            except Exception as error:
                self._cut_off(problem_of(error)["message"])

        for loop in (self._listen, self._look):
            self.threads.append(threading.Thread(target=keep, args=[loop], daemon=True))
            self.threads[-1].start()

    # files

    def _listen(self) -> None:
        """Take the events of all workers, until the engine is closed."""
        while not self.is_closed.wait(max(POLL_S, 0.005 * len(self.boxes))):
            if not self.lease.renew():
                self.is_replaced = True
                return self._cut_off("another command directs the workers by now")
            with self.lock:
                for box in list(self.boxes.values()):
                    self._take_from(box)
                    self._end_silent(box)
                self._remove_used()

    def _take_from(self, box: Box) -> None:
        """Take the events of a worker that have come."""
        if not (box.job and box.delivery):
            return
        folder = self._folder(box)
        names = spool.names_in(folder)
        while box.delivery:
            path = spool.event_path(folder, box.number, box.events + 1)
            if path.name not in names:
                return
            try:
                facts = spool.read(path)
            except Damaged as error:
                facts = gone("killed", f"has sent what cannot be read: {error}")
            self._take(box, path, facts)

    def _take(self, box: Box, path: Path, facts: Facts) -> None:
        assert box.delivery
        box.events, box.heard, delivery = box.events + 1, time.monotonic(), box.delivery
        if facts["event"] == "ready":
            facts = checked(facts, self.facts, facts["node"])
        if facts["event"] == "gone" and not facts["message"] and not box.is_stopped:
            box.has_left = True  # why, Slurm will say once its job has ended
            return
        is_last = facts["event"] != "alive" and self._deliver(box, facts)
        self.used.append((delivery, path, is_last))

    def _deliver(self, box: Box, facts: Facts) -> bool:
        """Let the supervisor have an event; return whether it is the last of a request."""
        assert box.delivery
        facts.setdefault("status", "killed") if facts["event"] == "gone" else None
        is_last = self.deliveries.take(box.delivery, facts)
        if is_last:
            box.delivery = None
        return is_last

    def _remove_used(self) -> None:
        """Remove the events whose files are written by now. The newest one stays until there is
        another, so that the next command can know what follows. After the last event of a request
        the request goes first: without it the others mean nothing."""
        newest, left = {delivery: path for delivery, path, _ in self.used}, []
        for delivery, path, is_last in self.used:
            is_open = not delivery.free.is_set()
            if is_open and (delivery.writes or path == newest[delivery]):
                left.append((delivery, path, is_last))
                continue
            number = int(path.name.split("-")[1])
            for each in [spool.request_path(path.parent, number)] * is_last + [path]:
                each.unlink(missing_ok=True)
        self.used = left

    def _end_silent(self, box: Box) -> None:
        """Give up a worker whose node is silent."""
        now = time.monotonic()
        if box.delivery is None:
            return
        if box.heard is not None and now - box.heard > SILENT_S:
            message = f"was lost: nothing was heard of it for {SILENT_S:g} s"
        elif box.heard is None and box.runs_since and now - box.runs_since > BEGIN_S:
            message = f"was lost: it was not ready {BEGIN_S:g} s after its job began"
        else:
            return
        self._deliver(box, gone("lost", message))

    # jobs

    def _look(self) -> None:
        """Submit jobs and see which have ended, until the engine is closed."""
        looked, tried, refused = -LOOK_S, -AGAIN_S, None
        while not self.is_closed.wait(POLL_S):
            now = time.monotonic()
            if now - tried > (AGAIN_S if refused else 0):
                try:
                    self._submit()
                    refused = None
                except SlurmError as error:
                    tried, refused = now, refused or now
                    if now - refused > REFUSED_S:
                        return self._cut_off(f"Slurm takes no jobs: {error}")
            if now - looked > LOOK_S:
                looked = now
                with suppress(SlurmError):  # it is restarting, perhaps
                    self._note_states()

    def _submit(self) -> None:
        """Submit the jobs of workers that have none, as arrays."""
        with self.lock:
            boxes = [box for box in self.boxes.values() if not box.job][: jobs.LARGEST_ARRAY]
            if not boxes:
                return
            name = f"{jobs.PREFIX}{secrets.token_hex(6)}"
            for place, box in enumerate(boxes):
                box.job, box.place = name, place
                spool.make_box(self._folder(box))
                self._post(box)
            code = self._code()
        try:
            array = jobs.submit(name, self.root / name, len(boxes), self.options, code)
        except SlurmError as error:
            with self.lock:
                for box in boxes:
                    box.job = ""
            shutil.rmtree(self.root / name, ignore_errors=True)
            warning = {"event": "warning", "message": f"Slurm takes no jobs: {error}"}
            self.events.put((boxes[0].worker, warning))
            raise
        with self.lock:
            for box in boxes:
                box.job_id = f"{array}_{box.place}"
        if late := [box.job_id for box in boxes if box.worker not in self.boxes]:
            jobs.cancel(late)

    def _code(self) -> Path | None:
        """Return the folder with a copy of the code of this command, which workers import: edits
        of it reach none that waits for its place."""
        if self.options.code != "ship":
            return None
        if self.code is None:
            self.code = self.root / f"code-{secrets.token_hex(6)}"
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PACKAGES / "normlab", self.code / "normlab", ignore=ignored)
        return self.code

    def _note_states(self) -> None:
        """See which jobs have ended."""
        with self.lock:
            boxes = [box for box in self.boxes.values() if box.job and not box.is_over]
        found = jobs.states({box.job for box in boxes}) if boxes else {}
        with self.lock:
            for box in boxes:
                self._note_state(box, found.get((box.job, box.place)))

    def _note_state(self, box: Box, state: State | None) -> None:
        box.missed = 0 if state else box.missed + 1
        if state:
            box.job_id, box.state, box.reason = state
            if box.state == "RUNNING":
                box.runs_since = box.runs_since or time.monotonic()
            if state.is_live:
                return
        elif box.missed < 2:
            return
        else:
            box.state = "UNKNOWN"
        self._take_from(box)  # what it wrote before its end
        if box.delivery:
            log = self.root / box.job / f"{box.place}.log"
            self._deliver(box, end_of(box, last_line(log) if log.exists() else ""))
        else:
            box.is_over = True  # the next request is for a new job

    def _cut_off(self, message: str) -> None:
        self.events.put((WorkerHandle(-1), {"event": "cut off", "message": message}))

    def close(self) -> None:
        self.is_closed.set()
        for thread in self.threads:
            thread.join()
        self.deliveries.close()
        if not self.is_replaced and self.lease.renew():
            if idle := [box.job_id for box in self.boxes.values() if box.job_id]:
                jobs.cancel(idle)
            shutil.rmtree(self.root, ignore_errors=True)
        self.lease.release()
