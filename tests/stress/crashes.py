"""A process that ends at its n-th file operation, for every n until it completes.

It ends in one of two ways. In the second one the power is lost: what was written but not synced
becomes empty, and what was renamed in a folder that was not synced gets its old name again. The
crashes happen in children of a process without jax: `python -m stress.crashes FOLDER WAY ...`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

from stress.campaign import Report, Workspace, caught, error_of
from stress.crash_injection import CRASHED, CrashPoint, ask, in_child
from stress.mutants import WRITERS, planted
from stress.operations import Trial, operations_of
from stress.states import States, train_states

WAYS = {
    "before": "before an operation",
    "power": "before an operation, with a loss of power",
}
MOST = 500
"""Operations after which an attempt is given up."""


def crash_points(trial: Trial, way: str) -> Iterator[str]:
    """Yield for each point at which the operation is ended what is wrong then, "" for nothing."""
    for at in range(1, MOST):
        store = trial.begin()

        def crash(emit: Callable[[str], None], at: int = at, store=store) -> None:
            CrashPoint(at, way, emit).install()
            trial.operation.act(store)

        code, message = in_child(crash)
        wrong = f"exit code {code}" if code not in (0, CRASHED) else ""
        wrong = wrong or error_of(partial(trial.check, store))
        wrong = wrong and f"{trial.operation.name}, {way} operation {at} ({message}): {wrong}"
        if code == CRASHED or wrong:
            yield wrong
        if code != CRASHED:
            return
    yield f"{trial.operation.name}, {way}: not done after {MOST} operations"


def main() -> None:
    """Print as JSON the crash points of each way, what was wrong, and the mutants not caught."""
    patch.object(os, "fsync", lambda handle: None).start()  # losses of power are simulated here
    states, ways = States(Path(sys.argv[1])), sys.argv[2:]
    operations = operations_of(states)
    memory = Path("/dev/shm")  # thousands of small files are faster there
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        trials = [Trial(states, op, Path(folder, op.name)) for op in operations]
        outcomes = {way: [o for t in trials for o in crash_points(t, way)] for way in ways}
        missed = []
        for name, mutant in WRITERS.items():
            with planted(mutant):
                if not any(outcome for trial in trials for outcome in crash_points(trial, "power")):
                    missed.append(name)
    points = {way: len(texts) for way, texts in outcomes.items()}
    bad = [text for texts in outcomes.values() for text in texts if text]
    print(json.dumps({"points": points, "bad": bad, "missed": missed}))


def run(workspace: Workspace) -> Report:
    """End a process at each file operation of all that is written of a population and of a run.

    Nothing is random here, so the long version is the same.
    """
    states = train_states(workspace.folder)
    answer = ask("stress.crashes", states.folder, *WAYS)
    points, bad, missed = answer["points"], answer["bad"], answer["missed"]
    figures = {
        "crash points": sum(points.values()),
        **{WAYS[way]: count for way, count in points.items()},
        "bad": len(bad),
        "mutants caught": caught(missed, WRITERS),
    }
    goal = "after each the old or the new is there, whole, and the same call works"
    failures = bad + [f"a mutant was not caught: {name}" for name in missed]
    return Report("Crash at every file operation", goal, figures, failures)


if __name__ == "__main__":
    main()
