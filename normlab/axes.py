"""Axis letters: N batch, H W space, T time, C channels, G groups; arrays are [N, ..., C]."""

from __future__ import annotations

SPACE = frozenset("HWT")


def axes_of(over: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """Return the axis numbers that the letters `over` name in an array [N, ..., C].

    N is axis 0, C the last axis, and any of H, W, T all axes between them, so that one row of the
    table serves dense layers [N, C], sequences [N, T, C] and images [N, H, W, C].

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
