"""What a worker on another machine does with a request, whatever carries its events.

Events that only say how far it is come at most every EVENT_S. A worker that has nothing to say
gives a sign of life as often.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from normlab.launch.engines.cores import stay_on_cores
from normlab.launch.surroundings import changes_numbers
from normlab.runs.provenance import host_facts

EVENT_S = 10.0
"""Seconds between two signs of life, and least seconds between two reports of progress."""
LAST = ("done", "error", "measured", "gone")
Events = Iterator[dict[str, Any]]


def answers(
    request: dict[str, Any],
    kept: Mapping[str, Mapping[str, bytes]],
    data: Mapping[str, Any],
    is_told_to_stop: Callable[[], bool],
    options: Mapping[str, Any],
    node: str,
) -> Events:
    """Answer a request of the supervisor; yield the events of the worker. `options`: those of
    LaunchOptions, and the commit of the code."""
    for name in filter(changes_numbers, list(os.environ)):
        del os.environ[name]
    if not options["gpus"]:
        stay_on_cores(options["cpus"])
    parcel = import_module("normlab.launch.parcel")
    doubt = parcel.prepare(options["commit"])
    facts = host_facts()
    own = {name: facts[name] for name in ("training_version", "versions")}
    yield {"event": "ready", "node": node, "pid": os.getpid(), **own}
    if doubt:
        yield {"event": "warning", "message": doubt}
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    arguments = (request, kept, data, events.put, is_told_to_stop)
    threading.Thread(target=parcel.answer_parcel, args=arguments, daemon=True).start()
    yield from thinned(events)


def thinned(events: queue.SimpleQueue[dict[str, Any]]) -> Events:
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
