"""How numbers read in tables, on the page and in the terminal: one place, so that they agree."""

from __future__ import annotations

import math
import re
import shlex

from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.studies.decisions import Verdict
from normlab.studies.study import Study

BASES = {"octaves": 2.0, "decades": 10.0}
"""Logarithmic units: effects in them are printed as a factor."""
NOTHING = "–"
INFINITE = "one of the two never gets there, in most seeds"
"""What an infinite effect means."""
SYMBOLS = {
    "supported": "✓",
    "refuted": "✗",
    "inconclusive": "?",
    "depends": "±",
    "exploratory": "○",
    "not testable here": "∅",
    "no data": "…",
    "not decided": "…",
}


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


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def with_interval(centre: str, low: str, high: str) -> str:
    """Return `centre [low, high]`, or the centre alone where there is no interval."""
    return centre if NOTHING in (low, high) else f"{centre} [{low}, {high}]"


def amount(value: float, unit: str) -> str:
    """Return an effect as it is said aloud: a factor, a percentage or a number of its unit.

    >>> amount(1.0, "octaves"), amount(0.05, "share"), amount(-1.5, "points"), amount(2e-6, "nats")
    ('2.00×', '5.0 %', '−1.50', '2e-06')
    """
    if unit in BASES and not math.isnan(value):
        return magnitude(BASES[unit] ** value) + "×"
    if unit.startswith("share"):
        return decimal(100 * value, 1) + ("" if math.isnan(value) else " %")
    return magnitude(value) if unit == "nats" else decimal(value, 2)


def effect_text(verdict: Verdict) -> str:
    """Return the effect with its interval, in the words of `amount`."""
    unit = verdict.row.unit
    low, high = (amount(v, unit) for v in verdict.interval)
    text = with_interval(amount(verdict.effect, unit), low, high)
    if unit in BASES or unit in ("-", "") or math.isnan(verdict.effect):
        return text
    return f"{text} {unit.removeprefix('share').strip()}".strip()


def raw_effect_text(verdict: Verdict) -> str:
    """Return the effect with its interval in the unit that the rule is written in."""
    is_tiny = verdict.row.unit == "nats"
    told = [magnitude(v) if is_tiny else decimal(v, 3) for v in (verdict.effect, *verdict.interval)]
    return f"{with_interval(*told)} {verdict.row.unit.strip('-')}".strip()


def delta_text(verdict: Verdict) -> str:
    """Return the smallest effect of interest in the rule's unit, for logarithms as a factor too."""
    row = verdict.row
    if row.test == "share":
        return amount(row.delta, "share")
    if row.test == "band":
        return ""
    text = f"{row.delta:g} {row.unit.strip('-')}".strip()
    return f"{text} ({amount(row.delta, row.unit)})" if row.unit in BASES else text


def n_text(verdict: Verdict) -> str:
    """Return n, with the planned one where it differs."""
    planned = verdict.row.n
    return str(verdict.n) if verdict.n == planned else f"{verdict.n} of {planned}"


def word_text(verdict: Verdict) -> str:
    """Return the verdict's word with its symbol; an exploratory row says why."""
    text = f"{SYMBOLS.get(verdict.word, '')} {verdict.word}".strip()
    if verdict.word != "exploratory":
        return text
    return f"{text}, n differs ({verdict.n}, planned {verdict.row.n})"


def primary_arms(study: Study, profile: str, setup: str) -> list[str]:
    arms = [a for s in study.setups[profile] if s.name == setup for a in s.arms]
    return [a.name for a in arms if a.is_primary]


def norm_files(study: Study, profile: str) -> list[str]:
    """Return the files that the norms of a study's arms come from, but for those of normlab."""
    told = [s.settings | a.settings for s in study.setups[profile] for a in s.arms]
    rows = [NORMS.get(settings["norm.name"]) for settings in told if "norm.name" in settings]
    return sorted({row.file for row in rows if isinstance(row, OutsideNorm)})


def command(study: Study, profile: str, seeds: int | None = None, setup: str = "") -> str:
    """Return the command line that makes a study's runs and report again; with `seeds`, one that
    brings the primary arms of one setup to that many."""
    overrides = re.split(r", (?=[a-z_]+(?:\.[a-z_]+)*=)", study.variant) if study.variant else []
    flags = [f"--study={study.file or study.name}", f"--profile={profile}"]
    files = norm_files(study, profile)
    flags += ["--norms=" + ",".join(files)] if files else []
    flags += [f"--config.{override}" for override in overrides]
    if seeds:
        flags += [f"--setups={setup}", "--arms=" + ",".join(primary_arms(study, profile, setup))]
        flags += [f"--seeds={seeds}"]
    return shlex.join(["python", "scripts/study.py", *flags])
