"""What is measured outside of the runs of a study: seconds of single steps, benchmarks."""

from __future__ import annotations

from normlab.runs.config import program_id
from normlab.runs.errors import Damaged
from normlab.runs.files import read_json
from normlab.runs.provenance import timing_place
from normlab.runs.store import Store
from normlab.studies.looks import Measure
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Study

STEP_TIMES = "steptimes.json"
"""The file of them, in the results directory."""


def measurements(store: Store, study: Study) -> Measure:
    """Return what gives the setups of a study the records of its benchmarks and its step times."""
    paths = {name: store.root / "bench" / f"{name}.json" for name in study.benchmarks}
    records = {name: read_json(path) for name, path in paths.items() if path.exists()}

    def measure(runs: SetupRuns) -> None:
        runs.benchmarks = records
        if runs.times_steps:
            add_step_times(store, runs)

    return measure


def read_step_times(store: Store) -> dict[str, dict[str, float]]:
    """Return machine and code -> program -> seconds of a step of a single run; empty where none was
    measured. Raises Damaged."""
    path = store.root / STEP_TIMES
    return read_json(path) if path.exists() else {}


def add_step_times(store: Store, runs: SetupRuns) -> None:
    """Give a setup the step times of its arms on the machine that made its runs, if measured."""
    reports = {arm: next(iter(found.values())) for arm, found in runs.reports.items() if found}
    times = read_step_times(store)
    if not reports or not times:
        return
    origin = next(iter(reports.values())).provenance
    entry = times.get(timing_place(origin), {})
    if not isinstance(entry, dict) or not all(isinstance(v, (int, float)) for v in entry.values()):
        raise Damaged(store.root / STEP_TIMES, "no seconds in it")
    programs = {arm: program_id(run.config) for arm, run in reports.items()}
    runs.step_seconds = {arm: entry[name] for arm, name in programs.items() if name in entry}
    runs.timed_on = f"{origin['processor']}, 1 core"
