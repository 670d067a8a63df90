"""Effects as a reader sees them, with as many decimals as it takes to agree with the word."""

from __future__ import annotations

import math
from collections.abc import Sequence

from normlab.studies.units import Unit, decimal, with_interval

MOST = 8
"""Decimals that are added at most."""


def effect_text(unit: Unit, values: Sequence[float], sesoi: float) -> str:
    """Return a centre, with its interval where there is one, and the unit.

    >>> from normlab.studies.units import OCTAVES, POINTS
    >>> effect_text(POINTS, (0.5, 0.25, 0.75), 1.0), effect_text(POINTS, (0.5, 0.25, 0.999), 1.0)
    ('0.50 [0.25, 0.75] points', '0.50 [0.25, 0.999] points')
    >>> effect_text(OCTAVES, (0.32, 0.001, 0.7), 0.32)
    '1.25× [1.001×, 1.62×]'
    """
    text = with_interval(*(number_text(unit, value, sesoi) for value in values))
    return text if math.isnan(values[0]) else f"{text} {unit.suffix}".strip()


def raw_text(unit: Unit, values: Sequence[float], sesoi: float) -> str:
    """Return the same as the rule is written: logarithms stay logarithms."""
    plain = Unit(unit.name)
    return f"{with_interval(*(number_text(plain, v, sesoi) for v in values))} {unit.name}"


def number_text(unit: Unit, value: float, sesoi: float) -> str:
    """Return a value that lies on the same side of 0 and of the smallest effect as it is."""
    text = unit.number(value)
    if not math.isfinite(value):
        return text
    for more in range(1, MOST):
        if agrees(unit, text, value, sesoi):
            break
        text = _longer(unit, value, more)
    return text


def agrees(unit: Unit, text: str, value: float, sesoi: float) -> bool:
    """Return whether a number as it is printed compares with 0 and delta, as they are printed, like
    the value. Delta itself may be rounded: then only what is below it must be so."""
    shown, none, least = _read(text), _read(unit.number(0.0)), _read(unit.number(sesoi))
    is_exact = not unit.base or sesoi == 0
    return (
        ((value > 0) == (shown > none))
        and ((value < 0) == (shown < none))
        and ((value < sesoi) == (shown < least))
        and (not is_exact or (value > sesoi) == (shown > least))
    )


def _read(text: str) -> float:
    return float(text.rstrip("× %").replace("−", "-").replace("∞", "inf"))


def _longer(unit: Unit, value: float, more: int) -> str:
    """Return a number with more decimals than it has."""
    text = unit.number(value)
    shown = unit.base**value if unit.base else unit.scale * value
    mark = "×" if unit.base else " %" if unit.is_proportion else ""
    if "e" in text:
        return f"{shown:.{2 + more}e}".replace("-", "−", 1 if value < 0 else 0)
    places = len(text.rstrip("× %").partition(".")[2])
    return decimal(shown, places + more) + mark
