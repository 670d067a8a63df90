"""What is measured outside of the runs of a study: single steps, and benchmarks."""

from __future__ import annotations

from normlab.runs.config import program_id
from normlab.runs.errors import Damaged
from normlab.runs.files import read_json
from normlab.runs.provenance import NUMBER, timing_place
from normlab.runs.store import Store
from normlab.studies.looks import Measure
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Study

STEP_TIMES = "steptimes.json"
"""The file of what a step costs, in the results directory."""
ENDINGS = {"time": "", "memory": ", bytes"}
"""What is measured of a step -> how its keys in the file end; they begin with machine and code."""


def measurements(store: Store, study: Study) -> Measure:
    """Return what gives the setups of a study the records of its benchmarks and what its
    steps cost."""
    paths = {name: store.root / "bench" / f"{name}.json" for name in study.benchmarks}
    ranked = {ranking.setup for ranking in study.rankings}
    records = {name: read_json(path) for name, path in paths.items() if path.exists()}

    def measure(runs: SetupRuns) -> None:
        runs.benchmarks = records
        if runs.times_steps or runs.setup.name in ranked:
            add_step_costs(store, runs)

    return measure


def read_step_costs(store: Store) -> dict[str, dict[str, float]]:
    """Return machine, code and one of ENDINGS -> program -> seconds or bytes of a step of a single
    run; empty where none was measured. Raises Damaged."""
    path = store.root / STEP_TIMES
    return read_json(path) if path.exists() else {}


def add_step_costs(store: Store, runs: SetupRuns) -> None:
    """Give a setup what steps of its arms cost on the machine that made its runs, if measured."""
    reports = {arm: next(iter(found.values())) for arm, found in runs.reports.items() if found}
    costs = read_step_costs(store)
    if not reports or not costs:
        return
    origin = next(iter(reports.values())).provenance
    programs = {arm: program_id(run.config) for arm, run in reports.items()}

    def of_arms(kind: str) -> dict[str, float]:
        entry = costs.get(timing_place(origin) + ENDINGS[kind], {})
        if not isinstance(entry, dict) or not all(isinstance(v, NUMBER) for v in entry.values()):
            raise Damaged(store.root / STEP_TIMES, "no seconds or bytes in it")
        return {arm: entry[name] for arm, name in programs.items() if name in entry}

    runs.step_bytes = of_arms("memory")
    if runs.times_steps:
        runs.step_seconds = of_arms("time")
        runs.timed_on = f"{origin['processor']}, 1 core"
