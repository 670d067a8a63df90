"""One measured claim, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

FLOOR = 1e-3
"""Errors are relative to the RMS of what is right, and absolute where that is smaller."""


class Result(NamedTuple):
    """`figure` is what was measured and `limit` its largest value that passes; both are None where
    a claim is true or false. `note` says what went wrong, or why a claim was not checked."""

    name: str
    status: Literal["pass", "fail", "skip", "info"]
    figure: float | None = None
    limit: float | None = None
    note: str = ""


def measured(name: str, figure: float, limit: float, note: str = "") -> Result:
    """Return pass where the figure is at most the limit; NaN fails."""
    is_good = bool(figure <= limit)
    return Result(name, "pass" if is_good else "fail", figure, limit, "" if is_good else note)


def held(name: str, holds: object, note: str) -> Result:
    """Return pass where the claim holds, else fail with the note."""
    return Result(name, "pass") if holds else Result(name, "fail", note=note)


def skipped(name: str, why: str) -> Result:
    return Result(name, "skip", note=why)


def off(value: object, right: object, floor: float = FLOOR) -> float:
    """Return the RMS of value - right over that of right (at least `floor`; 1 where that is 0); NaN
    if not finite."""
    given, exact = (np.asarray(v).astype(np.float64) for v in (value, right))
    if not np.isfinite(given).all():
        return float("nan")
    if not given.size:
        return 0.0
    rms, size = (np.sqrt(np.mean(np.square(v))) for v in (given - exact, exact))
    return float(rms / (max(size, floor) or 1.0))


def worst(tree: object, right: object) -> float:
    """Return the largest `off` of two trees, leaf by leaf; NaN if any is."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(right), strict=True)
    return float(np.max([off(a, b) for a, b in pairs], initial=0.0))


def is_finite(tree: object) -> bool:
    """Return whether all values of a tree are finite."""
    return all(np.isfinite(np.asarray(v, np.float64)).all() for v in jax.tree.leaves(tree))


def table(results: Sequence[Result]) -> str:
    """Return the results as aligned lines: check, result, measured, limit, note."""
    rows = [("check", "result", "measured", "limit", "note")]
    rows += [(r.name, r.status, _figure(r.figure), _figure(r.limit), r.note) for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = (
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def count(results: Sequence[Result], status: str) -> int:
    return sum(r.status == status for r in results)
