"""What a step of a single run costs on this machine, measured once for each arm and code."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from normlab.launch.supervisor import Supervisor
from normlab.runs.config import program_id
from normlab.runs.files import write_json
from normlab.runs.provenance import host_facts, timing_place
from normlab.runs.store import Store
from normlab.settings import Config
from normlab.studies.looks import StudyRuns
from normlab.studies.measurements import STEP_TIMES, read_step_times


def untimed(store: Store, looks: Iterable[StudyRuns]) -> list[dict[str, Config]]:
    """Return arm -> one of its runs, for each finished setup that is tuned for speed and lacks a
    step time."""
    known = read_step_times(store).get(timing_place(host_facts()), {})
    setups = [
        {arm: next(iter(runs.values())).config for arm, runs in setup_runs.reports.items()}
        for look in looks
        for setup_runs in look.setups.values()
        if setup_runs.times_steps and setup_runs.is_complete
    ]
    return [s for s in setups if not known.keys() >= set(map(program_id, s.values()))]


def time_steps(
    store: Store,
    supervisor: Supervisor,
    setups: Iterable[dict[str, Config]],
    warn: Callable[[str], None],
) -> None:
    """Measure the step time of a single run of every arm of these setups. The arms of a setup take
    turns, so all are measured as soon as one is missing."""
    times = read_step_times(store)
    entry = times.setdefault(timing_place(host_facts()), {})
    for configs in setups:
        ids = {arm: program_id(config) for arm, config in configs.items()}
        if not entry.keys() >= set(ids.values()):  # rungs of a ladder share programs
            try:
                seconds = supervisor.time_steps(configs)
            except RuntimeError as error:  # costs a column
                return warn(f"{error}; the tables go without seconds")
            entry |= {ids[arm]: value for arm, value in seconds.items()}
            write_json(store.root / STEP_TIMES, times)
