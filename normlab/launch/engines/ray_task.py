"""What runs on the nodes of a Ray cluster: a task for each population, and the flags to stop them.

A task yields the events of its worker. Those that only say how far it is come at most every
EVENT_S. One that has nothing to say yields a sign of life as often.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from normlab.launch.engines.cores import stay_on_cores
from normlab.launch.surroundings import changes_numbers
from normlab.runs.provenance import host_facts

EVENT_S = 10.0
"""Seconds between two signs of life, and least seconds between two reports of progress."""
LAST = ("done", "error", "measured", "gone")


class StopFlags:
    """One flag for each task, in an actor next to the command."""

    def __init__(self) -> None:
        self.flags: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait(self, number: int) -> None:
        """Return when the flag is set."""
        await self.flags[number].wait()

    async def set(self, number: int) -> None:
        self.flags[number].set()


def train(
    request: dict[str, Any],
    kept: Mapping[str, Mapping[str, bytes]],
    data: Mapping[str, Any],
    flags: Any,
    number: int,
    options: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Answer a request of the supervisor; yield the events of the worker."""
    for name in filter(changes_numbers, list(os.environ)):
        del os.environ[name]
    if not options["gpus"]:
        stay_on_cores(options["cpus"])
    ray, parcel = import_module("ray"), import_module("normlab.launch.parcel")
    doubt = parcel.prepare(options["commit"])
    facts = host_facts()
    node = ray.get_runtime_context().get_node_id()
    told = {name: facts[name] for name in ("training_version", "versions")}
    yield {"event": "ready", "node": node, "pid": os.getpid(), **told}
    if doubt:
        yield {"event": "warning", "message": doubt}
    end = time.monotonic() + (60 * options["timeout_min"] or math.inf)
    flag = flags.wait.remote(number)

    def is_told_to_stop() -> bool:
        return time.monotonic() > end or bool(ray.wait([flag], timeout=0)[0])

    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    arguments = (request, kept, data, events.put, is_told_to_stop)
    threading.Thread(target=parcel.answer_parcel, args=arguments, daemon=True).start()
    yield from thinned(events)


def thinned(events: queue.SimpleQueue[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield events up to the last one. Of those about progress the newest is yielded when it is
    time, or when another event comes."""
    held: dict[str, Any] | None = None
    spoke = -math.inf
    while True:
        try:
            event = events.get(timeout=max(0.0, spoke + EVENT_S - time.monotonic()))
        except queue.Empty:
            event = held or {"event": "alive"}
            held = None
        if event["event"] == "chunk" and time.monotonic() < spoke + EVENT_S:
            held = event
            continue
        if held and event["event"] != "chunk":
            yield held
        held, spoke = None, time.monotonic()
        yield event
        if event["event"] in LAST:
            return
