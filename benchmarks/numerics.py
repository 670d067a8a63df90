"""How exact the layers are: every case, layer and library compared with float64.

docs/numerics.md says how to read the tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import edge_cases, runner
from benchmarks.reference_libraries import OWN, TITLES, Layer, make_peer
from benchmarks.runner import BadSelection, Options, emit
from normlab.norms.table import NORMS
from normlab.report.tables import Table
from normlab.testing.cases import CASES, GARBAGE, LAYERS, LIMITS, Case, reference
from normlab.testing.result import off

SIDES = ("forward", "gradient")


class Cell(NamedTuple):
    """One layer of one library on one case: its two errors, or why it was refused."""

    forward: float = math.nan
    gradient: float = math.nan
    refusal: str = ""


Grid = dict[tuple[Case, str, str], Cell]
"""(case, layer, library) -> result. A layer that a library does not have is not there."""


class Figure(NamedTuple):
    """One error that counts. Not counted: what no float can hold, unless it is NaN."""

    case: Case
    scheme: str
    side: str
    error: float

    @property
    def is_off(self) -> bool:
        return not self.error <= LIMITS[self.case.dtype]  # NaN is off


prepare = functools.cache(make_peer)
"""Many cases share a compiled layer."""


def measure(case: Case, scheme: str, library: str) -> Cell | None:
    """Return the errors of one layer on one case; None where the library has no such layer."""
    row = NORMS[scheme]
    shape = case.shape(row.over)
    x, cotangent = case.draw(shape)
    y, dx = reference(row, x, cotangent, epsilon=case.epsilon, groups=case.groups)
    try:
        peer = prepare(library, Layer(scheme, shape, case.dtype, case.epsilon, case.groups))
        if peer is None:
            return None
        got_y, got_dx = peer.gradient(x, cotangent)
    except ValueError as refusal:
        return Cell(refusal=str(refusal).partition("\n")[0])
    return Cell(off(got_y, y, floor=0), off(got_dx, dx, floor=0))


def measure_all(cases: Sequence[Case], schemes: Sequence[str], libraries: Sequence[str]) -> Grid:
    grid: Grid = {}
    for number, case in enumerate(cases, 1):
        emit(f"{number}/{len(cases)} {case.name}")
        for scheme in [name for name in schemes if name in case.layers]:
            for library in libraries:
                cell = measure(case, scheme, library)
                if cell is not None:
                    grid[case, scheme, library] = cell
    return grid


def number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:.0e}" if value else "0"


def side_text(values: Sequence[float], excuse: str) -> str:
    """Return the worst of some errors: bold where it is garbage, with a dagger where no float
    could be right."""
    worst = max(values, key=lambda v: math.inf if math.isnan(v) else v)
    is_garbage = math.isnan(worst) or (worst > GARBAGE and not excuse)
    text = f"**{number(worst)}**" if is_garbage else number(worst)
    return f"{text}†" if excuse else text


def cell_text(case: Case, cells: Sequence[Cell]) -> str:
    """Return "forward / gradient" of the worst of some layers."""
    measured = [cell for cell in cells if not cell.refusal]
    if not measured:
        return "refused" if cells else "-"
    texts = [
        side_text([getattr(c, side) for c in measured], case.unrepresentable.get(side, ""))
        for side in SIDES
    ]
    return " / ".join(texts) + (" (refuses some)" if len(measured) < len(cells) else "")


def worst_table(grid: Grid, schemes: Sequence[str], libraries: Sequence[str]) -> Table:
    """Return a line for each case: its name and the worst over `schemes` of each library."""
    rows = []
    for case in dict.fromkeys(case for case, scheme, _ in grid if scheme in schemes):
        cells = [
            [grid[case, scheme, library] for scheme in schemes if (case, scheme, library) in grid]
            for library in libraries
        ]
        rows.append([case.name, *(cell_text(case, of_library) for of_library in cells)])
    columns = ["case", *(TITLES[library] for library in libraries)]
    return runner.table(f"Worst of {', '.join(schemes)}", columns, rows)


def figures(grid: Grid, library: str) -> list[Figure]:
    """Return the errors of a library that count."""
    found = [
        Figure(case, scheme, side, getattr(cell, side))
        for (case, scheme, of), cell in grid.items()
        for side in SIDES
        if of == library and not cell.refusal
    ]
    return [f for f in found if f.side not in f.case.unrepresentable or math.isnan(f.error)]


def total_line(grid: Grid, library: str) -> list[str | int]:
    counted = figures(grid, library)
    refused = sum(bool(cell.refusal) for (_, _, of), cell in grid.items() if of == library)
    nan = sum(math.isnan(f.error) for f in counted)
    garbage, off = sum(f.error > GARBAGE for f in counted), sum(f.is_off for f in counted)
    return [TITLES[library], len(counted), refused, nan, garbage, off]


def verdict(grid: Grid) -> str:
    """Return how many of normlab's figures are wrong, and which."""
    counted = figures(grid, OWN)
    limits = ", ".join(f"{dtype} {limit:.0e}" for dtype, limit in LIMITS.items())
    wrong = [
        f"- {f.case.name}, {f.scheme}, {f.side}: {number(f.error)}, "
        f"limit {LIMITS[f.case.dtype]:.0e}"
        for f in counted
        if f.is_off
    ]
    text = f"normlab: {len(wrong)} of {len(counted)} figures are NaN or above the limit ({limits})."
    return "\n".join([text, *wrong])


def excuses(cases: Sequence[Case]) -> str:
    lines = [
        f"- {case.name}, {side}: {why}"
        for case in cases
        for side, why in case.unrepresentable.items()
    ]
    return "\n".join(["† No float is right:", "", *lines]) if lines else ""


def run(options: Options) -> str:
    """Measure; print the progress and the tables; return the section of the page."""
    cases = [case for case in CASES if options.cases in case.name]
    if not cases:
        raise BadSelection(f"no case has {options.cases!r} in its name (one is {CASES[0].name!r})")
    schemes = runner.select("scheme", options.schemes, LAYERS)
    rivals = {name: title for name, title in TITLES.items() if name != OWN}
    others, missing = runner.find_libraries(options.against, rivals)
    libraries = [OWN, *others]
    grid = measure_all(cases, schemes, libraries)
    totals = ["library", "figures", "refused layers", "NaN", f"above {GARBAGE:g}", "above limit"]
    with_mean, without = (
        [name for name in LAYERS if NORMS[name].centered is is_so] for is_so in (True, False)
    )
    tables = [
        worst_table(grid, with_mean, libraries),
        worst_table(grid, without, libraries),
        runner.table("Totals", totals, [total_line(grid, library) for library in libraries]),
        *edge_cases.tables(libraries, schemes),
    ]
    head = [runner.machine(["flax", *others]), *missing, verdict(grid), excuses(cases)]
    return runner.publish(head, tables)
