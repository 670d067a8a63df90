"""Which norm: the schemes of a setup compared with the best of them (Hsu's method, 1984).

Per scheme and seed there is a cost: log2 of steps, an error, minus log10 of a rate. Schemes are
paired by seed. With D_ij = mean(cost_i - cost_j) and its standard error SE_ij, scheme i is at most

    U_i = max over j of (D_ij + t SE_ij), at least 0

behind the best. t is the one-sided quantile at 1 - 0.05 / (k - 1) of k schemes, so that all bounds
hold together with 95 % confidence. A scheme with U_i < delta is an equal of the best.

SE_ij is SD / sqrt(n). Where rates are chosen it may be larger. It is then the SD over a bootstrap
of the seeds that chooses the rates again in each draw, times sqrt(n / (n - 1)). A jackknife is
wrong here. Where one seed decides between two windows, it takes the jump between them for the SE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from normlab.studies.decisions import Redraw
from normlab.studies.intervals import Estimate, t_estimate
from normlab.studies.metrics import steps_to_target, trained_error
from normlab.studies.planning import SetupRuns
from normlab.studies.rates import MAY_FAIL
from normlab.studies.reported import ReportedRates
from normlab.studies.units import (
    DECADES,
    OCTAVES,
    POINTS,
    Unit,
    decimal,
    magnitude,
    percentage,
    rate_text,
)

LEVEL = 0.05
DRAWS = 200
"""Draws of the bootstrap."""

Costs = Mapping[str, Mapping[int, float]]
"""Scheme -> seed -> cost."""


@dataclass(frozen=True)
class Purpose:
    """What is asked of a norm, and how it is measured."""

    name: str
    unit: Unit
    sign: float
    """-1 where more is better."""
    costs: Callable[[SetupRuns], Costs]
    text: Callable[[float], str]
    """How a value is written."""
    redraws: Callable[[SetupRuns], Mapping[str, Redraw]] = lambda e: {}
    """Scheme -> its costs again with its rates chosen from other seeds, where they are chosen."""


@dataclass(frozen=True)
class Ranking:
    """The schemes of one setup for one purpose, and the smallest difference of interest."""

    purpose: Purpose
    setup: str
    sesoi: float | Mapping[str, float]

    def delta(self, profile: str) -> float:
        return self.sesoi[profile] if isinstance(self.sesoi, Mapping) else self.sesoi


@dataclass(frozen=True)
class Standing:
    """One scheme among the others."""

    name: str
    value: Estimate
    """The mean with its 95 % t interval, in the unit of the purpose."""
    n: int
    behind: float
    """U: how far behind the best it is at most."""
    is_equal: bool


def standings(
    costs: Costs, purpose: Purpose, sesoi: float, redraws: Mapping[str, Redraw] | None = None
) -> list[Standing]:
    """Return the schemes, the best first. Those with fewer than 2 seeds in common are left out."""
    known = {name: found for name, found in costs.items() if len(found) >= 2}
    seeds = sorted(set.intersection(*map(set, known.values()))) if known else []
    if len(known) < 2 or len(seeds) < 2:
        return []
    names, table = [*known], np.array([[found[s] for s in seeds] for found in known.values()])
    quantile = float(scipy.stats.t.ppf(1 - LEVEL / (len(names) - 1), len(seeds) - 1))
    drawn, n = drawn_means(table, names, seeds, redraws or {}), len(seeds)
    has_choice = np.array([name in (redraws or {}) for name in names])
    found = []
    for i, (name, row) in enumerate(zip(names, table, strict=True)):
        differences = row - table
        plain = differences.std(axis=1, ddof=1) / math.sqrt(n)
        chosen = (drawn[i] - drawn).std(axis=1) * math.sqrt(n / (n - 1))
        errors = np.where(has_choice | has_choice[i], np.maximum(plain, chosen), plain)
        behind = float((differences.mean(axis=1) + quantile * errors).max())  # at least 0, its own
        value = t_estimate(purpose.sign * row, 0.95)
        found.append(Standing(name, value, len(seeds), behind, behind < sesoi))
    return sorted(found, key=lambda s: purpose.sign * s.value.centre)


def drawn_means(
    table: np.ndarray, names: Sequence[str], seeds: Sequence[int], redraws: Mapping[str, Redraw]
) -> np.ndarray:
    """Return the mean cost of each scheme in each draw of the seeds, [schemes, draws]."""
    picks = np.random.default_rng(0).integers(len(seeds), size=(DRAWS, len(seeds)))
    found = table[:, picks].mean(axis=2)
    for i, name in enumerate(names):
        if name in redraws:
            found[i] = [np.nanmean(redraws[name]([seeds[p] for p in draw])) for draw in picks]
    return found


def ranked(e: SetupRuns) -> list[str]:
    """Return the arms that are compared: the others have fewer seeds and rates."""
    return [arm.name for arm in e.setup.arms if arm.is_primary]


def step_costs(e: SetupRuns) -> Costs:
    """Return log2 of the steps to the target; a run that misses it counts with all its steps."""

    def cost(run) -> float:
        return math.log2(min(steps_to_target(run, e.setup.target), run.config["train.steps"]))

    return {arm: {s: cost(run) for s, run in e.runs_of(arm).items()} for arm in ranked(e)}


def error_costs(e: SetupRuns) -> Costs:
    """Return test errors in points, of the seeds that trained."""
    found = {arm: reported.values(trained_error) for arm, reported in able(e).items()}
    return {
        arm: {seed: value for seed, value in values.items() if math.isfinite(value)}
        for arm, values in found.items()
    }


def error_redraws(e: SetupRuns) -> dict[str, Redraw]:
    """The rates that are eligible for all seeds remain so. Without its only failed run a rate would
    be eligible, and an arm would change by points that its seeds do not vary by."""
    return {
        arm: r.eligible_alone().redraw(trained_error) for arm, r in able(e).items() if r.is_window
    }


def able(e: SetupRuns) -> dict[str, ReportedRates]:
    """Return the runs of the arms with a rate at which few enough runs fail."""
    found = {arm: e.reported[arm] for arm in ranked(e) if arm in e.reported}
    return {arm: r for arm, r in found.items() if r.seeds and r.share_failed <= MAY_FAIL}


def edge_costs(e: SetupRuns) -> Costs:
    """Return minus log10 of the highest rate that trains; schemes that train at none are absent."""
    return {
        arm: {s: -edge for s, edge in edges.items()}
        for arm, edges in ((arm, e.edges.get(arm, {})) for arm in ranked(e))
        if edges and all(map(math.isfinite, edges.values()))
    }


SPEED = Purpose("steps to the target", OCTAVES, 1.0, step_costs, lambda v: magnitude(2**v))
TOLERANCE = Purpose(
    "highest rate that trains", DECADES, -1.0, edge_costs, lambda v: rate_text(10**v)
)
ERROR = Purpose(
    "test error, points",
    POINTS,
    1.0,
    error_costs,
    lambda v: decimal(percentage(v), 2),
    error_redraws,
)
