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
from normlab.studies.measurements import ENDINGS, STEP_TIMES, read_step_costs
from normlab.studies.planning import SetupRuns

Unmeasured = tuple[str, dict[str, Config]]
"""What is to be measured, and arm -> one of its runs."""


def unmeasured(store: Store, looks: Iterable[StudyRuns]) -> list[Unmeasured]:
    """Return the finished setups that lack a measurement of their steps.

    The time is measured where rates are tuned for speed. The memory is counted in the first ranked
    setup of each network."""
    costs, place = read_step_costs(store), timing_place(host_facts())
    times, memory = list[SetupRuns](), dict[str, SetupRuns]()
    for look in looks:
        finished = [runs for runs in look.setups.values() if runs.is_complete]
        times += [runs for runs in finished if runs.times_steps]
        for runs in finished:
            if runs.setup.name in look.ranked:
                memory.setdefault(runs.setup.title, runs)
    found = []
    for kind, setups in (("time", times), ("memory", memory.values())):
        known = costs.get(place + ENDINGS[kind], {})
        for runs in setups:
            configs = {arm: next(iter(own.values())).config for arm, own in runs.reports.items()}
            if not known.keys() >= set(map(program_id, configs.values())):
                found.append((kind, configs))
    return found


def measure_steps(
    store: Store,
    supervisor: Supervisor,
    setups: Iterable[Unmeasured],
    warn: Callable[[str], None],
) -> None:
    """Measure a step of a single run of every arm of these setups. The arms of a setup take turns,
    so all are measured as soon as one is missing."""
    costs = read_step_costs(store)
    for kind, configs in setups:
        entry = costs.setdefault(timing_place(host_facts()) + ENDINGS[kind], {})
        ids = {arm: program_id(config) for arm, config in configs.items()}
        if not entry.keys() >= set(ids.values()):  # rungs of a ladder share programs
            try:
                values = supervisor.measure(kind, configs)
            except RuntimeError as error:  # costs a column
                return warn(f"{error}; the tables go without it")
            entry |= {ids[arm]: value for arm, value in values.items()}
            write_json(store.root / STEP_TIMES, costs)
