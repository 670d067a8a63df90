"""What one finished run says: failed or not, errors, steps to a target."""

from __future__ import annotations

import math

from normlab.lab.record import Record

FAILED_BELOW = 0.5
"""Validation accuracy under which a run has failed, finite or not."""
FAILED_ERROR = 0.9
"""Error of a failed run: chance among ten classes."""
MISSED_STEPS = 10
"""In tuning, a target that is missed counts as reached after this many times the steps."""


def is_failed(record: Record) -> bool:
    """Tell whether a run became non-finite or ended below half accuracy on validation."""
    return record.status != "trained" or record.final.get("validation_accuracy", 0.0) < FAILED_BELOW


def accuracy(record: Record, split: str, mode: str = "") -> float:
    """Return the final accuracy on `split`; chance for a failed run."""
    if is_failed(record):
        return 1 - FAILED_ERROR
    return record.final[f"{mode}{split}_accuracy"]


def error_points(record: Record, split: str = "test", mode: str = "") -> float:
    """Return the final error in percentage points; 90 for a failed run."""
    return 100 * (1 - accuracy(record, split, mode))


def steps_to_target(record: Record, target: float, mode: str = "") -> float:
    """Return the step at which validation accuracy first is at least `target`; inf if it never is,
    or if the run failed afterwards.

    Between the evaluation that reaches it and the one before, the step is interpolated linearly in
    accuracy and in log step.
    """
    if is_failed(record):
        return math.inf
    before = None
    for row in record.curve:
        now = row[f"{mode}accuracy"]
        if now >= target:
            if before is None or now == before[1]:
                return float(row["step"])
            share = (target - before[1]) / (now - before[1])
            low, high = math.log(before[0]), math.log(row["step"])
            return math.exp(low + share * (high - low))
        before = (row["step"], now)
    return math.inf


def log_octaves(slow: float, fast: float) -> float:
    """Return log2(slow / fast) of two times of which either may be infinite; both: a tie, 0."""
    if math.isinf(slow) and math.isinf(fast):
        return 0.0
    if math.isinf(slow):
        return math.inf
    return -math.inf if math.isinf(fast) else math.log2(slow / fast)


def largest_rate(passed: dict[float, bool]) -> float:
    """Return the top of the longest unbroken run of passing rates; -inf where none passes.

    `passed` maps the exponent of each rate to whether it trained. Of two runs of equal length the
    lower one counts.
    """
    best: list[float] = []
    run: list[float] = []
    for exponent in sorted(passed):
        run = [*run, exponent] if passed[exponent] else []
        if len(run) > len(best):
            best = run
    return best[-1] if best else -math.inf
