"""The rules of docs/rules.md written a second time, with numpy and scipy and nothing of normlab.

It goes from the list of runs and their curves to the estimates that recompute.py judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmarks.validation.runs_again import FIRST, NOTCHES, Rates, Results, Run, curve_of

LEVEL, QUARTER = 0.99, 4
"""Level of the intervals. Notches of a quarter decade."""
MOST_FAILED, MOST_MISSED, MISSED, MOVES = 0.05, 0.1, 10, 8
"""Share of a rate's runs that may fail. Share of runs that may miss a target. In a search a miss
counts this many times the steps. A window moves at most so often."""


# ---- choice of rates

Score = Callable[[Run], float]
"""What a search keeps low."""


def error(run: Run) -> float:
    return 1 - run.accuracy("validation")


def eligible(rates: Rates) -> Rates:
    """Return the rates at which few enough runs fail; if there is none, those with the fewest."""
    failed = {at: np.mean([run.is_failed for run in runs.values()]) for at, runs in rates.items()}
    most = max(MOST_FAILED, min(failed.values()))
    return {at: rates[at] for at in sorted(rates) if failed[at] <= most}


def to_quarter(notch: float) -> int:
    """Return the nearest quarter decade, the lower one where two are equally near."""
    return QUARTER * math.ceil(round(notch / QUARTER - 0.5, 6))


def mean_of(rates: Rates, score: Score) -> dict[int, float]:
    """Return the mean score of each rate."""
    return {at: float(np.mean([score(r) for r in runs.values()])) for at, runs in rates.items()}


def lowest(scores: dict[int, float], cap: float) -> int:
    """Return the lowest point of the parabola through these scores, to a quarter decade.

    A score counts as at most `cap` above the least one. The point lies among the given rates.
    """
    x, y = np.array(list(scores)), np.array(list(scores.values()))
    y = np.minimum(y, y.min() + cap)
    best = int(x[np.argmin(y)])
    if len(x) < 3 or np.ptp(y) == 0:
        return best
    slope, curvature = np.polynomial.Polynomial.fit(x, y, 2).convert().coef[1:]
    return to_quarter(min(max(-slope / (2 * curvature), x[0]), x[-1])) if curvature > 0 else best


def searched(rates: Rates, score: Score, cap: float) -> int:
    """Return the rate that a search chooses, by its best rate and the neighbours of that."""
    able = eligible(rates)
    means, errors = mean_of(able, score), mean_of(able, error)
    best = min(able, key=lambda at: (means[at], errors[at], at))
    near = {at: mean for at, mean in means.items() if abs(at - best) <= 2 * QUARTER}
    return lowest(near, cap) if len(set(near.values())) > 1 else best


def window(rates: Rates, middle: int, seeds: Sequence[int]) -> tuple[int, list[int]]:
    """Return the vertex of the five rates around the middle, and those of them that count.

    The mean of a rate is over the runs that trained. The vertex is the nearest eligible rate.
    """
    five = [middle + QUARTER * i for i in range(-2, 3)]
    means = {}
    for at, runs in eligible({at: {s: rates[at][s] for s in seeds} for at in five}).items():
        means[at] = float(np.mean([error(r) for r in runs.values() if not r.is_failed] or [1.0]))
    point = lowest(means, 0.2)
    vertex = min(means, key=lambda at: (abs(at - point), means[at]))
    return vertex, [at for at in means if abs(at - vertex) <= QUARTER]


def placed(results: Results, setup: str, arm: str, n: int) -> int:
    """Return the middle of an arm's window, moved until its vertex is not on its edge."""
    reports, tried = results.rates(setup, arm, "report", n), []
    middle = searched(results.rates(setup, arm, "tune"), error, 0.2)
    while True:
        tried.append(middle)
        vertex, _ = window(reports, middle, range(FIRST, FIRST + n))
        if abs(vertex - middle) <= QUARTER or vertex in tried or len(tried) > MOVES:
            return middle
        middle = vertex


# ---- from effects to an interval


class Estimate(NamedTuple):
    mean: float
    low: float
    high: float
    n: int
    is_lower_bound: bool = False


def t_interval(effects: Sequence[float], least_error: float = 0.0) -> Estimate:
    n, mean = len(effects), float(np.mean(effects))
    width = max(float(np.std(effects, ddof=1)) / math.sqrt(n), least_error)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * width
    return Estimate(mean, mean - half, mean + half, n)


def known_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where all is."""
    count = np.isfinite(values).sum(-1)
    return np.nansum(values, -1) / np.where(count, count, math.nan)


Terms = list[tuple[str, str, float]]
"""Arm, the stage whose test errors count, and their factor. The arm's reports choose the rates."""


def windows(results: Results, n: int, setup: str, terms: Terms) -> Estimate:
    """Return a sum of mean test errors over windows, with the standard error of a jackknife."""
    everyone = list(range(FIRST, FIRST + n))
    parts = []
    for arm, stage, factor in terms:
        choosers, runs = (results.rates(setup, arm, at, n) for at in ("report", stage))
        parts.append((choosers, placed(results, setup, arm, n), runs, factor))

    def effects(seeds: list[int]) -> np.ndarray:
        total = np.zeros(len(seeds))
        for choosers, middle, runs, factor in parts:
            rates = window(choosers, middle, seeds)[1]
            total += factor * known_mean(
                np.array([[runs[at][s].points for at in rates] for s in seeds])
            )
        return total

    found = dict(zip(everyone, effects(everyone).tolist(), strict=True))
    known = [seed for seed, effect in found.items() if math.isfinite(effect)]
    means = [known_mean(effects([s for s in known if s != left])) for left in known]
    jackknife = math.sqrt((len(known) - 1) * float(np.var(means)))
    return t_interval([found[seed] for seed in known], jackknife)._replace(n=n)


class Search(NamedTuple):
    """How the arms none and batch got their one rate each."""

    setup: str
    score: Score = error
    cap: float = 0.2

    def runs(self, results: Results, arm: str, n: int, stage: str) -> dict[int, Run]:
        rate = searched(results.rates(self.setup, arm, "tune"), self.score, self.cap)
        return results.rates(self.setup, arm, stage, n)[rate]


def paired(
    results: Results,
    n: int,
    search: Search,
    value: Callable[[Run, Run], float],
    stage: str = "report",
) -> Estimate:
    """Return the mean over seeds of a value of two runs, one without norm and one with batch."""
    none, batch = (search.runs(results, arm, n, stage.format(arm)) for arm in ("none", "batch"))
    effects = [value(none[seed], batch[seed]) for seed in range(FIRST, FIRST + n)]
    return t_interval([effect for effect in effects if math.isfinite(effect)])._replace(n=n)


def points(none: Run, batch: Run) -> float:
    return none.points - batch.points


# ---- steps to a target


def log_steps(run: Run, target: float) -> float:
    """Return log2 of the steps to the accuracy; infinite where a run misses it or fails.

    Between two evaluations it is interpolated linearly in accuracy.
    """
    rows = [] if run.is_failed else curve_of(run.folder)
    reached = [i for i, row in enumerate(rows) if row["accuracy"] >= target]
    if not reached:
        return math.inf
    around = rows[max(reached[0] - 1, 0) : reached[0] + 1]
    accuracies, steps = ([row[key] for row in around] for key in ("accuracy", "step"))
    return float(np.interp(target, accuracies, np.log2(steps)))


def to(setup: str, target: float) -> Search:
    def score(run: Run) -> float:
        return min(log_steps(run, target), math.log2(MISSED * run.steps))

    return Search(setup, score, 3.0)


def speedup(results: Results, n: int, setup: str, target: float) -> Estimate:
    slow_missed: list[bool] = []

    def octaves(none: Run, batch: Run) -> float:
        slow, fast = log_steps(none, target), log_steps(batch, target)
        if math.isinf(slow) and math.isinf(fast):
            return math.nan
        slow_missed.append(math.isinf(slow))
        return min(slow, math.log2(none.steps)) - min(fast, math.log2(batch.steps))

    found = paired(results, n, to(setup, target), octaves)
    return found._replace(is_lower_bound=bool(np.mean(slow_missed) > MOST_MISSED))


# ---- the highest rate


def edges(results: Results, setup: str, arm: str, n: int) -> list[float]:
    """Return log10 of the highest rate of each seed within 10 points of its best on the grid."""
    grid, halves = (results.rates(setup, arm, stage, n) for stage in ("edge", "bisect"))
    found = []
    for seed in range(FIRST, FIRST + n):
        best = max(runs[seed].accuracy("validation") for runs in grid.values())
        runs = [runs[seed] for runs in (*grid.values(), *halves.values()) if seed in runs]
        passing = [r for r in runs if not r.is_failed and r.accuracy("validation") >= best - 0.1]
        found.append(max(run.notch for run in passing) / NOTCHES)
    return found


def higher(results: Results, n: int, setup: str) -> Estimate:
    arms = "batch", "none"
    batch, none = (np.array(edges(results, setup, arm, n)) for arm in arms)
    last, end = (max(results.rates(setup, arm, "edge", n)) / NOTCHES for arm in arms)
    is_known = (batch < last) | (none < end)
    found = t_interval((batch - none)[is_known].tolist())
    is_lower_bound = np.mean(batch[is_known] == last) > MOST_MISSED
    return found._replace(n=n, is_lower_bound=bool(is_lower_bound))


def risk(results: Results, n: int, setup: str, seeds: int) -> Estimate:
    """Return the share of failed runs at 30 x the median edge of none, with its exact interval."""
    rate = 30 * 10 ** float(np.percentile(edges(results, setup, "none", seeds), 50, method="lower"))
    every = results.runs[setup, "batch", "follow: batch at 30 x the edge of none"]
    failed = [run.is_failed for run in every if abs(run.rate / rate - 1) < 1e-3]
    low, high = stats.binomtest(sum(failed), len(failed)).proportion_ci(LEVEL, "exact")
    return Estimate(float(np.mean(failed)), float(low), float(high), len(failed))


# ---- what happens during training


def steepness(run: Run) -> float:
    """Return the median slope of the gradients at the evaluations nearest to five steps."""
    rows, steps = curve_of(run.folder), (1, 3, 10, 30, 100)
    if not rows:
        return math.nan
    nearest = [min(rows, key=lambda row: abs(row["step"] - at)) for at in steps]
    return float(np.median([abs(row["gradients.slope"]) for row in nearest]))


def at_loss(run: Run, key: str, loss: float) -> float:
    """Return a diagnostic where the training loss first is at most this; else NaN.

    Between two evaluations it is interpolated linearly in the logarithm of the loss.
    """
    rows = curve_of(run.folder)
    reached = [i for i, row in enumerate(rows) if row["train_loss"] <= loss]
    if not reached:
        return math.nan
    around = rows[max(reached[0] - 1, 0) : reached[0] + 1][::-1]
    known = [row for row in around if row is around[0] or math.isfinite(row[key])]
    losses = np.log([row["train_loss"] for row in known])
    return float(np.interp(math.log(loss), losses, [row[key] for row in known]))


def turning(none: Run, batch: Run) -> float:
    """Return the mean difference of 1 - cosine at those of three losses that both reach."""
    pairs = [[at_loss(r, "shift.cosine", at) for r in (none, batch)] for at in (1.0, 0.5, 0.2)]
    reached = [second - first for first, second in pairs if math.isfinite(first + second)]
    return float(np.mean(reached)) if reached else math.nan


def path(run: Run) -> float:
    """Return how far distributions move while the training loss falls from 2.0 to 0.2."""
    losses = np.array([row["train_loss"] for row in curve_of(run.folder)])
    moves = np.array([row["drift.step"] for row in curve_of(run.folder)])
    before = np.concatenate([[math.inf], losses[:-1]])
    first = np.flatnonzero(losses <= 0.2)
    until = np.arange(len(losses)) <= (first[0] if len(first) else len(losses))
    return float(moves[(before <= 2.0) & until & np.isfinite(moves)].sum())
