"""When a run is evaluated."""

from __future__ import annotations


def eval_steps(steps: int, every: int, growth: float) -> list[int]:
    """Return the steps after which a run is evaluated: increasing, ending with `steps`.

    Neighbours are max(every, (growth - 1) * step) apart, rounded down.

    >>> eval_steps(30, 10, 1.0), eval_steps(25, 10, 1.5)
    ([10, 20, 30], [10, 20, 25])
    """
    points: list[int] = []
    step = every
    while step < steps:
        points.append(step)
        step = max(step + every, int(step * growth))
    return [*points, steps]
