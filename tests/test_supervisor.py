"""Whole studies in processes of their own: finished, killed, interrupted, two at once."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
from workspace import LONG, RUNS, SHORT, Workspace, finish, needs_proc, workers_of

from normlab.launch import devices
from normlab.launch.batching import PlannedPopulation, form_populations, halve_largest
from normlab.launch.devices import Device
from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.failures import Failure, lost_runs
from normlab.launch.supervisor import Supervisor
from normlab.runs.provenance import available_cores
from normlab.runs.store import Store
from normlab.settings import defaults


def test_a_study_runs_end_to_end_and_only_once(tmp_path):
    workspace = Workspace(tmp_path, SHORT)
    out = finish(workspace.start())
    early, trained, late = out.partition(f"{RUNS} runs trained")
    assert trained and "It is better" in early and "It is better" in late
    assert len(workspace.done()) == RUNS and Path(out.split("page: ")[1].strip()).is_file()
    kept = json.loads((workspace.results / "studies" / "tiny-quick.json").read_text())
    assert kept["rule"]["claims"]
    for name in workspace.done():
        record = workspace.store.read(name)
        assert record.status == "trained" and record.provenance["members"] in (2, 4)
        assert [row["step"] for row in record.curve] == [20, 40]
        assert {"training_version", "git_commit", "data_sha256", "width", "mode"} <= set(
            record.provenance
        )
        assert_costs(record.provenance)
    before = {p: p.stat().st_mtime_ns for p in workspace.results.glob("runs/*/*")}
    assert "\n0 runs trained" in f"\n{finish(workspace.start())}"
    assert {p: p.stat().st_mtime_ns for p in workspace.results.glob("runs/*/*")} == before
    assert_damage_is_repaired(workspace)


def assert_damage_is_repaired(workspace: Workspace) -> None:
    """A damaged record is reported, set aside and trained again, to the same bits."""
    before = workspace.read_results()
    victim = sorted(before)[0]
    path = workspace.store.run_dir(victim) / "result.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    process = workspace.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "1 runs trained" in out
    assert victim in err and "damaged" in err and "Traceback" not in err
    assert (path.parent / "result.corrupt.json").read_bytes() == content
    after = workspace.read_results()
    assert after[victim]["curve_sha256"] == before[victim]["curve_sha256"]
    assert after[victim]["final"] == before[victim]["final"]


def assert_costs(told: dict) -> None:
    """Every result says what it cost; a program that is in memory costs no compilation again."""
    assert told["run_steps_per_second"] > 0 and 0 < told["matmul_fraction"] < 1
    assert 50 < told["peak_memory_mb"] < 5000
    if told["members"] == 4:  # tuning, which comes first
        assert 0.1 < told["compile_seconds"] < told["population_seconds"]
    else:
        assert 0 <= told["compile_seconds"] < 0.1


@needs_proc
def test_a_worker_that_dies_again_and_again_is_an_error(tmp_path):
    workspace = Workspace(tmp_path, LONG)
    process = workspace.start("--retries=0")
    workspace.wait_for_training(process)
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 70 and "Traceback" not in err
    assert "worker process ended with code -9" in err and "runs could not be finished" in err
    assert 0 < len(workspace.done()) < RUNS  # the other arm went on
    finish(workspace.start())
    assert len(workspace.done()) == RUNS


def configs(count: int, **settings) -> dict[str, dict]:
    named = {k.replace("__", "."): v for k, v in settings.items()}
    return {f"{named}{seed}": defaults() | named | {"seed": seed} for seed in range(count)}


def test_groups_are_of_one_cohort_and_one_width():
    runs = configs(70) | configs(3, norm__name="group") | configs(2, optim__lr=0.5)
    groups = form_populations(runs)
    assert sorted(len(g.configs) for g in groups) == [3, 24, 24, 24]
    assert sorted(n for g in groups for n in g.configs) == sorted(runs)
    for group in groups:
        assert len({c["norm.name"] for c in group.configs.values()}) == 1
    assert form_populations({}) == []


def test_lost_runs_are_those_still_not_done(tmp_path):
    store = Store(tmp_path).open()
    store.run_dir("a").mkdir()
    (store.run_dir("a") / "result.json").touch()
    failures = [
        Failure(PlannedPopulation({"a": defaults(), "b": defaults()}), "killed", m) for m in "xy"
    ]
    assert lost_runs(failures, store) == {"b": failures[1]}


def test_a_run_that_is_too_large_for_the_memory_alone_is_given_up(tmp_path):
    supervisor, events = Supervisor(Store(tmp_path).open(), retries=1), []
    supervisor.on_event = lambda worker, event, facts: events.append(facts["then"])
    worker = WorkerHandle(0)
    for width in (2, 1, 1):
        population = PlannedPopulation({"a": defaults() | {"host.width": width}})
        supervisor._fail(worker, Failure(population, "memory", "too large"))
    assert events == ["tried again at width 1", "tried again", "given up"]
    assert supervisor.widths == {"a": 1} and supervisor.given_up == {"a"}
    assert (tmp_path / "runs" / "a" / "failure.json").exists()


@pytest.mark.parametrize(
    ("sizes", "steps", "workers", "expected"),
    [
        ([12], 10_000, 2, [6, 6]),
        ([5], 10_000, 3, [1, 2, 2]),
        ([8, 3], 10_000, 3, [3, 4, 4]),
        ([8, 3], 10_000, 2, [3, 8]),
        ([12], 300, 2, [12]),
        ([1], 1_000_000, 2, [1]),
        ([], 300, 2, []),
    ],
)
def test_idle_workers_share_the_largest_groups_where_that_is_worth_it(
    sizes, steps, workers, expected
):
    groups = [
        PlannedPopulation({f"{g}-{i}": defaults() | {"train.steps": steps} for i in range(size)})
        for g, size in enumerate(sizes)
    ]
    shared = halve_largest(groups, workers)
    assert sorted(len(group.configs) for group in shared) == expected
    names = [name for group in shared for name in group.configs]
    assert sorted(names) == sorted(name for group in groups for name in group.configs)


GPU_0, GPU_1 = (Device(environment={"CUDA_VISIBLE_DEVICES": number}) for number in "01")
CORES = [Device(core=core) for core in available_cores()]


@pytest.mark.parametrize(
    ("plugin", "variables", "processes", "found"),
    [
        ("jax_cuda12_plugin", {}, 0, [GPU_0, GPU_1]),
        ("jax_cuda12_plugin", {}, 3, [GPU_0, GPU_1, GPU_0]),
        ("jax_cuda13_plugin", {"CUDA_VISIBLE_DEVICES": "1"}, 0, [GPU_1]),
        ("jax_cuda12_plugin", {"JAX_PLATFORMS": "cpu"}, 0, CORES),
        (None, {}, 0, CORES),
        (None, {}, len(CORES) + 1, [*CORES, CORES[0]]),
        ("libtpu", {}, 0, [Device()]),
    ],
)
def test_one_worker_for_each_accelerator_else_for_each_core(
    tmp_path, monkeypatch, plugin, variables, processes, found
):
    """A machine with two GPUs in /dev and at most one of jax's plugins."""
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    monkeypatch.setattr(devices, "cpu_quota", lambda: math.inf)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name == plugin or None)
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.find_devices(processes) == found
