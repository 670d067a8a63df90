"""What the supervisor needs of the place where workers run."""

from __future__ import annotations

import math
import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from normlab.launch.batching import PlannedPopulation

Facts = dict[str, Any]


@dataclass(eq=False)
class WorkerHandle:
    """One worker, and what the supervisor knows of it. Each is used until its worker is gone."""

    number: int
    population: PlannedPopulation | None = None
    programs: set[tuple] = field(default_factory=set)
    is_ready: bool = False
    silent: float = 0.0
    """Seconds that it was waited for since its last message."""

    def seconds_left(self) -> float:
        """Return the time until it has been silent for host.time_limit, which may be past."""
        limit = self.population.config["host.time_limit"] if self.population else math.inf
        return limit - self.silent


class Engine(Protocol):
    """Workers that can be sent requests.

    Every event is a handle and facts, of which "event" is the name. ready: it can train. unfit:
    no worker can, and "message" says why. gone: it has ended, and "message" says why, "" where it
    was asked to. "status" is then killed, or lost where its machine is. cut off: no worker can be
    reached, and "message" says why. alone: other processes of the same run are gone, see peers.py.
    The other events are those of `launch/worker.py`.
    """

    events: queue.Queue[tuple[WorkerHandle, Facts]]
    is_remote: bool
    """Whether its workers may be on other machines than this one."""
    lost_retries: int
    """How often runs are tried again whose machine was lost."""

    @property
    def slots(self) -> int:
        """How many workers there can be by now."""
        ...

    def adopt(self) -> list[WorkerHandle]:
        """Return the workers of a command that was killed, each with its population. Called once,
        before anything is sent."""
        ...

    def send(self, worker: WorkerHandle, request: Mapping[str, Any]) -> None:
        """Send a request to a worker, which is started where it has none yet."""
        ...

    def stop(self, worker: WorkerHandle) -> None:
        """Ask a worker to finish its chunk, save and leave."""
        ...

    def kill(self, worker: WorkerHandle) -> None:
        """End a worker, if it has not ended: its runs are free when this returns."""
        ...

    def close(self) -> None:
        """Give back what the engine holds. All workers have been killed."""
        ...
