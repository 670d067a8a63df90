"""Stability: would other seeds and another rounding give the same words?

Real runs answer it here. Replications of a real contrast draw their seeds from a pool of runs, and
are compared in pairs. docs/calibration.md says how to read the tables. The pools take hours to
train: contrasts whose pools are not complete are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks import runner
from benchmarks.runner import Check, Options
from benchmarks.validation.calibration import MIDDLE, PAIRS, WORDS, check_table, covers, limit_text
from benchmarks.validation.calibration_surfaces import differing, first_word
from benchmarks.validation.stability_runs import (
    Pool,
    Replication,
    Row,
    effect_of,
    look_at_pool,
    missing,
    open_pool,
    rows,
    train,
)
from normlab.report.figures.style import MARKERS, OWN, STYLE, legend
from normlab.report.tables import Table
from normlab.shipped import ROOT
from normlab.studies.decisions import Contrast, look_at
from normlab.studies.intervals import PAIRED_T

TIMES = 100
"""Replications of each contrast."""
COVERED = (0.93, 0.97)
"""Limits of the coverage of a 95 % interval."""
FIGURE = ROOT / "docs" / "figures" / "stability_runs.svg"
IMAGE = (
    "![Share of pairs of replications with different words, against the effect over the pool]"
    f"(figures/{FIGURE.name})"
)


class Found(NamedTuple):
    """What the replications of a contrast say."""

    name: str
    truth: float
    """The effect over the whole pool, in delta."""
    new: Sequence[str]
    """The word of each replication."""
    old: Sequence[str]
    """The same under the first rules."""
    covered: Sequence[bool]
    """Whether the 95 % interval of the first look covers the truth."""
    seeds: float
    """The mean number of seeds that decided."""

    @property
    def is_far(self) -> bool:
        return not MIDDLE[0] <= self.truth <= MIDDLE[1]


def word_at(contrast: Contrast) -> str:
    """Return the word of a look; without effects nothing is decided."""
    return look_at(contrast)[0].word if len(contrast.effects) > 1 else "open"


def covered(replications: Sequence[Replication], truth: float) -> list[bool]:
    """Return whether the first looks cover the truth, where their interval is a t interval."""
    first = [r.path[0] for r in replications]
    return [
        covers(c.estimate(), len(c.effects), truth)
        for c in first
        if c.estimator is PAIRED_T and len(c.effects) > 1
    ]


def judge(row: Row, pool: Pool, times: int) -> Found | int:
    """Return what the replications say, or how many runs are missing by now."""
    replications, wanted = look_at_pool(row, pool, times)
    left = sum(map(len, missing(wanted, pool).values()))
    if left:
        return left
    truth = effect_of(row, pool)
    return Found(
        row.claim.id,
        truth / row.sesoi,
        [word_at(r.path[-1]) for r in replications],
        [first_word([*r.old.effects.values()], row.sesoi) for r in replications],
        covered(replications, truth),
        float(np.mean([r.path[-1].n for r in replications])),
    )


def over_rows(found: Sequence[Found], place: int, is_far: bool, old: bool = False) -> float:
    """Return the mean share of pairs that differ (0) or that are opposite (1); NaN without any
    contrast."""
    words = [f.old if old else f.new for f in found if f.is_far or not is_far]
    return mean_of([differing(w)[place] for w in words])


def mean_of(values: Sequence[float]) -> float:
    """Return the mean, NaN without any value."""
    return float(np.mean(values)) if values else math.nan


def check_of(name: str, limits: tuple[float, float], new: float, old: float = math.nan) -> Check:
    """Judge a share under the new rules; NaN is not judged."""
    texts = ["-" if math.isnan(share) else f"{share:.1%}" for share in (new, old)]
    holds = None if math.isnan(new) else limits[0] <= new <= limits[1]
    return Check(f"{name}: {texts[0]}", [name, limit_text(name, *limits), *texts], holds)


def checks_of(found: Sequence[Found]) -> list[Check]:
    """Judge all contrasts together."""
    checks = [
        check_of(name, (0, most), over_rows(found, *where), over_rows(found, *where, old=True))
        for name, most, where in PAIRS
    ]
    inside = mean_of([is_inside for f in found for is_inside in f.covered])
    return [*checks, check_of("coverage of the 95 % interval", COVERED, inside)]


def cells_of(row: Row, found: Found | int) -> list[str]:
    """Return the line of a contrast."""
    head = [row.claim.id, row.setup.title, f"{row.seeds}"]
    if isinstance(found, int):
        return [*head, "not run", *["-"] * 8]
    cells = [*head, f"{found.truth:.2f}"]
    for words in (found.old, found.new):
        shares = [f"{100 * words.count(word) / len(words):.0f}" for word in WORDS]
        cells += [" / ".join(shares), *(f"{100 * share:.1f}" for share in differing(words))]
    inside = f"{100 * np.mean(found.covered):.0f}" if found.covered else "-"
    return [*cells, f"{found.seeds:.0f}", inside]


def rows_table(lines: Sequence[Sequence[str]]) -> Table:
    columns = ["supported / refuted / open", "pairs differ", "opposite"]
    named = [f"{rules} rules: {column}" for rules in ("old", "new") for column in columns]
    head = ["contrast", "network and data", "seeds of the pool", "effect of the pool, delta"]
    title = "Replications on real runs: words in %"
    return runner.table(title, [*head, *named, "mean seeds", "covered"], lines)


def draw(path: Path, found: Sequence[Found]) -> None:
    """Draw the share of pairs that differ against the effect of the pool, both rules."""
    ordered = sorted(found, key=lambda f: f.truth)
    truths = [f.truth for f in ordered]
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(5.6, 2.6), layout="constrained")
        ax = drawing.subplots()
        ax.axvspan(*MIDDLE, color="#eeeeee", lw=0)
        for name, scheme, marker in zip(("old", "new"), ("layer", "batch"), MARKERS, strict=False):
            shares = [100 * differing(f.old if name == "old" else f.new)[0] for f in ordered]
            ax.plot(truths, shares, marker, color=OWN[scheme], label=f"{name} rules")
        for f in ordered:
            place = (f.truth, 100 * differing(f.new)[0])
            ax.annotate(f.name, place, (0, 5), textcoords="offset points", fontsize=6, rotation=60)
        ax.set_xscale("symlog", linthresh=2)
        ax.set_xlabel("effect of the whole pool / smallest effect of interest")
        ax.set_ylabel("pairs that differ, %")
        ax.set_ylim(bottom=0)
        legend(drawing)
        drawing.savefig(path, metadata={"Date": None})


def judge_all(known: Sequence[Row], pool: Pool, times: int, figure: Path) -> str:
    """Print the tables, draw the figure; return the section of the page."""
    judged = [judge(row, pool, times) for row in known]
    found = [f for f in judged if isinstance(f, Found)]
    checks = checks_of(found)
    state = f"{len(found)} of {len(known)} contrasts have all runs, {times} replications each."
    head = [runner.machine(), state, runner.verdict("controls", checks)]
    if found:
        draw(figure, found)
        head.append(IMAGE)
    tables = [
        check_table("Stability", ["control", "limit", "new rules", "old rules"], checks),
        rows_table([cells_of(r, f) for r, f in zip(known, judged, strict=True)]),
    ]
    return runner.publish(head, tables)


def run(options: Options) -> str:
    """Train what is missing of the chosen rows, judge all; return the section of the page."""
    known, pool = rows(), open_pool(options.results)
    times = options.repeats or TIMES
    chosen = runner.select("contrast", [c for c in options.cases.split(",") if c], names(known))
    for row in known:
        if options.train and row.claim.id in chosen:
            train(row, pool, times)
    return judge_all(known, pool, times, FIGURE)


def names(known: Sequence[Row]) -> list[str]:
    return [row.claim.id for row in known]
