"""One table a setup: a line for each arm, with n, intervals and failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf, isnan
from statistics import median

import numpy as np

from normlab.report.arms import rates_of, values_of
from normlab.report.tables import Cell, Measured, Table
from normlab.runs.record import Record
from normlab.studies.decisions import jackknife_error
from normlab.studies.effects import decades, octaves, weighted_errors
from normlab.studies.intervals import CONFIDENCE, median_interval, t_estimate
from normlab.studies.metrics import (
    RUNNING,
    accuracy,
    error_points,
    is_failed,
    steps_to_target,
)
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import rate_of
from normlab.studies.setup import Arm
from normlab.studies.units import NOTHING, decimal, magnitude, percentage, rate_text, with_interval

TOO_OFTEN = "fails"
"""In place of a difference of errors, where an arm fails too often for one."""
BATCH = "batch_"
"""Prefix of what was measured with the statistics of each scored batch."""


@dataclass(frozen=True)
class Line:
    """One line of the table: an arm, or runs that follow from one."""

    e: SetupRuns
    name: str
    role: str
    tried: Sequence[Record]
    """The runs whose failures are counted: those at the rates that count, or at every rate."""
    reference: str = ""
    """The arm that this line is compared with, paired by seed; empty for the reference itself."""

    @property
    def runs(self) -> Mapping[int, Record]:
        return self.e.runs_of(self.name)

    @property
    def rates(self) -> Mapping[int, float]:
        """Seed -> log10 of the highest rate that trains, where edges are sought."""
        return self.e.edges.get(self.name, {})

    @property
    def n(self) -> int:
        return len(self.rates) or len(self.values(is_failed))

    def has_mode(self, mode: str) -> bool:
        """Return whether any run was measured in this mode of evaluation."""
        return any(f"{mode}test_accuracy" in run.final for run in self.runs.values())

    def steps(self, mode: str = "") -> list[float]:
        return [steps_to_target(run, self.e.setup.target, mode) for run in self.runs.values()]

    def values(self, metric: Callable[[Record], float]) -> dict[int, float]:
        return values_of(self.e, self.name, metric)


def setup_table(e: SetupRuns) -> Table:
    """Return the table of a setup; columns that are empty in all lines are left out."""
    protocol, references = e.setup.protocol, {reference_of(e, a) for a in e.setup.arms} - {""}
    other = references.pop() if len(references) == 1 else "the line's largest level"
    columns: list[tuple[str, Callable[[Line], Cell]]] = [
        ("arm", lambda line: line.name),
        ("role", lambda line: line.role),
        (protocol.rate_column, _rate),
        ("n", lambda line: line.n),
        *((t, QUANTITIES[q]) for t, q in protocol.columns(f"{100 * e.setup.target:g} %", other)),
        (protocol.failed_column, _failed),
        ("test accuracy, %", _accuracy),
        ("seconds to target", _seconds),
    ]
    lines = lines_of(e)
    cells = {title: [make(line) for line in lines] for title, make in columns}
    used = {t: column for t, column in cells.items() if any(c not in (None, "") for c in column)}
    return Table(e.setup.title, [*used], [*zip(*used.values(), strict=True)], _note(e, lines))


def lines_of(e: SetupRuns) -> list[Line]:
    """Return the table's lines: every arm in the study's order, then the runs that follow."""
    lines = []
    for arm in e.setup.arms:
        role = "primary" if arm.is_primary else "screening"
        lines.append(Line(e, arm.name, role, e.tried(arm.name), reference_of(e, arm)))
    for name, runs in e.follows.items():
        tried = e.tried(name) if name in e.reported else [*runs.values()]
        lines.append(Line(e, name, "follows", tried))
    return lines


def reference_of(e: SetupRuns, arm: Arm) -> str:
    """Return the arm that an arm is compared with, or an empty string for the reference itself.

    It is `batch` where error is measured and `none` where steps or rates are. In a setup with
    levels it is the largest level, of the arm's own line if it has one.
    """
    levels = [a for a in e.setup.arms if a.level is not None]
    if levels:
        line = [a for a in levels if a.line == arm.line] or levels
        name = max(line, key=lambda a: a.level or 0.0).name
    else:
        is_of_error = not e.setup.protocol.has_target and e.setup.protocol.kind != "edges"
        name = "batch" if is_of_error else "none"
    return name if name != arm.name and e.setup.arm(name) else ""


def _cell(
    found: tuple[float, float, float],
    text: Callable[[float], str],
    base: float = 0.0,
    sign: str = "",
) -> Measured:
    """Return a centre with its interval; with a base, those of base^value."""
    numbers = [base**value if base else value for value in found]
    names = ("", "low", "high")
    return Measured(
        sign + with_interval(*map(text, numbers)), dict(zip(names, numbers, strict=True))
    )


def _mean(values: Sequence[float], places: int) -> Measured:
    """Return the mean of percentages with its interval, which ends where they do."""
    if not values:
        return Measured(NOTHING, {})
    found = t_estimate(np.asarray(values), 0.95)
    low, high = map(percentage, found.interval)
    return _cell((found.centre, low, high), lambda v: decimal(v, places))


def _median(
    values: Sequence[float], text: Callable[[float], str], base: float = 0.0, sign: str = ""
) -> Measured:
    if not values:
        return Measured(NOTHING, {})
    return _cell((median(values), *median_interval(values)[:2]), text, base, sign)


def _factor(base: float, exponents: Sequence[float], sign: str = "") -> Cell:
    """Return the geometric mean of base^exponent; nothing without exponents."""
    if not exponents:
        return ""
    found = t_estimate(np.asarray(exponents), CONFIDENCE)
    return _cell((found.centre, *found.interval), magnitude, base, sign)


def _rate(line: Line) -> Cell:
    """Return the rate, and from which to which rate runs count where they are several."""
    rates = {run.config["optim.lr"] for run in line.runs.values()}
    rate = rates.pop() if len(rates) == 1 else None
    several = [*map(rate_of, rates_of(line.e, line.name))]
    if rate is None or len(several) < 2:
        return Measured(rate_text(rate), {"": rate})
    text = f"{rate_text(rate)} ({rate_text(several[0])} to {rate_text(several[-1])})"
    return Measured(text, {"": rate, "lowest": several[0], "highest": several[-1]})


def _steps(line: Line, mode: str = "") -> Cell:
    if mode and not line.has_mode(mode):
        return ""
    return _median(line.steps(mode), magnitude)


def _speed(line: Line) -> Cell:
    """Return how many times fewer steps than the reference, over pairs."""
    if not line.reference:
        return ""
    found = octaves(line.e, line.reference, line.name)
    known = [value for value in found.effects.values() if not isnan(value)]
    return _factor(2.0, known, "≥ " if found.is_lower_bound else "")


def _error(line: Line, mode: str = "") -> Cell:
    if mode and not line.has_mode(mode):
        return ""
    return _mean([*line.values(lambda run: error_points(run, mode=mode)).values()], 2)


def _difference(line: Line) -> Cell:
    """Return error minus the reference's error over pairs, with the interval that decides."""
    if not line.reference:
        return ""
    found = weighted_errors({line.name: 1.0, line.reference: -1.0}, line.e)
    if found.estimator or not found.effects:
        return Measured(TOO_OFTEN if found.estimator else NOTHING, {})
    error = jackknife_error(found.redraw, [*found.effects]) if found.redraw else 0.0
    estimate = t_estimate(np.array([*found.effects.values()]), error=error)
    return _cell((estimate.centre, *estimate.interval), lambda v: decimal(v, 2))


def _largest_rate(line: Line) -> Cell:
    rates, ends = line.rates, line.e.at_the_end(line.name)
    is_end = bool(ends) and median(rates.values()) == max(rates.values())
    return _median([*rates.values()], rate_text, 10.0, "≥ " if is_end else "")


def _rate_ratio(line: Line) -> Cell:
    """Return the highest rate over the reference's, over pairs; none where some seed trains at no
    rate."""
    found = decades(line.e, line.reference, line.name)
    known = [value for value in found.effects.values() if not isnan(value)]
    if any(map(isinf, known)):
        return Measured(NOTHING, {})
    return _factor(10.0, known, "≥ " if found.is_lower_bound else "")


QUANTITIES: dict[str, Callable[[Line], Cell]] = {
    "steps": _steps,
    "speed": _speed,
    "running steps": lambda line: _steps(line, RUNNING),
    "error": _error,
    "difference": _difference,
    "running error": lambda line: _error(line, RUNNING),
    "batch error": lambda line: _error(line, BATCH),
    "largest rate": _largest_rate,
    "rate ratio": _rate_ratio,
}
"""What a protocol shows of an arm, by name."""


def _accuracy(line: Line) -> Cell:
    return _mean([*line.values(lambda run: 100 * accuracy(run, "test")).values()], 1)


def _failed(line: Line) -> Cell:
    """Return how many runs failed, and how many of those became non-finite."""
    if not line.tried:
        return Measured(NOTHING, {})
    diverged = sum(run.status != "trained" for run in line.tried)
    failed, n = sum(map(is_failed, line.tried)), len(line.tried)
    text = f"{failed} of {n}" + (f" ({diverged} diverged)" if diverged else "")
    return Measured(text, {"": failed, "of": n, "diverged": diverged})


def _seconds(line: Line) -> Cell:
    """Return median steps to the target times the seconds of a step of a single run."""
    step_seconds = line.e.step_seconds
    if line.name not in step_seconds or not line.runs:
        return ""
    seconds = median(line.steps()) * step_seconds[line.name]
    return Measured(magnitude(seconds), {"": seconds})


def _note(e: SetupRuns, lines: list[Line]) -> str:
    protocol = e.setup.protocol
    sizes = sorted({line.n for line in lines if line.n >= 2}, reverse=True)
    covered = [f"{100 * median_interval(range(n))[2]:.0f} % at n = {n}" for n in sizes]
    parts = ["Means: 95 % t intervals. Differences and factors between arms: 99 %."]
    if e.setup.grows:
        parts.append("A verdict has an n of its own, which may be smaller.")
    if covered and (protocol.has_target or e.edges):
        parts.append(f"Medians: order-statistic intervals, covering {', '.join(covered)}.")
    if any(isinstance(c, Measured) and "lowest" in c.numbers for c in map(_rate, lines)):
        parts.append("An arm with several rates has its mean over them, seed by seed.")
    if any(line.has_mode(RUNNING) for line in lines):
        parts.append(
            "Batch statistics are re-estimated before each evaluation; "
            "columns of running averages are secondary."
        )
    if any(not arm.is_primary for arm in e.setup.arms):
        parts.append(f"Screening arms run with n = {e.setup.screening_seeds} and carry no verdict.")
    if any(run.status != "trained" for line in lines for run in line.tried):
        parts.append("A diverged run has the accuracy of chance.")
    if protocol.has_target and any(map(isinf, (s for line in lines for s in line.steps()))):
        parts.append("A missed target is ∞ in a median, and all the steps of the run in a factor.")
    if e.step_seconds:
        parts.append(f"Seconds: median steps x step time of a single run on {e.timed_on}.")
    return " ".join(parts)
