"""What ended populations before their runs did, and what a command ends with then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from normlab.launch.batching import PlannedPopulation
from normlab.runs.errors import Drift, NoCheckpoint
from normlab.runs.provenance import now
from normlab.runs.store import Store


@dataclass
class Failure:
    """A population that ended before its runs did."""

    population: PlannedPopulation
    status: str
    """error, memory, killed, lost, timeout, or the kind of a LabError."""
    message: str
    tail: list[str] = field(default_factory=list)
    """The end of the traceback."""

    def facts(self) -> dict[str, Any]:
        width = self.population.config["host.width"]
        facts = {"status": self.status, "message": self.message, "tail": self.tail}
        return facts | {"width": width, "when": now()}


def error_of(failures: Iterable[Failure]) -> type[Exception]:
    """Return the error that a command ends with, which has its exit code."""
    statuses = {failure.status for failure in failures}
    return next((e for e in (Drift, NoCheckpoint) if e.kind in statuses), RuntimeError)


def lost_runs(failures: Iterable[Failure], store: Store) -> dict[str, Failure]:
    """Return the runs of failed populations that are still not done, each with its last failure."""
    lost = {n: f for f in failures for n in f.population.configs if not store.is_done(n)}
    return dict(sorted(lost.items()))


def raise_lost(failures: Iterable[Failure], store: Store) -> None:
    """Raise an error for runs that could not be finished: the kind of the first that has one."""
    if lost := lost_runs(failures, store):
        message = (
            f"{len(lost)} runs could not be finished, the first is {next(iter(lost))}; the reasons "
            f"are above and in {store.root}/runs/*/failure.json"
        )
        raise error_of(lost.values())(message)
