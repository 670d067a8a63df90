"""One table a setup: a line for each arm, with n, intervals and failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from normlab.report.cells import (
    BATCH,
    RUNNING,
    Line,
    accuracy_cell,
    difference_cell,
    error_cell,
    failed_cell,
    has_mode,
    largest_rate_cell,
    n_of,
    rate_cell,
    rate_ratio_cell,
    seconds_cell,
    speed_cell,
    steps_cell,
)
from normlab.report.tables import Cell, Table
from normlab.runs.record import Record
from normlab.studies.hypothesis_tests import median_interval
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Arm, Sweep, Tuning

Column = tuple[str, Callable[[Line], Cell]]


def reference_of(e: SetupRuns, arm: Arm) -> str:
    """Return the arm that an arm is compared with, or an empty string for the reference itself.

    `batch` where error is measured, `none` where steps or rates are; in a setup with levels the
    largest level, of the arm's own line if it has one.
    """
    levels = [a for a in e.setup.arms if a.level is not None]
    if levels:
        line = [a for a in levels if a.line == arm.line] or levels
        name = max(line, key=lambda a: a.level or 0.0).name
    else:
        is_error = isinstance(e.setup.protocol, Tuning) and e.setup.protocol.metric != "steps"
        name = "batch" if is_error else "none"
    return name if name != arm.name and e.setup.arm(name) else ""


def _reference_title(e: SetupRuns) -> str:
    references = {reference_of(e, a) for a in e.setup.arms} - {""}
    return references.pop() if len(references) == 1 else "the line's largest level"


def _swept(e: SetupRuns, arm: str) -> Mapping[int, float]:
    is_known = isinstance(e.setup.protocol, Sweep) and arm in e.best
    return e.largest_rates(arm) if is_known else {}


def lines_of(e: SetupRuns) -> list[Line]:
    """Return the table's lines: every arm in the study's order, then the runs that follow."""
    lines = []
    for arm in e.setup.arms:
        other = reference_of(e, arm)
        lines.append(
            Line(
                name=arm.name,
                role="primary" if arm.is_primary else "screening",
                runs=e.runs_of(arm.name),
                reference=e.runs_of(other) if other else {},
                rates=_swept(e, arm.name),
                reference_rates=_swept(e, other) if other else {},
                tried=_tried(e, arm.name),
            )
        )
    for name, runs in e.follows.items():
        lines.append(Line(name, "follows", runs, {}, {}, {}, list(runs.values())))
    return lines


def _tried(e: SetupRuns, arm: str) -> list[Record]:
    if isinstance(e.setup.protocol, Sweep):
        return [run for runs in e.grids.get(arm, {}).values() for run in runs.values()]
    return list(e.runs_of(arm).values())


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step of a single run of each arm of a setup, as one machine measured."""

    seconds: Mapping[str, float]
    machine: str


def arm_table(e: SetupRuns, times: StepTimes | None = None) -> Table:
    """Return the table of a setup, with seconds to the target where a step was timed."""
    lines = lines_of(e)
    columns = _columns(e, times.seconds if times else {})
    rows = [[make(line) for _, make in columns] for line in lines]
    used = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
    return Table(
        title=e.setup.title,
        columns=tuple(columns[i][0] for i in used),
        rows=tuple(tuple(row[i] for i in used) for row in rows),
        note=_note(e, lines, times),
    )


def _columns(e: SetupRuns, step_seconds: Mapping[str, float]) -> list[Column]:
    protocol = e.setup.protocol
    first: list[Column] = [("arm", lambda a: a.name), ("role", lambda a: a.role)]
    failed = "failed, all rates" if isinstance(protocol, Sweep) else "failed"
    last: list[Column] = [(failed, failed_cell), ("test accuracy, %", accuracy_cell)]
    if isinstance(protocol, Sweep):
        middle = _sweep_columns(e)
        rate = "best rate"
    else:
        middle = _step_columns(e) if protocol.metric == "steps" else _error_columns(e)
        rate = "tuned rate"
    timed: list[Column] = [
        ("seconds to target", lambda a: seconds_cell(a, e.setup.target, step_seconds))
    ]
    return [*first, (rate, rate_cell), ("n", n_of), *middle, *last, *timed]


def _step_columns(e: SetupRuns) -> list[Column]:
    goal, other = f"{100 * e.setup.target:g} %", _reference_title(e)
    return [
        (f"steps to {goal}", lambda a: steps_cell(a, e.setup.target)),
        (f"times faster than {other}", lambda a: speed_cell(a, e.setup.target)),
        ("steps, running averages", lambda a: steps_cell(a, e.setup.target, RUNNING)),
    ]


def _error_columns(e: SetupRuns) -> list[Column]:
    return [
        ("test error, points", error_cell),
        (f"difference to {_reference_title(e)}", difference_cell),
        ("test error, running averages", lambda a: error_cell(a, RUNNING)),
        ("test error, each batch's own statistics", lambda a: error_cell(a, BATCH)),
    ]


def _sweep_columns(e: SetupRuns) -> list[Column]:
    return [
        ("largest rate that trains", largest_rate_cell),
        (f"times the rate of {_reference_title(e)}", rate_ratio_cell),
    ]


def _note(e: SetupRuns, lines: list[Line], times: StepTimes | None) -> str:
    sizes = sorted({n_of(line) for line in lines if n_of(line) >= 2}, reverse=True)
    covered = [f"{100 * median_interval(range(n))[2]:.0f} % at n = {n}" for n in sizes]
    parts = ["Means: 95 % t intervals."]
    protocol = e.setup.protocol
    if covered and (isinstance(protocol, Sweep) or protocol.metric == "steps"):
        parts.append(f"Medians: order-statistic intervals, covering {', '.join(covered)}.")
    if any(has_mode(line, RUNNING) for line in lines):
        parts.append(
            "Batch statistics are re-estimated before each evaluation; "
            "columns of running averages are secondary."
        )
    if any(not arm.is_primary for arm in e.setup.arms):
        parts.append(f"Screening arms run with n = {e.setup.screening_seeds} and carry no verdict.")
    if any(is_failed(run) for line in lines for run in line.runs.values()):
        parts.append("A failed run counts with 10 % accuracy and as never reaching the target.")
    if times:
        parts.append(f"Seconds: median steps x step time of a single run on {times.machine}.")
    return " ".join(parts)
