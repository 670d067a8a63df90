"""Which learning rate an arm gets: parabolas through errors, windows of rates, edges by bisection.

Rates are log10 exponents. All functions are pure: the same runs always give the same rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

STEP = 0.25
"""Decades between the rates of a window. Chosen rates are multiples of it."""
REACH = 2
"""Rates of a window on either side of its middle."""
MAY_FAIL = 0.05
"""A rate at which a greater proportion of the runs failed is not eligible."""


def snapped(exponent: float) -> float:
    """Return the nearest multiple of STEP, the lower one where two are equally near.

    Small errors often put a parabola's lowest point halfway. Rounding must not decide then.
    """
    return round(math.ceil(round(exponent / STEP - 0.5, 6)) * STEP, 4)


def vertex(values: Mapping[float, float], cap: float) -> float:
    """Return the rate at the lowest point of the least-squares parabola through the values. It is
    snapped to the grid of STEP and lies among the given rates.

    Values more than `cap` above the least one count as that far above it, so that one hopeless
    rate does not bend the parabola. Fewer than three rates or no minimum: the best rate.
    """
    exponents = np.array(sorted(values))
    heights = np.array([values[e] for e in exponents])
    heights = np.minimum(heights, heights.min() + cap)
    best = float(exponents[np.argmin(heights)])
    if len(exponents) < 3:
        return best
    middle = exponents.mean()  # centred, the fit loses no digits
    a, b, _ = np.polyfit(exponents - middle, heights, 2)
    if a <= 1e-12:
        return best
    lowest = float(np.clip(middle - b / (2 * a), exponents[0], exponents[-1]))
    return snapped(lowest)


def neighbours(values: Mapping[float, float], at: float, spacing: float) -> dict[float, float]:
    """Return the value at a rate and at the rates one spacing away from it."""
    return {e: v for e, v in values.items() if abs(e - at) <= spacing * 1.01}


def window(middle: float) -> list[float]:
    """Return the five quarter-decade rates around a rate."""
    return [round(middle + STEP * i, 4) for i in range(-REACH, REACH + 1)]


def bisected(
    low: float, high: float, steps: int, passes: Callable[[float], bool | None]
) -> tuple[float, bool]:
    """Return the highest rate known to pass after halving the bracket, and whether it is known.

    `low` passes and `high` does not. `passes` answers None for a rate that has not been tried.
    """
    for _ in range(steps):
        middle = round((low + high) / 2, 4)
        answer = passes(middle)
        if answer is None:
            return low, False
        low, high = (middle, high) if answer else (low, middle)
    return low, True
