"""The runs that a setup will want: planned ahead with results that are assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from normlab.runs.record import Record
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.protocols import Edges, Tuning
from normlab.studies.rates import STEP
from normlab.studies.setup import Setup

MOVE = 2 * STEP
"""Decades by which a window moves."""


def expected_runs(
    setup: Setup, records: Mapping[str, Record], cache: ConfigCache
) -> dict[str, RequiredRun]:
    """Return all runs that a setup is expected to want, at its number of seeds.

    Runs that are missing are assumed to train best in the middle of the grid, and those with the
    reporting seeds half a decade higher. Then no grid grows, and each window moves once. Where
    edges are searched, the two highest rates are assumed to fail.
    """
    exponents, has_edges = setup.protocol.exponents, isinstance(setup.protocol, Edges)
    best = exponents[max(0, len(exponents) - 3) if has_edges else len(exponents) // 2]
    known: dict[str, Record] = {}
    while True:
        runs = SetupRuns(setup, known, cache)
        missing = {name: run for name, run in runs.wanted.items() if name not in known}
        if not missing:
            return runs.wanted
        for name, run in missing.items():
            known[name] = records[name] if name in records else _assumed(setup, run, best)


def _assumed(setup: Setup, run: RequiredRun, best: float) -> Record:
    """Return a run that is the slower and the worse the farther its rate is from the best one."""
    steps, exponent = run.config["train.steps"], math.log10(run.config["optim.lr"])
    protocol = setup.protocol
    if isinstance(protocol, Tuning) and protocol.reported == "window" and run.stage == "report":
        best += MOVE
    away = exponent - best
    accuracy = 0.99 - 0.01 * min(away**2, 3.0)
    if isinstance(protocol, Edges) and away > 0.01:
        accuracy = 0.0
    reached = max(1, int(steps * (0.2 + 0.1 * min(away**2, 3.0))))
    curve = [{"step": step, "accuracy": accuracy} for step in (reached, max(reached, steps - 1))]
    final = {f"{part}_accuracy": accuracy for part in ("validation", "test", "train_set")}
    return Record(run.run_id, run.config, "trained", final, curve)
