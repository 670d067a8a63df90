"""Axis letters: N batch, H W space, T time, C channels, G groups; arrays are [N, ..., C]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from normlab.statistics.along import axis_size

SPACE = frozenset("HWT")


def axes_of(over: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """Return the axis numbers that the letters `over` name in an array [N, ..., C].

    N is axis 0, C the last axis, and any of H, W, T all axes between them. So one row of the table
    serves dense layers [N, C], sequences [N, T, C] and images [N, H, W, C].

    >>> axes_of(("N", "H", "W"), ndim=4), axes_of(("H", "W", "C"), ndim=2)
    ((0, 1, 2), (1,))
    """
    axes: list[int] = []
    if "N" in over:
        axes.append(0)
    if SPACE & set(over):
        axes.extend(range(1, ndim - 1))
    if "C" in over:
        axes.append(ndim - 1)
    return tuple(axes)


def count_values(shape: Sequence[int], axes: Sequence[int], groups: int = 0) -> int:
    """Return how many values one statistic is made of: over `axes`, and over C / groups channels
    where `groups` is given."""
    return math.prod(shape[a] for a in axes) * (shape[-1] // groups if groups else 1)


def refuse_degenerate(
    layer: str, shape: Sequence[int], axes: Sequence[int], groups: int = 0, axis_name: Any = None
) -> None:
    """Raise ValueError where a statistic would be made of one value: its output is constant."""
    values = count_values(shape, axes, groups) * axis_size(axis_name)
    if isinstance(values, int) and values < 2:  # a symbolic shape says nothing
        raise ValueError(
            f"{layer}: each statistic of an input of shape {tuple(shape)} would be made of "
            f"{values} value, at least 2 are needed; use a larger batch, a scheme that averages "
            "over more axes, or allow_degenerate=True"
        )
