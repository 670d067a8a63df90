"""The cells of a setup's table: what the runs of one line say, with n and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normlab.runs.record import Record
from normlab.studies.hypothesis_tests import median, median_interval, t_interval
from normlab.studies.metrics import accuracy, error_points, is_failed, log_octaves, steps_to_target
from normlab.studies.units import NOTHING, decimal, magnitude, rate_text, with_interval

Runs = Mapping[int, Record]
RUNNING = "running_"
"""Prefix of what was measured with running averages."""
BATCH = "batch_"
"""Prefix of what was measured with the statistics of each scored batch."""


@dataclass(frozen=True)
class Line:
    """One line of the table: an arm, or runs that follow from one."""

    name: str
    role: str
    runs: Runs
    reference: Runs
    """The runs that this line is compared with, paired by seed; empty for the reference itself."""
    rates: Mapping[int, float]
    """Sweep: seed -> log10 of the largest rate that trains."""
    reference_rates: Mapping[int, float]
    tried: Sequence[Record]
    """The runs whose failures are counted: sweeps count those at every rate."""


def has_mode(line: Line, mode: str) -> bool:
    """Tell whether any run of the line was measured in this mode of evaluation."""
    return any(f"{mode}test_accuracy" in run.final for run in line.runs.values())


def n_of(line: Line) -> int:
    return max(len(line.runs), len(line.rates))


def rate_cell(line: Line) -> str:
    rates = {run.config["optim.lr"] for run in line.runs.values()}
    return rate_text(rates.pop()) if len(rates) == 1 else NOTHING


def _median_cell(values: list[float], text: Callable[[float], str]) -> str:
    if not values:
        return NOTHING
    low, high, _ = median_interval(values)
    return with_interval(text(median(values)), text(low), text(high))


def _mean_cell(values: list[float], text: Callable[[float], str]) -> str:
    if not values:
        return NOTHING
    low, high = t_interval(values)
    return with_interval(text(float(np.mean(values))), text(low), text(high))


def steps_cell(line: Line, target: float, mode: str = "") -> str:
    if mode and not has_mode(line, mode):
        return ""
    return _median_cell([steps_to_target(r, target, mode) for r in line.runs.values()], magnitude)


def speed_cell(line: Line, target: float) -> str:
    """Return how many times fewer steps than the reference, median over pairs."""
    octaves = [
        log_octaves(steps_to_target(line.reference[s], target), steps_to_target(run, target))
        for s, run in line.runs.items()
        if s in line.reference
    ]
    return _median_cell(octaves, lambda v: magnitude(2.0**v)) if octaves else ""


def error_cell(line: Line, mode: str = "") -> str:
    if mode and not has_mode(line, mode):
        return ""
    errors = [error_points(run, mode=mode) for run in line.runs.values()]
    return _mean_cell(errors, lambda v: decimal(v, 2))


def difference_cell(line: Line) -> str:
    """Return error minus the reference's error, mean over pairs."""
    differences = [
        error_points(run) - error_points(line.reference[s])
        for s, run in line.runs.items()
        if s in line.reference
    ]
    return _mean_cell(differences, lambda v: decimal(v, 2)) if differences else ""


def largest_rate_cell(line: Line) -> str:
    exponents = list(line.rates.values())
    return _median_cell(exponents, lambda v: rate_text(10**v)) if exponents else ""


def rate_ratio_cell(line: Line) -> str:
    """Return the largest rate over the reference's, median over pairs."""
    other = line.reference_rates
    pairs = [(rate, other[s]) for s, rate in line.rates.items() if s in other]
    ratios = [0.0 if a == b else a - b for a, b in pairs]
    return _median_cell(ratios, lambda v: magnitude(10.0**v)) if ratios else ""


def accuracy_cell(line: Line) -> str:
    values = [100 * accuracy(run, "test") for run in line.runs.values()]
    return _mean_cell(values, lambda v: decimal(v, 1))


def failed_cell(line: Line) -> str:
    """Return how many runs failed, and how many of those became non-finite."""
    if not line.tried:
        return NOTHING
    diverged = sum(run.status != "trained" for run in line.tried)
    text = f"{sum(map(is_failed, line.tried))} of {len(line.tried)}"
    return f"{text} ({diverged} diverged)" if diverged else text


def seconds_cell(line: Line, target: float, step_seconds: Mapping[str, float]) -> str:
    """Return median steps to the target times the seconds of a step of a single run."""
    if line.name not in step_seconds or not line.runs:
        return ""
    steps = median([steps_to_target(run, target) for run in line.runs.values()])
    return magnitude(steps * step_seconds[line.name])
