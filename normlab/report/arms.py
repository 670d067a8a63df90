"""What an arm, or the runs that follow from one, shows: one value for each seed."""

from __future__ import annotations

from collections.abc import Callable

from normlab.runs.record import Record
from normlab.studies.planning import SetupRuns


def rates_of(e: SetupRuns, name: str) -> list[float]:
    """Return log10 of the rates that count of an arm, ascending; none where it has no such runs."""
    found = e.reported.get(name)
    return sorted(found.chosen()) if found and found.seeds else []


def values_of(e: SetupRuns, name: str, metric: Callable[[Record], float]) -> dict[int, float]:
    """Return seed -> a metric, of an arm with several rates its mean over those that count."""
    found = e.reported.get(name)
    if found and found.seeds:
        return found.values(metric)
    return {seed: metric(run) for seed, run in e.runs_of(name).items()}
