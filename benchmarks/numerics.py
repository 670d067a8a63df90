"""How exact the layers are: every case, layer and library against float64, forward and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from benchmarks import BadSelection, edge_cases, select
from benchmarks.page import Table, machine
from benchmarks.reference_libraries import OWN, PEERS, Layer, Peer, find_peers, prepare
from normlab.norms.table import NORMS
from normlab.testing.cases import CASES, GARBAGE, LAYERS, LIMITS, Case, error, reference

SIDES = ("forward", "gradient")


class Cell(NamedTuple):
    """One layer of one library on one case: its two errors, or why it was refused."""

    forward: float = math.nan
    gradient: float = math.nan
    refusal: str = ""


Grid = dict[tuple[Case, str, str], Cell]
"""(case, layer, library) -> what came out; a layer that a library does not have is not there."""


class Plan(NamedTuple):
    cases: list[Case]
    layers: list[str]
    against: list[str]


def plan(
    schemes: Sequence[str] = (), cases: str = "", against: Sequence[str] | None = None
) -> Plan:
    """Return what to measure: () and "" are everything; raises BadSelection."""
    chosen = [case for case in CASES if cases in case.name]
    if not chosen:
        raise BadSelection(f"no case has {cases!r} in its name (one is {CASES[0].name!r})")
    others = [name for name in PEERS if name != OWN]
    libraries = others if against is None else list(against)
    if libraries:
        select("library", libraries, others)
    return Plan(chosen, select("scheme", list(schemes), list(LAYERS)), libraries)


def measure(case: Case, scheme: str, library: str) -> Cell | None:
    """Return the errors of one layer on one case; None where the library has no such layer."""
    row = NORMS[scheme]
    shape = case.shape(row.over)
    x, cotangent = case.draw(shape)
    y, dx = reference(row, x, cotangent, epsilon=case.epsilon, groups=case.groups)
    try:
        run = prepare(library, Layer(scheme, shape, case.dtype, case.epsilon, case.groups))
        if run is None:
            return None
        got_y, got_dx = run(x, cotangent)
    except ValueError as refusal:
        return Cell(refusal=str(refusal).partition("\n")[0])
    return Cell(error(got_y, y), error(got_dx, dx))


def measure_all(plan: Plan, libraries: Iterable[str], tell: Callable[[str], None]) -> Grid:
    grid: Grid = {}
    for number, case in enumerate(plan.cases, 1):
        tell(f"{number}/{len(plan.cases)} {case.name}")
        for scheme in plan.layers:
            for library in libraries:
                cell = measure(case, scheme, library) if scheme in case.layers else None
                if cell is not None:
                    grid[case, scheme, library] = cell
    return grid


def is_off(value: float, limit: float) -> bool:
    return not value <= limit  # NaN is off


def number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:.0e}" if value else "0"


def side_text(values: Sequence[float], excuse: str) -> str:
    """Return the worst of some errors, bold where it is garbage, with a dagger where no float
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
    some = "" if len(measured) == len(cells) else " (refuses some)"
    return " / ".join(texts) + some


def rows(grid: Grid, schemes: Sequence[str], libraries: Sequence[str]) -> list[list[str]]:
    """Return a line for each case: its name and the worst over `schemes` of each library."""
    lines = []
    for case in dict.fromkeys(key[0] for key in grid):
        cells = {
            library: [grid[case, s, library] for s in schemes if (case, s, library) in grid]
            for library in libraries
        }
        if any(cells.values()):
            lines.append([case.name, *(cell_text(case, cells[library]) for library in libraries)])
    return lines


class Total(NamedTuple):
    """Counts over the figures of a library, see `sides`."""

    measured: int
    refused: int
    nan: int
    garbage: int
    above_limit: int
    """Among them NaN and garbage."""


def sides(grid: Grid, library: str) -> list[tuple[Case, str, str, float]]:
    """Return (case, layer, side, error) of what a library measured: all that a float can hold, and
    NaN, which is never right."""
    measured = [
        (case, scheme, side, getattr(cell, side))
        for (case, scheme, of), cell in grid.items()
        for side in SIDES
        if of == library and not cell.refusal
    ]
    return [m for m in measured if m[2] not in m[0].unrepresentable or math.isnan(m[3])]


def total(grid: Grid, library: str) -> Total:
    errors = [(case, value) for case, _, _, value in sides(grid, library)]
    return Total(
        measured=len(errors),
        refused=sum(bool(c.refusal) for (_, _, of), c in grid.items() if of == library),
        nan=sum(math.isnan(v) for _, v in errors),
        garbage=sum(v > GARBAGE for _, v in errors),
        above_limit=sum(is_off(v, LIMITS[case.dtype]) for case, v in errors),
    )


def misses(grid: Grid) -> list[str]:
    """Return a line for each of normlab's figures that is NaN or above its limit."""
    return [
        f"{case.name}, {scheme}, {side}: {number(value)}, limit {LIMITS[case.dtype]:.0e}"
        for case, scheme, side, value in sides(grid, OWN)
        if is_off(value, LIMITS[case.dtype])
    ]


def verdict(grid: Grid) -> str:
    """Return what the suite is for, in one sentence, with the figures that are wrong."""
    wrong, counts = misses(grid), total(grid, OWN)
    limits = ", ".join(f"{dtype} {limit:.0e}" for dtype, limit in LIMITS.items())
    text = (
        f"normlab: {len(wrong)} of {counts.measured} figures are NaN or above the limit ({limits})."
    )
    return "\n".join([text, *(f"- {line}" for line in wrong)])


def tables(grid: Grid, libraries: dict[str, Peer]) -> list[Table]:
    """Return the tables of a grid: layers that centre, those that do not, and the totals."""
    titles = [peer.title for peer in libraries.values()]
    centered = [s for s in LAYERS if NORMS[s].centered]
    others = [s for s in LAYERS if s not in centered]
    totals = [[peer.title, *map(str, total(grid, library))] for library, peer in libraries.items()]
    return [
        Table(
            f"Worst of {', '.join(centered)}",
            ["case", *titles],
            rows(grid, centered, list(libraries)),
            READING,
        ),
        Table(f"Worst of {', '.join(others)}", ["case", *titles], rows(grid, others, [*libraries])),
        Table(
            "Totals",
            ["library", "figures", "refused layers", "NaN", f"above {GARBAGE:g}", "above limit"],
            totals,
            "Without the figures marked †, unless they are NaN. They depend on the choice of "
            "cases, which is meant to hurt: they rank, they are no rate.",
        ),
    ]


def excuses(cases: Sequence[Case]) -> str:
    lines = [
        f"- {case.name}, {side}: {why}"
        for case in cases
        for side, why in case.unrepresentable.items()
    ]
    return "\n".join(["† No float is right:", "", *lines]) if lines else ""


def run(plan: Plan, tell: Callable[[str], None]) -> str:
    """Measure; tell the progress and the tables; return the page."""
    peers, missing = find_peers(plan.against)
    grid = measure_all(plan, peers, tell)
    found = tables(grid, peers) + edge_cases.tables(list(peers), plan.layers)
    where = machine([peer.package for peer in peers.values() if peer.package != OWN])
    tell("\n".join(["", *(table.terminal() for table in found), *missing, where, verdict(grid)]))
    first, *rest = [table.markdown() for table in found]
    parts = [HEAD, where, *missing, verdict(grid), first, excuses(plan.cases), *rest]
    return "\n\n".join(part for part in parts if part)


HEAD = """# Numerics

Written by `python scripts/bench.py --suite=numerics --write` from `normlab/testing/cases.py`."""
READING = """Every cell is forward / gradient: ||out - right|| / ||right||, with right computed in
float64 from the input as it is stored and a closed-form gradient (a VJP with one fixed random
cotangent); where right is 0, the RMS. Scale 1, bias 0 and the same epsilon everywhere, 1e-5 unless
the case says otherwise. Inputs are [16, 8, 8, 32], statistics over C alone get [64, 512]; 8 groups.
Bold: NaN, or more than 1e-2 off. The output's own rounding costs 2e-4 in float16 and 2e-3 in
bfloat16. "refused": the layer raises, because a statistic of one value makes a constant output."""
