"""The supervisor: gives populations to worker processes and survives them. It never imports jax."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable
from typing import Any

from normlab.launch.batching import (
    PlannedPopulation,
    Turn,
    form_populations,
    halve_largest,
    stopped_populations,
)
from normlab.launch.engines.engine import Engine, WorkerHandle
from normlab.launch.engines.local import LocalEngine
from normlab.launch.failures import Failure
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.errors import NoWorker, PeerGone, Preempted, StorageError
from normlab.runs.store import Store
from normlab.settings import Config

POLL_S = 1.0
"""Seconds until runs that another process holds are tried again."""
HEARTBEAT_S = 1.0
"""Seconds between two checks for workers that send nothing. A process that was suspended counts its
pause as at most this."""
REPLAN_S = 60.0
"""Seconds of waiting until the runs of other processes are looked at."""
SAVING = (KeyboardInterrupt, BrokenPipeError, StorageError)
"""How a command may end so that its workers save."""
STARTS = 3
"""How many workers in a row may end before they are ready."""
SHUTDOWN_S = 8.0
"""Seconds that workers have to finish their chunk and save when all is to stop."""


class Supervisor:
    """Trains populations on the workers of an engine, by default `processes` of this machine.
    `on_event(worker, event, facts)` gets all events. Leaving by an interruption or a full disk lets
    the workers finish their chunk and save.
    """

    def __init__(
        self,
        store: Store,
        *,
        engine: Engine | None = None,
        processes: int = 0,
        data_dir: str | None = None,
        profile_trace: str | None = None,
        retries: int = 1,
        turn: Callable[[str], Turn] = lambda run: (0, 0),
        on_event: Callable[[WorkerHandle, str, dict[str, Any]], None] = lambda *_: None,
    ):
        self.store, self.retries, self.turn, self.on_event = store, retries, turn, on_event
        self.data_dir = data_dir
        self.engine: Engine = engine or LocalEngine(store, processes, data_dir, profile_trace)
        self.events = self.engine.events
        self.workers: list[WorkerHandle] = []
        self.ended_early = 0
        """How many workers in a row ended before they were ready."""
        self.failures: list[Failure] = []
        self.attempts: dict[str, list[dict[str, Any]]] = {}
        """Run -> what ended its attempts in this command."""
        self.widths: dict[str, int] = {}
        """Run -> the width of its next population, after one was too large for the memory."""
        self.waiting: list[PlannedPopulation] = []
        """Populations without a worker."""
        self.has_changed = True
        """Whether they are to be formed again."""
        self.given_up: set[str] = set()
        self.taken: set[str] = set()
        """Runs whose locks other processes held when they were last tried."""

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and issubclass(kind, BrokenPipeError):
                self.on_event = lambda *_: None  # nobody reads what is printed
            if kind is not None and issubclass(kind, SAVING):
                self._let_save()
        except KeyboardInterrupt:
            pass  # asked twice: leave at once
        finally:
            for worker in self.workers:
                self.engine.kill(worker)
            self.engine.close()

    def _busy(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.population]

    @property
    def is_stuck(self) -> bool:
        """Whether it has workers, and none has a population."""
        return bool(self.workers) and not self._busy()

    def _let_save(self) -> None:
        """Ask the busy workers to finish their chunk, save and leave within SHUTDOWN_S."""
        busy = self._busy()
        for worker in busy:
            self.engine.stop(worker)
        if busy:
            self.on_event(busy[0], "saving", {})
        deadline = time.monotonic() + SHUTDOWN_S
        while busy:
            try:
                worker, facts = self.events.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                return
            event = facts.pop("event")
            self.on_event(worker, event, facts)
            if event in ("done", "error", "gone") and worker in busy:
                busy.remove(worker)

    def _assign(self, worker: WorkerHandle, population: PlannedPopulation) -> None:
        worker.population, worker.silent = population, 0.0
        worker.programs.add(population.program)
        attempts = self.attempts.get(next(iter(population.configs)), [])
        request = {"configs": population.configs, "resumes": population.resumes}
        self.engine.send(worker, {"do": "train", "attempts": attempts} | request)
        self.on_event(worker, "given", {})

    def _employ_adopted(self, worker: WorkerHandle) -> None:
        """Let a worker that trains already train on."""
        assert worker.population
        worker.programs.add(worker.population.program)
        self.workers.append(worker)
        self.on_event(worker, "given", {})

    def _choose(
        self, worker: WorkerHandle, populations: list[PlannedPopulation]
    ) -> PlannedPopulation:
        """Return the population for an idle worker. One that was begun comes first, then the first
        tier. In a tier one comes first whose program it has already compiled, then one whose
        program nobody has. Of equals it is the first in turn, then the largest."""
        others = set().union(*(w.programs for w in self.workers if w is not worker))

        def rank(population: PlannedPopulation) -> tuple[bool, int, int, int, int]:
            key, (tier, place) = population.program, population.turn
            known = 2 if key in worker.programs else key not in others
            return population.resumes, -tier, known, -place, population.run_steps

        return max(populations, key=rank)

    def run(self, missing: Callable[[], dict[str, Config]]) -> None:
        """Train until `missing()`, called again after every population, names no more runs. As long
        as it returns the same dict, from which runs only go, populations are not formed again.

        Runs that another process is training are waited for: it may die and leave them.
        """
        for worker in self.engine.adopt():
            self._employ_adopted(worker)
        known: dict[str, Config] | None = None
        while True:
            now = missing()
            if now is not known or self.has_changed:
                training = {n for w in self._busy() if w.population for n in w.population.configs}
                away = training | self.given_up
                left = {n: c for n, c in now.items() if n not in away}
                self.waiting = self._plan(left, training)
                known, self.has_changed = now, False
            self._employ()
            if self._busy():
                self._wait()
            elif self.given_up.issuperset(now):
                return
            else:
                time.sleep(POLL_S)
                self.taken.clear()
                self.has_changed = True

    def _plan(self, left: dict[str, Config], training: set[str]) -> list[PlannedPopulation]:
        """Return what to train now: first the populations that stopped and hold a run that is left,
        as they were formed. The other runs are in new ones."""
        away = training | self.given_up | self.taken
        stopped = stopped_populations(self.store, left)
        old = {name for population in stopped for name in population.configs}
        new = {
            name: config | {"host.width": self.widths.get(name, config["host.width"])}
            for name, config in left.items()
            if name not in old | away
        }
        return [p for p in stopped if away.isdisjoint(p.configs)] + form_populations(new, self.turn)

    def _employ(self) -> None:
        idle = [worker for worker in self.workers if worker.population is None]
        startable = max(0, self.engine.slots - len(self.workers))
        populations = self.waiting = halve_largest(self.waiting, len(idle) + startable)
        for _ in range(min(startable, len(populations) - len(idle))):
            self.workers.append(WorkerHandle(len(self.workers)))
            idle.append(self.workers[-1])
        for worker in idle[: len(populations)]:
            population = self._choose(worker, populations)
            populations.remove(population)
            self._assign(worker, population)

    def _wait(self) -> None:
        """Take events until a worker becomes free, or for REPLAN_S without an event."""
        quiet = 0.0
        while quiet < REPLAN_S:
            began, event = time.monotonic(), None
            try:
                event = self.events.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                pass
            took = min(time.monotonic() - began, HEARTBEAT_S)
            for worker in self._busy():
                worker.silent += took
            quiet = 0.0 if event else quiet + took
            if event and self._take(*event):
                return
            for worker in self._busy():
                if worker.seconds_left() <= 0:
                    return self._end_silent(worker)

    def _take(self, worker: WorkerHandle, facts: dict[str, Any]) -> bool:
        """Note an event; return whether its worker is free now."""
        worker.silent = 0.0
        event = facts.pop("event")
        if event == "cut off":
            self.on_event(worker, "warning", facts)
            raise Preempted
        if worker not in self.workers:
            return False  # the last message of one that was replaced
        if event == "ready":
            worker.is_ready, self.ended_early = True, 0
        elif event == "unfit":
            raise NoWorker(facts["message"])
        elif event == "alone":
            raise PeerGone(facts["message"])
        elif event == "gone":
            self._note_end(worker, facts)
        elif event == "error":
            self._note_error(worker, facts)
        elif event == "done":
            self.taken.update(facts["busy"])
            self.has_changed |= bool(facts["busy"])
            worker.population = None
        self.on_event(worker, event, facts)
        return worker.population is None

    def _end_silent(self, worker: WorkerHandle) -> None:
        """Replace a worker that has sent nothing for host.time_limit."""
        assert worker.population
        limit = worker.population.config["host.time_limit"]
        message = f"nothing was heard of it for {limit:g} s (host.time_limit)"
        self._fail(worker, Failure(worker.population, "timeout", message))
        self._replace(worker)

    def _replace(self, worker: WorkerHandle) -> None:
        """Let another worker come in the place of one that is dead or of no more use."""
        self.engine.kill(worker)
        self.workers[self.workers.index(worker)] = WorkerHandle(worker.number)

    def _note_end(self, worker: WorkerHandle, facts: dict[str, Any]) -> None:
        if not worker.is_ready and facts["status"] != "lost":
            self.ended_early += 1
            if self.ended_early == STARTS:
                given = "; is XLA_FLAGS right?" if os.environ.get("XLA_FLAGS") else ""
                raise NoWorker(
                    f"it {facts['message'] or 'was stopped'}, and the reason is above{given}"
                )
        elif worker.population and facts["message"]:
            message = f"worker process {facts['message']}"
            self._fail(worker, Failure(worker.population, facts["status"], message))
        worker.population, self.has_changed = None, True
        self._replace(worker)

    def _note_error(self, worker: WorkerHandle, facts: dict[str, Any]) -> None:
        if facts["status"] == StorageError.kind:
            raise StorageError(facts["message"])
        if worker.population is None:
            return
        failure = Failure(worker.population, facts["status"], facts["message"], facts["tail"])
        self._fail(worker, failure, facts["again"])
        if failure.status == "memory":
            self._replace(worker)  # for a new one all of the memory is free

    def _fail(self, worker: WorkerHandle, failure: Failure, again: bool = True) -> None:
        """Note a failure. The runs are tried again while retries are left and it may help, else
        they are given up. After an error of memory they are tried again at half the width."""
        names, width = failure.population.configs, failure.population.config["host.width"]
        for name in names:
            self.attempts.setdefault(name, []).append(failure.facts())
        if failure.status == "memory" and width > 1:
            self._set_width(failure.population, width // 2)
            then = f"tried again at width {width // 2}"
        else:
            self.failures.append(failure)
            then = "tried again" if again and self._has_retry(names) else "given up"
        facts = {"status": failure.status, "message": failure.message, "then": then}
        self.on_event(worker, "failed", facts)
        worker.population, self.has_changed = None, True
        if then == "given up":
            self.given_up |= set(names)
            for name in names:
                if not self.store.is_done(name):
                    self.store.fail(name, {"attempts": self.attempts[name]})

    def _has_retry(self, names: Iterable[str]) -> bool:
        """Return whether a retry is left. Halving the width is not one. Machines that were lost
        have retries of their own."""

        def is_left(attempts: list[dict[str, Any]]) -> bool:
            counted = [a for a in attempts if a["status"] != "memory" or a["width"] == 1]
            lost = sum(attempt["status"] == "lost" for attempt in counted)
            return lost <= self.engine.lost_retries and len(counted) - lost <= self.retries

        return all(is_left(self.attempts[name]) for name in names)

    def _set_width(self, population: PlannedPopulation, width: int) -> None:
        """Let the runs of a population that was too large restart in narrower ones."""
        folder = PopulationFolder(self.store, population_id(population.configs))
        if folder.path.exists():
            folder.set_aside()
        self.widths |= dict.fromkeys(population.configs, width)

    def measure(self, kind: str, configs: dict[str, Config]) -> dict[str, float]:
        """Return the seconds ("time") or bytes ("memory") of a step of a single run of each arm. An
        idle worker of this machine measures them while the others rest."""
        if self.engine.is_remote:
            with Supervisor(self.store, processes=1, data_dir=self.data_dir) as here:
                return here.measure(kind, configs)
        if not self.workers:
            self.workers.append(WorkerHandle(0))
        first = self.workers[0]
        self.engine.send(first, {"do": kind, "configs": configs})
        while True:
            worker, facts = self.events.get()
            if worker is first and facts["event"] == "measured":
                return facts["values"]
            if worker is first and facts["event"] in ("gone", "error", "unfit"):
                raise RuntimeError(f"the {kind} of a step could not be measured: {facts}")
