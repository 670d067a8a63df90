"""From the runs of two arms to the row of a contrast: errors, steps to a target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from normlab.studies.decisions import Row, accuracy_row
from normlab.studies.metrics import (
    at_train_loss,
    error_points,
    is_failed,
    log_octaves,
    steps_to_target,
)
from normlab.studies.planning import SetupRuns


def error_row(e: SetupRuns, worse: str, better: str, *, n: int, **facts) -> Row:
    """Return the row with e = test error of `worse` - test error of `better`, in points; `n` is the
    planned one, whatever number of seeds the setup was given on the command line."""
    runs = {arm: e.runs_of(arm) for arm in (worse, better)}
    errors = {arm: {s: error_points(r) for s, r in runs[arm].items()} for arm in runs}
    facts = {
        "contrast": f"test error of {worse} - test error of {better}, each at its best rate",
        "scope": e.setup.title,
        "setup": e.setup.name,
        "unit": "points",
        "n": n,
        **facts,
    }
    return accuracy_row(
        better=errors[better],
        worse=errors[worse],
        failed=lambda s: (is_failed(runs[better][s]), is_failed(runs[worse][s])),
        **facts,
    )


def octaves(e: SetupRuns, slow: str, fast: str) -> dict[int, float]:
    """Return seed -> log2 of the steps to the target, `slow` over `fast`."""
    runs, others, target = e.runs_of(slow), e.runs_of(fast), e.setup.target
    return {
        s: log_octaves(steps_to_target(runs[s], target), steps_to_target(others[s], target))
        for s in sorted(runs.keys() & others.keys())
    }


def at_matched_losses(
    e: SetupRuns,
    first: str,
    second: str,
    key: str,
    losses: Sequence[float],
    value: Callable[[float], float],
) -> dict[int, float]:
    """Return seed -> mean over the training losses that both arms reach of value(first) -
    value(second) there, of a key of their curves; seeds without such a loss are left out."""
    runs, others = e.runs_of(first), e.runs_of(second)
    found = {}
    for s in sorted(runs.keys() & others.keys()):
        pairs = [(at_train_loss(runs[s], key, x), at_train_loss(others[s], key, x)) for x in losses]
        told = [value(a) - value(b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        if told:
            found[s] = statistics.fmean(told)
    return found
