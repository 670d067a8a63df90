"""Recomputes verdicts from the runs, with nothing of normlab.

A report lists every run in runs.csv and every verdict in tables/verdicts.csv. This script reads
the runs, follows docs/rules.md as rules_again.py has it, and compares.

Example: python benchmarks/validation/recompute.py results
It exits with 1 unless every verdict agrees.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where `benchmarks` is found
from benchmarks.validation.rules_again import (  # noqa: E402
    Estimate,
    Search,
    Terms,
    higher,
    paired,
    path,
    points,
    risk,
    speedup,
    steepness,
    to,
    turning,
    windows,
)
from benchmarks.validation.runs_again import Results, Run  # noqa: E402

TOLERANCE = 1e-9
"""Difference up to which two numbers agree."""
NUMBERS = ("effect", "effect, low", "effect, high", "n")


class Row(NamedTuple):
    test: str
    delta: float
    looks: tuple[int, ...]
    estimate: Callable[[Results, int], Estimate]
    is_limit: bool = False
    """Whether the effect is a share that may be at most delta."""


def word(found: Estimate, row: Row) -> tuple[str, str, bool]:
    """Return the word, its qualifier and whether the interval is clear."""
    _, low, high, _, is_lower_bound = found
    if row.is_limit:
        said = "refuted" if low > row.delta else "supported" if high <= row.delta else "open"
        return said, "", said != "open"
    half = (high - low) / 2
    if high < row.delta and not is_lower_bound:
        qualifier = "reversed" if high < 0 else "small" if low > 0 else ""
        return "refuted", qualifier, half <= row.delta / 2 or high < 0
    if low > 0 and found.mean >= row.delta:
        is_sure = low >= row.delta
        qualifier = "at least delta" if is_sure else ""
        return "supported", qualifier, half <= row.delta / 4 or is_sure
    return "open", "", False


def verdict(results: Results, row: Row) -> dict[str, Any]:
    """Return what the page should say, at the look where the rule stops."""
    looks = iter(row.looks)
    found = row.estimate(results, next(looks))
    while not word(found, row)[2] and (n := next(looks, 0)):
        found = row.estimate(results, n)
    said, qualifier, _ = word(found, row)
    told = {"verdict": said, "qualifier": qualifier}
    told["lower bound"] = "yes" if found.is_lower_bound else ""
    return dict(zip(NUMBERS, found[:4], strict=True)) | told


def differ(worse: str, better: str) -> Terms:
    return [(worse, "report", 1.0), (better, "report", -1.0)]


SWITCHED: Terms = [
    *(("batch", "follow: batch, batch 4 from step 150 on", 1.0), ("batch", "report", -1.0)),
    *(("none", "follow: none, batch 4 from step 150 on", -1.0), ("none", "report", 1.0)),
]


def windowed(test: str, looks: tuple[int, ...], setup: str, terms: Terms) -> Row:
    return Row(test, 1.0, looks, partial(windows, setup=setup, terms=terms))


def faster(test: str, looks: tuple[int, ...], setup: str, target: float) -> Row:
    return Row(test, 0.32, looks, partial(speedup, setup=setup, target=target))


def one_rate(test: str, delta: float, looks: tuple[int, ...], *asked: Any, **stage: str) -> Row:
    search, value = asked
    return Row(test, delta, looks, partial(paired, search=search, value=value, **stage))


def rate_rows(net: str, n: int) -> list[Row]:
    setup = f"learning-rate-{net}"
    risky = partial(risk, setup=setup, seeds=n)
    return [
        Row(f"C2-{net}", 0.3, (n,), partial(higher, setup=setup)),
        Row(f"C2r-{net}", 0.05, (104,), risky, is_limit=True),
    ]


def flatter(none: Run, batch: Run) -> float:
    return steepness(none) - steepness(batch)


def shorter(none: Run, batch: Run) -> float:
    return math.log2(path(none) / path(batch))


ROWS = [
    faster("C1a", (12, 24, 48), "convergence-mlp", 0.9),
    faster("C1a-80", (12, 24, 48), "convergence-mlp-80", 0.8),
    faster("C1b", (12, 24), "convergence-cnn", 0.95),
    faster("C1b-90", (12, 24), "convergence-cnn-90", 0.9),
    *rate_rows("mlp", 12),
    *rate_rows("cnn", 8),
    one_rate("C3a", 0.05, (12,), Search("gradient-flow-sigmoid"), flatter),
    one_rate("C3b", 0.05, (12,), Search("gradient-flow-relu"), flatter),
    one_rate(
        "C7a", 0.5, (12,), to("covariate-shift-mlp", 0.9), shorter, stage="follow: {}, followed"
    ),
    one_rate("C7b-mlp", 0.05, (24, 48), to("covariate-shift-mlp", 0.9), turning),
    one_rate("C7b-cnn", 0.05, (24, 48), to("covariate-shift-cnn", 0.95), turning),
    windowed("C8a", (12, 24), "stats-batch-mlp", differ("batch/4", "batch/64")),
    windowed("C8b", (12, 24), "stats-batch-cnn", differ("batch/2", "batch/64")),
    windowed("C8c", (24,), "switched-batch-mlp", SWITCHED),
    windowed("C10a-layer", (12, 24), "small-batch-mlp", differ("batch", "layer")),
    windowed("C10a-group", (12, 24), "small-batch-mlp", differ("batch", "group")),
    one_rate("C11", 1.0, (12, 20), Search("accuracy-cnn"), points),
    windowed("C13", (24,), "placement-cnn", differ("batch/post", "batch/pre")),
    one_rate("C14b", 0.2, (24,), to("tutorial-mlp", 0.95), points),
]
"""Of the profile quick."""


def compare(ours: dict[str, Any], theirs: dict[str, str]) -> Iterator[tuple[str, Any, Any, float]]:
    """Yield (quantity, ours, theirs, difference) for all that a verdict consists of."""
    for name, value in ours.items():
        if isinstance(value, str):
            yield name, value, theirs[name], 0.0 if value == theirs[name] else math.inf
        else:
            yield name, value, float(theirs[name]), abs(value - float(theirs[name]))


def main(folder: Path) -> int:
    """Print a line for each quantity and how many verdicts agree; return the exit status."""
    with (folder / "report" / "tables" / "verdicts.csv").open(newline="") as lines:
        page = {row["test"]: row for row in csv.DictReader(lines) if row["profile"] == "quick"}
    results, decided = Results(folder), ("supported", "refuted", "open")
    asked = [row for row in ROWS if page.get(row.test, {}).get("verdict") in decided]
    agree = 0
    print(f"{'test':12}{'quantity':14}{'ours':>26}{'theirs':>26}  difference")
    for row in asked:
        try:
            lines = list(compare(verdict(results, row), page[row.test]))
        except KeyError as run:
            lines = [("run", f"{run} missing", "", math.inf)]
        for name, ours, theirs, difference in lines:
            print(f"{row.test:12}{name:14}{ours!s:>26}{theirs!s:>26}  {difference:.0e}")
        agree += all(difference <= TOLERANCE for *_, difference in lines)
    print(f"{agree} of {len(asked)} verdicts agree to {TOLERANCE:g}")
    return 0 if asked and agree == len(asked) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
