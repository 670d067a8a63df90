"""From the runs of two arms to the row of a contrast: errors, steps to a target."""

from __future__ import annotations

from normlab.lab.evidence import SetupEvidence
from normlab.lab.measures import error_points, is_failed, log_octaves, steps_to_target
from normlab.lab.verdicts import Row, accuracy_row


def error_row(e: SetupEvidence, worse: str, better: str, **facts) -> Row:
    """Return the row with e = test error of `worse` - test error of `better`, in points."""
    runs = {arm: e.runs_of(arm) for arm in (worse, better)}
    errors = {arm: {s: error_points(r) for s, r in runs[arm].items()} for arm in runs}
    facts = {
        "contrast": f"test error of {worse} - test error of {better}, each at its best rate",
        "scope": e.setup.title,
        "setup": e.setup.name,
        "unit": "points",
        "n": e.setup.seeds,
        **facts,
    }
    return accuracy_row(
        better=errors[better],
        worse=errors[worse],
        failed=lambda s: (is_failed(runs[better][s]), is_failed(runs[worse][s])),
        **facts,
    )


def octaves(e: SetupEvidence, slow: str, fast: str) -> dict[int, float]:
    """Return seed -> log2 of the steps to the target, `slow` over `fast`."""
    runs, others, target = e.runs_of(slow), e.runs_of(fast), e.setup.target
    return {
        s: log_octaves(steps_to_target(runs[s], target), steps_to_target(others[s], target))
        for s in sorted(runs.keys() & others.keys())
    }
