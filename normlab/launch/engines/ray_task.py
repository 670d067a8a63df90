"""What runs on the nodes of a Ray cluster: a task for each population, and the flags to stop them.

A task yields the events of its worker.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from normlab.launch.engines.remote_task import Events, answers


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
) -> Events:
    """Answer a request of the supervisor; yield the events of the worker."""
    ray = import_module("ray")
    end = time.monotonic() + (60 * options["timeout_min"] or math.inf)
    flag = flags.wait.remote(number)

    def is_told_to_stop() -> bool:
        return time.monotonic() > end or bool(ray.wait([flag], timeout=0)[0])

    node = ray.get_runtime_context().get_node_id()
    yield from answers(request, kept, data, is_told_to_stop, options, node)
