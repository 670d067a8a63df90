"""The supervisor: gives populations to worker processes and survives them. It never imports jax."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from normlab.lab.config import cohort_id
from normlab.lab.places import places
from normlab.lab.store import Store
from normlab.settings import Config, program_key

PATIENCE = 1.0
"""Seconds between two looks at runs that another process holds."""
WORTH_SHARING = 20_000
"""Run-steps of a group that take longer than the second worker's compilation, 5 to 10 seconds."""


@dataclass(frozen=True)
class Group:
    """Runs to train together: one cohort, at most the width of a population."""

    configs: dict[str, Config]

    @property
    def config(self) -> Config:
        return next(iter(self.configs.values()))

    @property
    def run_steps(self) -> int:
        return len(self.configs) * self.config["train.steps"]

    @property
    def label(self) -> str:
        c = self.config
        stats = f"/{c['norm.stats_batch']}" if c["norm.stats_batch"] else ""
        return (
            f"{c['data.name']} {c['model.name']} {c['norm.name']}{stats}, "
            f"batch {c['data.batch']}, {len(self.configs)} runs"
        )


@dataclass
class Hand:
    """One worker process and what it is doing."""

    number: int
    process: subprocess.Popen[str]
    group: Group | None = None
    programs: set[tuple] = field(default_factory=set)


@dataclass
class Failure:
    group: Group
    message: str
    tail: list[str]


def group_runs(configs: dict[str, Config]) -> list[Group]:
    """Return the runs as groups of one cohort each, at most host.width wide."""
    cohorts: dict[str, dict[str, Config]] = {}
    for name, config in configs.items():
        cohorts.setdefault(cohort_id(config), {})[name] = config
    groups = []
    for runs in cohorts.values():
        names, width = list(runs), next(iter(runs.values()))["host.width"]
        parts = -(-len(names) // width)
        size = -(-len(names) // parts)
        groups += [
            Group({n: runs[n] for n in names[i : i + size]}) for i in range(0, len(names), size)
        ]
    return groups


def spread(groups: list[Group], workers: int) -> list[Group]:
    """Return the groups, the largest ones halved while there are more workers than groups, down to
    WORTH_SHARING."""
    groups = list(groups)
    while 0 < len(groups) < workers:
        largest = max(groups, key=lambda group: group.run_steps)
        runs, half = list(largest.configs.items()), len(largest.configs) // 2
        if half == 0 or largest.run_steps < WORTH_SHARING:
            break
        groups.remove(largest)
        groups += [Group(dict(runs[:half])), Group(dict(runs[half:]))]
    return groups


class Supervisor:
    """Runs groups on `processes` workers. `on_event(hand, event, facts)` sees all that happens.

    Each worker writes a profile of a few steps of its first population to `profile_trace`.
    """

    def __init__(
        self,
        store: Store,
        *,
        processes: int = 0,
        data_dir: str | None = None,
        profile_trace: str | None = None,
        retries: int = 1,
        on_event: Callable[[Hand, str, dict[str, Any]], None] = lambda *_: None,
    ):
        self.store, self.data_dir, self.retries = store, data_dir, retries
        self.profile_trace = profile_trace
        self.on_event = on_event
        self.places = places(processes)
        self.events: queue.Queue[tuple[Hand, dict[str, Any]]] = queue.Queue()
        self.hands: list[Hand] = []
        self.failures: list[Failure] = []
        self.attempts: dict[str, int] = {}
        self.given_up: set[str] = set()
        self.taken: set[str] = set()
        """Runs whose locks other processes held when they were last tried."""

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self.hands:
            hand.process.kill()
            hand.process.wait()

    def _start(self, number: int) -> Hand:
        command = [sys.executable, "-m", "normlab.lab.worker", f"--results={self.store.root}"]
        place = self.places[number]
        command += [f"--core={place.core}"] if place.core is not None else []
        command += [f"--data_dir={self.data_dir}"] if self.data_dir else []
        command += [f"--profile_trace={self.profile_trace}"] if self.profile_trace else []
        command += [f"--norms={file}" for file in self.store.norm_files()]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | place.environment,
        )
        hand = Hand(number, process)
        threading.Thread(target=self._listen, args=(hand,), daemon=True).start()
        return hand

    def _listen(self, hand: Hand) -> None:
        assert hand.process.stdout is not None
        for line in hand.process.stdout:
            self.events.put((hand, json.loads(line)))
        self.events.put((hand, {"event": "gone"}))

    def _send(self, hand: Hand, request: dict[str, Any]) -> None:
        assert hand.process.stdin is not None
        try:
            hand.process.stdin.write(json.dumps(request) + "\n")
            hand.process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is noticed by the listener

    def _give(self, hand: Hand, group: Group) -> None:
        hand.group = group
        hand.programs.add(program_key(group.config))
        self._send(hand, {"do": "train", "configs": group.configs})
        self.on_event(hand, "given", {})

    def _choose(self, hand: Hand, groups: list[Group]) -> Group:
        """Return the group for an idle worker: one whose program it has already compiled, else one
        that nobody has, else any; the largest of them."""
        others = set().union(*(h.programs for h in self.hands if h is not hand))

        def rank(group: Group) -> tuple[int, int]:
            key = program_key(group.config)
            return (2 if key in hand.programs else key not in others, group.run_steps)

        return max(groups, key=rank)

    def run(self, wanted: Callable[[], dict[str, Config]]) -> None:
        """Train until `wanted()`, asked again after every population, names nothing more.

        Runs that another process is training are waited for: it may die and leave them.
        """
        while True:
            busy = {n for h in self.hands if h.group for n in h.group.configs}
            left = {n: c for n, c in wanted().items() if n not in busy | self.given_up}
            self._employ(group_runs({n: c for n, c in left.items() if n not in self.taken}))
            if any(h.group for h in self.hands):
                self._wait()
            elif left:
                time.sleep(PATIENCE)
                self.taken.clear()
            else:
                return

    def _employ(self, groups: list[Group]) -> None:
        idle = [h for h in self.hands if h.group is None]
        groups = spread(groups, len(idle) + len(self.places) - len(self.hands))
        while groups and len(self.hands) < len(self.places) and len(idle) < len(groups):
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
            hand, facts = self.events.get()
            event = facts.pop("event")
            if event == "gone":
                code = hand.process.wait()
                message = f"worker process ended with code {code}"
                self._failed(hand, message, [])
                self.hands[self.hands.index(hand)] = self._start(hand.number)
            elif event == "error":
                self._failed(hand, facts["message"], facts["tail"])
            elif event == "done":
                self.taken |= set(facts["busy"])
                hand.group = None
            self.on_event(hand, event, facts)
            if hand.group is None:
                return

    def _failed(self, hand: Hand, message: str, tail: list[str]) -> None:
        group, hand.group = hand.group, None
        if group is None:
            return
        self.failures.append(Failure(group, message, tail))
        for name in group.configs:
            self.attempts[name] = self.attempts.get(name, 0) + 1
            if self.attempts[name] > self.retries:
                self.given_up.add(name)

    def time_steps(self, configs: dict[str, Config]) -> dict[str, float]:
        """Return seconds of a training step of a single run of each arm, measured by an idle
        worker while the others rest."""
        if not self.hands:
            self.hands.append(self._start(0))
        self._send(self.hands[0], {"do": "time", "configs": configs})
        while True:
            hand, facts = self.events.get()
            if facts["event"] == "timed":
                return facts["seconds"]
            if facts["event"] in ("gone", "error"):
                raise RuntimeError(f"step times could not be measured: {facts}")


def lost_runs(failures: Iterable[Failure], store: Store) -> list[str]:
    """Return the runs of failed populations that are still not done."""
    return sorted({n for f in failures for n in f.group.configs if not store.is_done(n)})
