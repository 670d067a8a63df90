"""Units of effects, and how numbers are written: one place, so that all pages agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

NOTHING = "–"


def decimal(value: float, places: int) -> str:
    """Return a value with fixed decimals and a true minus sign.

    >>> decimal(-0.5, 2), decimal(-0.001, 1), decimal(math.inf, 1)
    ('−0.50', '0.0', '∞')
    """
    if math.isnan(value):
        return NOTHING
    text = "∞" if math.isinf(value) else f"{abs(value):.{places}f}"
    is_zero = not text.strip("0.")
    return text if value > 0 or is_zero else f"−{text}"


def magnitude(value: float) -> str:
    """Return a positive value with about three digits: steps, factors, seconds.

    >>> magnitude(2.345), magnitude(31.27), magnitude(1234.5), magnitude(0.0123)
    ('2.35', '31.3', '1234', '0.0123')
    """
    if not math.isfinite(value):
        return decimal(value, 0)
    if 0 < abs(value) < 0.1:
        return f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}"
    return decimal(value, 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0)


def rate_text(rate: float | None) -> str:
    """Return a learning rate, `none` where no rate trains."""
    if rate is None:
        return NOTHING
    return f"{rate:.3g}" if rate > 0 else "none"


def percentage(value: float) -> float:
    """Return the nearest percentage: an interval of shares ends where they do.

    >>> percentage(-0.3), percentage(97.5), percentage(101)
    (0.0, 97.5, 100.0)
    """
    return min(max(value, 0.0), 100.0)


def with_interval(centre: str, low: str = NOTHING, high: str = NOTHING) -> str:
    """Return `centre [low, high]`, or the centre alone where there is no interval."""
    return centre if NOTHING in (low, high) else f"{centre} [{low}, {high}]"


@dataclass(frozen=True)
class Unit:
    """The unit of an effect: its name in rules, and how a reader sees values in it."""

    name: str
    base: float = 0.0
    """Of a logarithmic unit: its values are written as factors."""
    is_proportion: bool = False
    """Values from 0 to 1, written in percent; the name begins with "share"."""
    is_tiny: bool = False
    """Values whose first digit matters, whatever their order of magnitude."""
    axis: str = ""
    """What an axis of a figure says; empty: the name."""

    @property
    def suffix(self) -> str:
        """What follows a value: `points` in `0.50 points`."""
        name = self.name.removeprefix("share") if self.is_proportion else self.name
        return "" if self.base else name.strip(" -")

    @property
    def scale(self) -> float:
        """What values are multiplied by on an axis."""
        return 100.0 if self.is_proportion else 1.0

    @property
    def axis_label(self) -> str:
        if self.is_proportion:
            return f"{self.suffix.removeprefix('of ') or 'share'}, %"
        return self.axis or self.name

    def number(self, value: float) -> str:
        """Return a value without its unit.

        >>> OCTAVES.number(1.0), FAILED.number(0.05), POINTS.number(-1.5), NATS.number(2e-6)
        ('2.00×', '5.0 %', '−1.50', '2e-06')
        """
        if self.base and not math.isnan(value):
            return f"{magnitude(self.base**value)}×"
        if self.is_proportion:
            return decimal(100 * value, 1) + ("" if math.isnan(value) else " %")
        return magnitude(value) if self.is_tiny else decimal(value, 2)

    def text(self, value: float, interval: tuple[float, ...] = ()) -> str:
        """Return a value, with an interval if there is one, as a reader sees it.

        >>> POINTS.text(0.5), OCTAVES.text(1.0, (0.0, 2.0)), FAILED.text(0.05)
        ('0.50 points', '2.00× [1.00×, 4.00×]', '5.0 % failed')
        """
        text = with_interval(*map(self.number, (value, *interval)))
        return text if math.isnan(value) else f"{text} {self.suffix}".strip()

    def raw_text(self, value: float, interval: tuple[float, ...] = ()) -> str:
        """Return a value as the rule is written: logarithms stay logarithms.

        >>> OCTAVES.raw_text(1.0)
        '1.000 octaves'
        """
        numbers = [magnitude(v) if self.is_tiny else decimal(v, 3) for v in (value, *interval)]
        return f"{with_interval(*numbers)} {self.name.strip('-')}".strip()

    def sesoi_text(self, sesoi: float) -> str:
        """Return a smallest effect of interest, of a logarithmic unit as a factor too.

        >>> OCTAVES.sesoi_text(1.0), POINTS.sesoi_text(0.5)
        ('1 octave (2.00×)', '0.5 points')
        """
        if self.is_proportion:
            return self.number(sesoi)
        name = self.name.strip("-")
        text = f"{sesoi:g} {name.removesuffix('s') if sesoi == 1 else name}".strip()
        return f"{text} ({self.number(sesoi)})" if self.base else text


OCTAVES = Unit("octaves", base=2.0)
DECADES = Unit("decades", base=10.0)
POINTS = Unit("points", axis="percentage points")
TRAINED = Unit("trained", axis="trained, ±1")
FAILED = Unit("share failed", is_proportion=True)
NATS = Unit("nats", is_tiny=True)
PLAIN = Unit("-", axis="effect")
