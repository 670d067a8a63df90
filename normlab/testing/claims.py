"""What a row claims about its outputs: what they do not depend on, how they are spread, how far a
value reaches.

Inputs are whole numbers of up to some thousands. Adding a constant to them and multiplying them by
a power of two are exact, and epsilon is negligible.
"""

from __future__ import annotations

import numpy as np

from normlab.testing.contract import same
from normlab.testing.layer import ORDINARY, SHAPE, LayerUnderTest, draw
from normlab.testing.result import Result, held, measured, off, skipped


def whole_numbers() -> np.ndarray:
    return np.round(1000 * draw(seed=11)).astype(np.float32)


def output(subject: LayerUnderTest, x: np.ndarray) -> np.ndarray:
    return np.asarray(subject.step(subject.variables, x, np.ones_like(x)).y, np.float64)


def check_invariances(subject: LayerUnderTest) -> list[Result]:
    """The output does not depend on a constant added, or on a factor, where the row says so."""
    x, random = whole_numbers(), np.random.default_rng(12)
    shifts = np.round(5000 * random.standard_normal(np.prod(SHAPE)))
    factors = 2.0 ** random.integers(-3, 4, np.prod(SHAPE))
    others = {"shift": x + shifts[subject.statistics], "scale": x * factors[subject.statistics]}
    results = []
    for what, other in others.items():
        name = f"invariant to {what}"
        if what in subject.row.invariant:
            figure = off(output(subject, other.astype(np.float32)), output(subject, x))
            results.append(measured(name, figure, subject.limit))
        else:
            results.append(skipped(name, "the row does not claim it"))
    return results


def check_standard(subject: LayerUnderTest) -> list[Result]:
    """Mean 0 and mean square 1 of the outputs that share a statistic."""
    names = "the mean of each statistic's outputs is 0", "their mean square is 1"
    if not subject.row.standard:
        return [skipped(name, "the row does not claim it") for name in names]
    y, statistics = output(subject, whole_numbers()).ravel(), subject.statistics.ravel()
    size = np.bincount(statistics)
    mean = float(np.abs(np.bincount(statistics, y) / size).max())
    square = float(np.abs(np.bincount(statistics, y * y) / size - 1).max())
    first = measured(names[0], mean, ORDINARY)
    if not subject.row.centered:
        first = skipped(names[0], "the row is not centered")
    return [first, measured(names[1], square, ORDINARY)]


def check_reach(subject: LayerUnderTest) -> list[Result]:
    """A changed value changes the outputs that share its statistic, and no others. Without a
    statistic it may change all channels at its position."""
    x = draw(seed=13)
    changed = x.copy()
    changed[0, 0, 0, 0] += 1
    felt = output(subject, changed) != output(subject, x)
    shared = subject.statistics == subject.statistics[0, 0, 0, 0]
    if not subject.row.over:
        shared[0, 0, 0] = True
    stray = int((felt & ~shared).sum())
    note = f"{stray} outputs feel it that do not share a statistic by over={subject.row.over}"
    results = [held("a value is felt within its statistic only", not stray, note)]
    name = "all values of a statistic feel it"
    if not subject.row.standard:
        return [*results, skipped(name, "checked for rows with standard=True")]
    # Some outputs change by less than the spacing of floats.
    share = float(1 - felt[shared].mean())
    note = f"{share:.0%} of those that share a statistic by over={subject.row.over} do not"
    return [*results, measured(name, share, 0.1, note)]


def check_examples(subject: LayerUnderTest) -> list[Result]:
    """One example reaches no other, not in outputs or slopes and not with NaN; where the statistics
    run over the batch, only in evaluation."""
    others, x, cotangent = np.arange(SHAPE[0]) != 2, draw(), draw(seed=1)

    def trained(x: np.ndarray) -> list[np.ndarray]:
        found = subject.step(subject.moved, x, cotangent)
        return [np.asarray(found.y)[others], np.asarray(found.dx)[others]]

    def evaluated(x: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(subject.evaluate(subject.moved, x)[0])[others]]

    modes = {"evaluating": evaluated}
    if subject.row.is_per_sample:
        modes["training"] = trained
    results = []
    for mode, outcome in modes.items():
        for what, value in (("another", draw(seed=14, mean=3.0)[2]), ("NaN in another", np.nan)):
            changed = x.copy()
            changed[2] = value
            name = f"{mode}, no example feels {what}"
            is_same = same(outcome(x), outcome(changed))
            results.append(held(name, is_same, "outputs or slopes of the others changed"))
    return results
