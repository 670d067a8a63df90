"""From the runs of two arms to the row of a contrast: errors, steps to a target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import MCNEMAR, PAIRED_T
from normlab.studies.metrics import (
    at_train_loss,
    error_points,
    is_failed,
    log_octaves,
    steps_to_target,
)
from normlab.studies.planning import SetupRuns
from normlab.studies.units import POINTS, TRAINED


def error_row(e: SetupRuns, worse: str, better: str, *, n: int, **facts) -> Contrast:
    """Return the row with e = test error of `worse` - test error of `better`, in points; `n` is the
    planned one, whatever number of seeds the setup was given on the command line."""
    runs = {arm: e.runs_of(arm) for arm in (worse, better)}
    errors = {arm: {s: error_points(r) for s, r in runs[arm].items()} for arm in runs}
    facts = {
        "comparison": f"test error of {worse} - test error of {better}, each at its best rate",
        "scope": e.setup.title,
        "setup": e.setup.name,
        "unit": POINTS,
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


def accuracy_row(
    *,
    better: dict[int, float],
    worse: dict[int, float],
    failed: Callable[[int], tuple[bool, bool]],
    **facts,
) -> Contrast:
    """Return a row whose effect is error `worse` - error `better` in points, paired by seed.

    If more than a quarter of either arm's runs failed, the row is decided by McNemar's test on
    "trained" instead: e = 1 where only `better` trained, -1 where only `worse` did.
    `failed(seed)` tells for (better, worse) whether the run failed.
    """
    seeds = sorted(better.keys() & worse.keys())
    flags = {s: failed(s) for s in seeds}
    shares = [np.mean([flags[s][i] for s in seeds]) if seeds else 0.0 for i in (0, 1)]
    if max(shares) > 0.25:
        effects = {s: float(flags[s][1]) - float(flags[s][0]) for s in seeds}
        facts |= {"unit": TRAINED, "remark": "decided by McNemar's test on trained"}
        return Contrast(effects=effects, test=MCNEMAR, **facts)
    return Contrast(effects={s: worse[s] - better[s] for s in seeds}, test=PAIRED_T, **facts)
