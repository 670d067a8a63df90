"""What a worker trains of what it is told to: its second look, once it holds the locks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from normlab.launch import worker as working
from normlab.launch.batching import stopped_populations
from normlab.launch.worker import Worker, judge
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.config import run_id
from normlab.runs.errors import Drift
from normlab.runs.store import Store
from normlab.settings import Config, defaults

CONFIGS: dict[str, Config] = {name: defaults() | {"seed": i} for i, name in enumerate("abc")}


class Told(Worker):
    """A worker that says what it would train and trains nothing."""

    def __init__(self, store: Store):
        self.events: list[dict[str, Any]] = []
        super().__init__(store, None, self.events.append)
        self.trained: list[list[str]] = []

    def train_free(self, configs: dict[str, Config], attempts: list[dict[str, Any]]) -> None:
        self.trained.append(list(configs))

    def done(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.events[-1]))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path).open()


def finish(store: Store, name: str) -> None:
    store.run_dir(name).mkdir(exist_ok=True)
    (store.run_dir(name) / "result.json").touch()


def stop(store: Store, *names: str) -> None:
    stop_runs(store, {name: CONFIGS[name] for name in names})


def stop_runs(store: Store, configs: dict[str, Config]) -> None:
    folder = PopulationFolder(store, population_id(configs))
    folder.form(configs, {})
    folder.save(5, {"step": np.zeros(len(configs), np.int32)}, {"runs": configs})


def lock_elsewhere(store: Store, name: str):
    lock = Store(store.root).lock(name)
    assert lock is not None
    return lock


def test_what_somebody_finished_meanwhile_is_not_trained_again(store):
    finish(store, "b")
    worker = Told(store)
    worker.train(CONFIGS, False, [])
    assert worker.trained == [["a", "c"]]
    assert worker.done() == {"event": "done", "ids": ["a", "c"], "busy": ["b"]}


def test_what_somebody_holds_is_left_to_them(store):
    lock = lock_elsewhere(store, "a")
    worker = Told(store)
    worker.train(CONFIGS, False, [])
    assert worker.trained == [["b", "c"]] and worker.done()["busy"] == ["a"]
    lock.release()


def test_what_stopped_after_a_checkpoint_goes_on_as_it_was_formed(store):
    stop(store, "b", "c")
    worker = Told(store)
    worker.train(CONFIGS, False, [])
    assert worker.trained == [["a"]] and worker.done()["busy"] == ["b", "c"]
    formed = {name: CONFIGS[name] for name in ("b", "c")}
    finish(store, "b")  # killed between two results
    worker.train(formed, True, [])
    assert worker.trained == [["a"], ["b", "c"]]


def test_a_population_is_continued_with_all_its_locks_or_not_at_all(store):
    stop(store, "b", "c")
    lock = lock_elsewhere(store, "c")
    worker = Told(store)
    formed = {name: CONFIGS[name] for name in ("b", "c")}
    worker.train(formed, True, [])
    assert worker.trained == [] and worker.done()["busy"] == ["b", "c"]
    lock.release()
    for name in formed:
        finish(store, name)
    worker.train(formed, True, [])
    assert worker.trained == [] and worker.done()["ids"] == []


def test_only_stopped_populations_of_wanted_runs_are_judged(store):
    names = {run_id(config): config for config in CONFIGS.values()}
    stop_runs(store, names)
    (group,) = stopped_populations(store, [next(iter(names))])
    assert group.resumes and group.configs == names
    stop_runs(store, {"0123456789abcdef": defaults()})  # of a norm's file that was edited, say
    assert [g.configs for g in stopped_populations(store, names)] == [names]
    with pytest.raises(Drift, match="settings of run 0123456789abcdef"):
        stopped_populations(store, ["0123456789abcdef"])


@pytest.mark.parametrize("value", [1.5, [1], None, {}])
def test_a_setting_of_another_type_is_not_what_a_run_was_named_by(store, value):
    stop_runs(store, {"0123456789abcdef": defaults() | {"norm.name": value}})
    with pytest.raises(Drift, match="settings of run 0123456789abcdef"):
        stopped_populations(store, ["0123456789abcdef"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Drift("other data"), ("drift", False)),
        (MemoryError(), ("memory", True)),
        (OSError(28, "No space left on device"), ("storage", False)),
        (ValueError("a mistake"), ("error", False)),
    ],
)
def test_errors_have_names_and_only_some_are_worth_another_try(error, expected):
    assert judge(error) == expected


@pytest.mark.parametrize("place", ["/dev/null/x", "~nobody-here/x"])
def test_a_cache_that_cannot_be_is_said_and_stops_nothing(place, monkeypatch):
    monkeypatch.setenv("NORMLAB_CACHE", place)
    monkeypatch.setattr(working.jax.config, "update", lambda *_: pytest.fail("it is used"))
    assert place.split("/x")[0] in working.use_cache()


def test_why_no_worker_can_train_names_the_variable_that_asks_for_it(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert "JAX_PLATFORMS=cuda is set" in working.unfit(AssertionError())
    monkeypatch.delenv("JAX_PLATFORMS")
    assert working.unfit(ValueError("x")) == "ValueError: x"


@pytest.mark.parametrize("kind, measured", [("time", "step_seconds"), ("memory", "step_bytes")])
def test_a_step_is_measured_as_asked(store, monkeypatch, kind, measured):
    def measure(configs, dataset):
        return {arm: (kind, dataset.name) for arm in configs}

    monkeypatch.setattr(working, measured, measure)
    worker = Told(store)
    worker.answer({"do": kind, "configs": {"none": CONFIGS["a"]}})
    assert worker.done() == {"event": "measured", "values": {"none": [kind, "digits"]}}
