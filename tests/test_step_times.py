"""What steps cost: which setups lack that, who measures it, and what a failed measurement costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.step_times import measure_steps, unmeasured
from normlab.launch.supervisor import Supervisor
from normlab.runs.files import read_json
from normlab.runs.store import Store
from normlab.settings import defaults

ARMS = {name: defaults() | {"norm.name": name} for name in ("none", "batch")}


def setup(times_steps: bool = True, is_complete: bool = True, arms=ARMS, name="a") -> Any:
    reports = {arm: {0: SimpleNamespace(config=config)} for arm, config in arms.items()}
    found = SimpleNamespace(times_steps=times_steps, is_complete=is_complete, reports=reports)
    found.setup = SimpleNamespace(name=name, title="a network")
    return found


def look(*setups: Any, ranked: str = "") -> Any:
    return SimpleNamespace(setups=dict(enumerate(setups)), ranked=ranked)


class Clock:
    """A supervisor that measures 1, 2, ... seconds for the arms of each setup in turn."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def measure(self, kind: str, configs: dict[str, Any]) -> dict[str, float]:
        self.asked.append([kind, *configs])
        return {arm: float(i) for i, arm in enumerate(configs, 1)}


def test_finished_setups_that_are_tuned_for_speed_are_timed_once(tmp_path):
    clock: Any = Clock()
    store, told = Store(tmp_path).open(), list[str]()
    looks = [look(setup(), setup(times_steps=False)), look(setup(is_complete=False))]
    found = unmeasured(store, looks)
    assert found == [("time", ARMS)]
    measure_steps(store, clock, found * 2, told.append)  # the rungs of a ladder share programs
    assert clock.asked == [["time", "none", "batch"]] and told == []
    kept = read_json(tmp_path / "steptimes.json").values()
    (times,) = (entry for entry in kept if isinstance(entry, dict))
    assert sorted(times.values()) == [1.0, 2.0]
    assert unmeasured(store, looks) == []
    more = ARMS | {"group": defaults() | {"norm.name": "group"}}
    assert unmeasured(store, [look(setup(arms=more))]) == [("time", more)]


def test_the_memory_of_each_network_with_a_ranking_is_counted_once_and_moves_no_time(tmp_path):
    counter: Any = Clock()
    store, told = Store(tmp_path).open(), list[str]()
    measure_steps(store, counter, [("time", ARMS)], told.append)
    kept = read_json(tmp_path / "steptimes.json")
    small = {arm: config | {"data.batch": 2} for arm, config in ARMS.items()}
    setups = setup(), setup(times_steps=False, arms=small, name="b")
    assert unmeasured(store, [look(*setups)]) == []
    assert unmeasured(store, [look(*setups, ranked="b")]) == [("memory", small)]
    looks = [look(*setups, ranked="ab")]
    found = unmeasured(store, looks)
    assert found == [("memory", ARMS)]
    measure_steps(store, counter, found, told.append)
    assert counter.asked[1:] == [["memory", "none", "batch"]] and told == []
    assert unmeasured(store, looks) == []
    now = read_json(tmp_path / "steptimes.json")
    assert {key: now[key] for key in kept if key != "sha256"}.items() <= kept.items()


def test_a_measurement_that_fails_costs_a_column_and_is_told(tmp_path):
    class Dead(Clock):
        def measure(self, kind, configs):
            raise RuntimeError("the time of a step could not be measured")

    dead: Any = Dead()
    store, told = Store(tmp_path).open(), list[str]()
    measure_steps(store, dead, [("time", ARMS)], told.append)
    assert told == ["the time of a step could not be measured; the tables go without it"]
    assert not (tmp_path / "steptimes.json").exists()


def test_the_first_worker_of_the_training_measures_while_the_others_rest(tmp_path, monkeypatch):
    """What others said before is of no concern; the end of the first is."""
    sent: list[Any] = []
    first, other = WorkerHandle(0), WorkerHandle(1)
    with Supervisor(Store(tmp_path).open()) as supervisor:
        monkeypatch.setattr(supervisor.engine, "send", lambda worker, what: sent.append(what))
        supervisor.workers = [first, other]
        supervisor.events.put((other, {"event": "gone"}))
        supervisor.events.put((first, {"event": "measured", "values": {"none": 0.5}}))
        assert supervisor.measure("time", {"none": ARMS["none"]}) == {"none": 0.5}
        assert sent == [{"do": "time", "configs": {"none": ARMS["none"]}}]
        supervisor.events.put((first, {"event": "gone"}))
        with pytest.raises(RuntimeError, match="could not be measured"):
            supervisor.measure("time", {"none": ARMS["none"]})
