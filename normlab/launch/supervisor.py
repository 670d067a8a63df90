"""The supervisor: gives populations to worker processes and survives them. It never imports jax."""

from __future__ import annotations

import math
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from normlab.launch.batching import Group, group_runs, spread, stopped_groups
from normlab.launch.devices import find_devices
from normlab.launch.json_lines import receive, send, start_worker
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.errors import Preempted, StorageError
from normlab.runs.provenance import now
from normlab.runs.store import Store
from normlab.settings import Config, program_key

POLL_S = 1.0
"""Seconds between two looks at runs that another process holds."""
HEARTBEAT_S = 60.0
"""Seconds between two looks at workers that say nothing."""
SHUTDOWN_S = 8.0
"""Seconds that workers have to finish their chunk and save when all is to stop."""


@dataclass
class WorkerProcess:
    """One worker process and what it is doing."""

    number: int
    process: subprocess.Popen[str]
    group: Group | None = None
    programs: set[tuple] = field(default_factory=set)
    heard: float = field(default_factory=time.monotonic)
    """When it last told something."""


@dataclass
class Failure:
    """A population that ended before its runs did."""

    group: Group
    status: str
    """error, memory, killed, timeout, or the kind of a LabError."""
    message: str
    tail: list[str] = field(default_factory=list)
    """The end of the traceback."""

    def facts(self) -> dict[str, Any]:
        width = self.group.config["host.width"]
        facts = {"status": self.status, "message": self.message, "tail": self.tail}
        return facts | {"width": width, "when": now()}


class Supervisor:
    """Runs groups on `processes` workers. `on_event(hand, event, facts)` sees all that happens.

    Each worker writes a profile of a few steps of its first population to `profile_trace`. Leaving
    by an interruption or a full disk lets the workers finish their chunk and save.
    """

    def __init__(
        self,
        store: Store,
        *,
        processes: int = 0,
        data_dir: str | None = None,
        profile_trace: str | None = None,
        retries: int = 1,
        on_event: Callable[[WorkerProcess, str, dict[str, Any]], None] = lambda *_: None,
    ):
        self.store, self.data_dir, self.retries = store, data_dir, retries
        self.profile_trace = profile_trace
        self.on_event = on_event
        self.find_devices = find_devices(processes)
        self.events: queue.Queue[tuple[WorkerProcess, dict[str, Any]]] = queue.Queue()
        self.hands: list[WorkerProcess] = []
        self.failures: list[Failure] = []
        self.attempts: dict[str, list[dict[str, Any]]] = {}
        """Run -> what ended its attempts in this command."""
        self.widths: dict[str, int] = {}
        """Run -> the width of its next population, after one was too large for the memory."""
        self.given_up: set[str] = set()
        self.taken: set[str] = set()
        """Runs whose locks other processes held when they were last tried."""

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and issubclass(kind, (KeyboardInterrupt, StorageError)):
                self._let_save()
        except KeyboardInterrupt:
            pass  # asked twice: leave at once
        finally:
            for hand in self.hands:
                hand.process.kill()
                hand.process.wait()

    def _let_save(self) -> None:
        """Ask the busy workers to finish their chunk, save and leave, and give them GRACE."""
        busy = [hand for hand in self.hands if hand.group]
        for hand in busy:
            hand.process.terminate()
        deadline = time.monotonic() + SHUTDOWN_S
        while busy:
            try:
                hand, facts = self.events.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                return
            event = facts.pop("event")
            self.on_event(hand, event, facts)
            if event in ("done", "error", "gone"):
                busy = [other for other in busy if other is not hand]

    def _start(self, number: int) -> WorkerProcess:
        place = self.find_devices[number]
        options = [f"--results={self.store.root}"]
        options += [f"--core={place.core}"] if place.core is not None else []
        options += [f"--data_dir={self.data_dir}"] if self.data_dir else []
        options += [f"--profile_trace={self.profile_trace}"] if self.profile_trace else []
        options += [f"--norms={file}" for file in self.store.norm_files()]
        process = start_worker("normlab.launch.worker", options, environment=place.environment)
        hand = WorkerProcess(number, process)
        threading.Thread(target=self._listen, args=(hand,), daemon=True).start()
        return hand

    def _listen(self, hand: WorkerProcess) -> None:
        for facts in receive(hand.process):
            self.events.put((hand, facts))
        self.events.put((hand, {"event": "gone"}))

    def _give(self, hand: WorkerProcess, group: Group) -> None:
        hand.group, hand.heard = group, time.monotonic()
        hand.programs.add(program_key(group.config))
        attempts = self.attempts.get(next(iter(group.configs)), [])
        request = {"configs": group.configs, "resumes": group.resumes, "attempts": attempts}
        send(hand.process, {"do": "train"} | request)
        self.on_event(hand, "given", {})

    def _choose(self, hand: WorkerProcess, groups: list[Group]) -> Group:
        """Return the group for an idle worker: one that was begun, else one whose program it has
        already compiled, else one that nobody has, else any; the largest of them."""
        others = set().union(*(h.programs for h in self.hands if h is not hand))

        def rank(group: Group) -> tuple[bool, int, int]:
            key = program_key(group.config)
            known = 2 if key in hand.programs else key not in others
            return group.resumes, known, group.run_steps

        return max(groups, key=rank)

    def run(self, wanted: Callable[[], dict[str, Config]]) -> None:
        """Train until `wanted()`, asked again after every population, names nothing more.

        Runs that another process is training are waited for: it may die and leave them.
        """
        while True:
            busy = {n for h in self.hands if h.group for n in h.group.configs}
            left = {n: c for n, c in wanted().items() if n not in busy | self.given_up}
            self._employ(self._plan(left, busy))
            if any(h.group for h in self.hands):
                self._wait()
            elif left:
                time.sleep(POLL_S)
                self.taken.clear()
            else:
                return

    def _plan(self, left: dict[str, Config], busy: set[str]) -> list[Group]:
        """Return what to train now: populations that stopped and hold a run that is left, whole and
        as they were formed, and the other runs in new ones."""
        away = busy | self.given_up | self.taken
        stopped = stopped_groups(self.store, left)
        old = {name for group in stopped for name in group.configs}
        new = {
            name: config | {"host.width": self.widths.get(name, config["host.width"])}
            for name, config in left.items()
            if name not in old | away
        }
        return [g for g in stopped if away.isdisjoint(g.configs)] + group_runs(new)

    def _employ(self, groups: list[Group]) -> None:
        idle = [h for h in self.hands if h.group is None]
        groups = spread(groups, len(idle) + len(self.find_devices) - len(self.hands))
        while groups and len(self.hands) < len(self.find_devices) and len(idle) < len(groups):
            hand = self._start(len(self.hands))
            self.hands.append(hand)
            idle.append(hand)
        for hand in idle:
            if groups:
                group = self._choose(hand, groups)
                groups.remove(group)
                self._give(hand, group)

    def _wait(self) -> None:
        """Take events until a worker becomes free."""
        while True:
            try:
                hand, facts = self.events.get(timeout=min(self._seconds_left(), HEARTBEAT_S))
            except queue.Empty:
                self._end_silent()
                return
            hand.heard = time.monotonic()
            event = facts.pop("event")
            if hand not in self.hands:
                continue  # the last words of one that was replaced
            if event == "gone":
                self._note_end(hand)
            elif event == "error":
                self._note_error(hand, facts)
            elif event == "done":
                self.taken |= set(facts["busy"])
                hand.group = None
            self.on_event(hand, event, facts)
            if hand.group is None:
                return

    def _seconds_left(self) -> float:
        """Return the time until the first busy worker has been silent for too long."""
        limits = [h.heard + h.group.config["host.time_limit"] for h in self.hands if h.group]
        return max(0.0, min(limits, default=math.inf) - time.monotonic())

    def _end_silent(self) -> None:
        """Replace the workers that have said nothing for host.time_limit."""
        for hand in self.hands:
            if hand.group is None:
                continue
            limit = hand.group.config["host.time_limit"]
            if time.monotonic() - hand.heard >= limit:
                message = f"nothing was heard of it for {limit:g} s (host.time_limit)"
                self._fail(hand, Failure(hand.group, "timeout", message))
                self._replace(hand)

    def _replace(self, hand: WorkerProcess) -> None:
        """Start another worker in the place of one that is dead or of no more use."""
        hand.process.kill()
        hand.process.wait()
        self.hands[self.hands.index(hand)] = self._start(hand.number)

    def _note_end(self, hand: WorkerProcess) -> None:
        """Take note of a worker's end."""
        code = hand.process.wait()
        if hand.group and code != Preempted.code:
            message = f"worker process ended with code {code}"
            message += " (killed: out of memory, perhaps)" if code == -9 else ""
            self._fail(hand, Failure(hand.group, "killed", message))
        hand.group = None
        self._replace(hand)

    def _note_error(self, hand: WorkerProcess, facts: dict[str, Any]) -> None:
        if facts["status"] == StorageError.kind:
            raise StorageError(facts["message"])
        if hand.group is None:
            return
        failure = Failure(hand.group, facts["status"], facts["message"], facts["tail"])
        if failure.status == "memory" and hand.group.config["host.width"] > 1:
            self._halve(hand, failure)
            self._replace(hand)  # for a new one all of the memory is free
        else:
            self._fail(hand, failure, facts["again"])

    def _halve(self, hand: WorkerProcess, failure: Failure) -> None:
        """Let the runs of a population that was too large be tried at half its width."""
        group, half = failure.group, failure.group.config["host.width"] // 2
        self._tell(hand, failure, f"tried again at width {half}")
        folder = PopulationFolder(self.store, population_id(group.configs))
        if folder.path.exists():
            folder.set_aside()
        for name in group.configs:
            self.widths[name] = half
            self.attempts.setdefault(name, []).append(failure.facts())

    def _fail(self, hand: WorkerProcess, failure: Failure, again: bool = True) -> None:
        """Take note of a failure: the runs are tried again while retries are left and it may help,
        else given up."""
        self.failures.append(failure)
        names = failure.group.configs
        for name in names:
            self.attempts.setdefault(name, []).append(failure.facts())
        tried = max(sum(a["status"] != "memory" for a in self.attempts[n]) for n in names)
        if again and tried <= self.retries:
            self._tell(hand, failure, "tried again")
            return
        self._tell(hand, failure, "given up")
        self.given_up |= set(names)
        for name in names:
            if not self.store.is_done(name):
                self.store.fail(name, {"attempts": self.attempts[name]})

    def _tell(self, hand: WorkerProcess, failure: Failure, then: str) -> None:
        """Take the population away from its worker and say what becomes of it."""
        facts = {"status": failure.status, "message": failure.message, "then": then}
        self.on_event(hand, "failed", facts)
        hand.group = None

    def time_steps(self, configs: dict[str, Config]) -> dict[str, float]:
        """Return seconds of a training step of a single run of each arm, measured by an idle
        worker while the others rest."""
        if not self.hands:
            self.hands.append(self._start(0))
        send(self.hands[0].process, {"do": "time", "configs": configs})
        while True:
            hand, facts = self.events.get()
            if facts["event"] == "timed":
                return facts["seconds"]
            if facts["event"] in ("gone", "error"):
                raise RuntimeError(f"step times could not be measured: {facts}")


def lost_runs(failures: Iterable[Failure], store: Store) -> dict[str, Failure]:
    """Return the runs of failed populations that are still not done, each with its last failure."""
    lost = {n: f for f in failures for n in f.group.configs if not store.is_done(n)}
    return dict(sorted(lost.items()))
