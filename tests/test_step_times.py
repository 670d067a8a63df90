"""Step times: which setups lack them, who measures them, and what a failed measurement costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from normlab.launch.step_times import time_steps, untimed
from normlab.launch.supervisor import Supervisor, WorkerProcess
from normlab.runs.files import read_json
from normlab.runs.store import Store
from normlab.settings import defaults

ARMS = {name: defaults() | {"norm.name": name} for name in ("none", "batch")}


def setup(times_steps: bool = True, is_complete: bool = True, arms=ARMS) -> Any:
    reports = {arm: {0: SimpleNamespace(config=config)} for arm, config in arms.items()}
    return SimpleNamespace(times_steps=times_steps, is_complete=is_complete, reports=reports)


def look(*setups: Any) -> Any:
    return SimpleNamespace(setups=dict(enumerate(setups)))


class Clock:
    """A supervisor that measures 1, 2, ... seconds for the arms of each setup in turn."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def time_steps(self, configs: dict[str, Any]) -> dict[str, float]:
        self.asked.append([*configs])
        return {arm: float(i) for i, arm in enumerate(configs, 1)}


def test_finished_setups_that_are_tuned_for_speed_are_timed_once(tmp_path):
    clock: Any = Clock()
    store, told = Store(tmp_path).open(), list[str]()
    looks = [look(setup(), setup(times_steps=False)), look(setup(is_complete=False))]
    found = untimed(store, looks)
    assert found == [ARMS]
    time_steps(store, clock, found * 2, told.append)  # the rungs of a ladder share programs
    assert clock.asked == [["none", "batch"]] and told == []
    kept = read_json(tmp_path / "steptimes.json").values()
    (times,) = (entry for entry in kept if isinstance(entry, dict))
    assert sorted(times.values()) == [1.0, 2.0]
    assert untimed(store, looks) == []
    more = ARMS | {"group": defaults() | {"norm.name": "group"}}
    assert untimed(store, [look(setup(arms=more))]) == [more]


def test_a_measurement_that_fails_costs_a_column_and_is_told(tmp_path):
    class Dead(Clock):
        def time_steps(self, configs):
            raise RuntimeError("step times could not be measured")

    dead: Any = Dead()
    store, told = Store(tmp_path).open(), list[str]()
    time_steps(store, dead, [ARMS], told.append)
    assert told == ["step times could not be measured; the tables go without seconds"]
    assert not (tmp_path / "steptimes.json").exists()


def test_the_first_worker_of_the_training_measures_while_the_others_rest(tmp_path, monkeypatch):
    """What others said before is of no concern; the end of the first is."""
    sent: list[Any] = []
    monkeypatch.setattr("normlab.launch.supervisor.send", lambda process, what: sent.append(what))
    processes: list[Any] = [SimpleNamespace(kill=lambda: None, wait=lambda: None)] * 2
    first, other = (WorkerProcess(i, process) for i, process in enumerate(processes))
    with Supervisor(Store(tmp_path).open()) as supervisor:
        supervisor.workers = [first, other]
        supervisor.events.put((other, {"event": "gone"}))
        supervisor.events.put((first, {"event": "timed", "seconds": {"none": 0.5}}))
        assert supervisor.time_steps({"none": ARMS["none"]}) == {"none": 0.5}
        assert sent == [{"do": "time", "configs": {"none": ARMS["none"]}}]
        supervisor.events.put((first, {"event": "gone"}))
        with pytest.raises(RuntimeError, match="could not be measured"):
            supervisor.time_steps({"none": ARMS["none"]})
