"""What every suite does: select what is asked for, take turns, compare, write tables and pages."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import platform
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from normlab.report.tables import Markdown, Table
from normlab.runs.provenance import available_cores, processor_name

Key = TypeVar("Key", bound=Hashable)


class BadSelection(ValueError):
    """What was asked for is not there: a library, a scheme, a case, a size."""


class Options(NamedTuple):
    """What the command line asks for. Empty means everything that the suite knows."""

    against: Sequence[str] | None = None
    """Libraries; None: all, empty: none."""
    schemes: Sequence[str] = ()
    cases: str = ""
    sizes: Sequence[str] = ()
    dtypes: Sequence[str] = ()
    networks: Sequence[str] = ()
    populations: Sequence[str] = ()
    stride: int = 5
    """study: of each arm the loops train the runs 0, stride, 2 stride, ..."""
    repeats: int | None = None
    """Rounds that count; None: what the suite has by default."""
    results: str = "results"
    train: bool = True
    """stability: whether runs that are missing are trained."""


def emit(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)


def select(kind: str, wanted: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return `wanted`, or all that is known where nothing is wanted; raises BadSelection."""
    known = list(known)
    for name in wanted:
        if name not in known:
            raise BadSelection(f"unknown {kind} {name!r} (known: {', '.join(known)})")
    return list(wanted) or known


def find_libraries(
    against: Sequence[str] | None, titles: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return the libraries of `titles` (name -> title) that are asked for (None: all) and
    installed. The second list has a line on each that is not installed. Raises BadSelection.

    A name is that of the module, with a variant behind a hyphen: torch-compiled.
    """
    asked = select("library", against or (), titles) if against != [] else []
    wanted = [name for name in titles if name in asked]
    found = [name for name in wanted if importlib.util.find_spec(name.partition("-")[0])]
    return found, [f"{titles[n]} is left out: not installed" for n in wanted if n not in found]


def take_turns(
    turns: Mapping[Key, Callable[[], float]], rounds: int, warm_up: int = 0
) -> dict[Key, list[float]]:
    """Return what each contender measures, round by round. In a round all have a turn, so that a
    drift of the machine meets them alike. The first `warm_up` rounds are not counted."""
    found: dict[Key, list[float]] = {key: [] for key in turns}
    for number in range(warm_up + rounds):
        for key, measure in turns.items():
            value = measure()
            if number >= warm_up:
                found[key].append(value)
    return found


class Ratio(NamedTuple):
    """One contender's measurements over another's."""

    value: float
    """Of the medians over the rounds."""
    spread: float
    """Half of the interquartile range of the ratios within the rounds, over `value`."""

    @property
    def text(self) -> str:
        return f"{self.value:.2f}"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare what two contenders measured in the same rounds."""
    value = statistics.median(ours) / statistics.median(theirs)
    low, high = np.percentile(np.divide(ours, theirs), (25, 75))
    return Ratio(value, (high - low) / 2 / value)


def spread_text(ratios: Sequence[Ratio]) -> str:
    """Return how much the ratios of a table vary between rounds, as a sentence; "" without any."""
    spreads = [ratio.spread for ratio in ratios]
    if not spreads:
        return ""
    return (
        f"Between rounds a ratio varies by {statistics.median(spreads):.0%} in the median and by "
        f"{max(spreads):.0%} at most (half of the interquartile range)."
    )


def versions(libraries: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of jax and of these libraries."""
    names = dict.fromkeys(["jax", *(name.partition("-")[0] for name in libraries)])
    return {n: importlib.metadata.version("dm-haiku" if n == "haiku" else n) for n in names}


def machine(libraries: Iterable[str] = ()) -> str:
    """Return device, cores, versions and date in one sentence."""
    kind = jax.devices()[0].device_kind
    device = "" if kind == "cpu" else f"{kind}; "
    used = {"Python": platform.python_version()} | versions(libraries)
    texts = ", ".join(f"{name} {version}" for name, version in used.items())
    cores = f"{len(available_cores())} cores of {processor_name()}"
    return f"{device}{cores}, {texts}, {datetime.date.today().isoformat()}."


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """Return a table whose cells are Markdown: bold where a figure is wrong."""
    lines = [[Markdown(cell) for cell in row] for row in rows]
    return Table(Markdown(title), [*map(Markdown, columns)], lines)


class Check(NamedTuple):
    """A line of a table that is judged: what was found, and whether it holds (None: not judged)."""

    name: str
    cells: Sequence[str]
    holds: bool | None = None

    @property
    def line(self) -> list[str]:
        marks = {True: "pass", False: "**fail**", None: "-"}
        return [*self.cells, marks[self.holds]]


def verdict(what: str, checks: Iterable[Check]) -> str:
    """Return how many of those that are judged hold, with the names of the others."""
    judged = [check for check in checks if check.holds is not None]
    wrong = [f"- not: {check.name}" for check in judged if not check.holds]
    return "\n".join([f"{len(judged) - len(wrong)} of {len(judged)} {what} hold.", *wrong])


def terminal(of: Table) -> str:
    """Return title and table for a terminal, without Markdown's bold."""
    lines = [[text.replace("**", "") for text in line] for line in of.texts()]
    return f"{of.title}\n\n{Table('', of.columns, lines).to_text()}\n"


def publish(head: Iterable[str], tables: Iterable[Table]) -> str:
    """Print the tables and the paragraphs of the head; return the section, in which the head comes
    first. Tables without lines and empty paragraphs are left out."""
    head = [text for text in head if text]
    tables = [of for of in tables if of.rows]
    emit("\n".join(["", *map(terminal, tables), *head]))
    return "\n\n".join([*head, *(of.to_markdown().strip() for of in tables)])


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the text between the markers of `name`; raises ValueError where one is missing."""
    begin, end = (
        f"<!-- {word} of {name}, written by scripts/bench.py -->" for word in ("begin", "end")
    )
    before, first, rest = path.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"{path} needs both of these lines: {begin} {end}")
    page = f"{before}{begin}\n{text.strip()}\n{end}{after}"
    path.write_text(page, encoding="utf-8")
