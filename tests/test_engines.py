"""Workers that share no disk: what arrives is checked, written once, and only then reported."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sent_runs import CONFIGS, done, folder_of
from workspace import ROOT, Workspace, finish, run_script

from normlab.launch.batching import PlannedPopulation
from normlab.launch.engines import deliveries as arriving
from normlab.launch.engines import ray as raying
from normlab.launch.engines import remote_task
from normlab.launch.engines.deliveries import Deliveries
from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.engines.options import LaunchOptions
from normlab.launch.engines.ray import RayEngine, Task, end_of
from normlab.launch.engines.remote import checked, gone
from normlab.launch.failures import Failure
from normlab.launch.supervisor import Supervisor
from normlab.runs.checkpoints import MANIFEST, PopulationFolder
from normlab.runs.errors import Damaged, Preempted, StorageError
from normlab.runs.store import Store
from normlab.runs.transfer import (
    adopt_checkpoints,
    adopt_run,
    checkpoint_contents,
    run_contents,
)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_result_that_arrives_has_the_bytes_that_left(there, here):
    here.run_dir("a").mkdir()
    (here.run_dir("a") / "failure.json").write_text("{}")
    contents = run_contents(there, "a")
    adopt_run(here, "a", CONFIGS["a"], contents)
    assert run_contents(here, "a") == contents and here.read("a") == there.read("a")
    assert not (here.run_dir("a") / "failure.json").exists()


@pytest.mark.parametrize("name", ["result.json", "curve.jsonl"])
def test_a_result_that_was_damaged_on_its_way_is_refused(there, here, name):
    here.run_dir("a").mkdir()
    contents = run_contents(there, "a")
    contents[name] = contents[name].replace(b": 0", b": 1")
    assert contents[name] != run_contents(there, "a")[name]
    with pytest.raises(Damaged, match="what arrived of run a.*train it again"):
        adopt_run(here, "a", CONFIGS["a"], contents)
    assert not list(here.run_dir("a").iterdir())


def test_the_result_of_other_settings_or_of_another_run_is_refused(there, here):
    with pytest.raises(Damaged, match="not the run that was asked for"):
        adopt_run(here, "a", CONFIGS["b"], run_contents(there, "a"))
    with pytest.raises(Damaged, match="that of run"):
        adopt_run(here, "a", CONFIGS["a"], run_contents(there, "b"))
    assert here.done() == set()


def test_a_checkpoint_that_arrives_can_be_continued(there, here):
    adopt_checkpoints(folder_of(here), checkpoint_contents(folder_of(there), 5))
    newest = folder_of(here).newest(pytest.fail)
    assert newest and newest.step == 5 and folder_of(here).runs() == CONFIGS
    np.testing.assert_array_equal(newest.arrays["step"], [5, 5])


def test_a_checkpoint_that_was_damaged_on_its_way_leaves_the_one_before(there, here):
    adopt_checkpoints(folder_of(here), checkpoint_contents(folder_of(there), 5))
    folder_of(there).save(7, {"step": np.full(2, 7, np.int32)}, {"runs": CONFIGS})
    whole = checkpoint_contents(folder_of(there), 7)
    for name in whole:
        if name.startswith("checkpoint"):
            with pytest.raises(Damaged):
                adopt_checkpoints(folder_of(here), whole | {name: flipped(whole[name])})
    assert folder_of(here).steps() == [5]
    other = PopulationFolder(here, "0" * 16)
    for part in (whole, {MANIFEST: whole[MANIFEST]}):
        with pytest.raises(Damaged, match="another population"):
            adopt_checkpoints(other, part)


# deliveries


def opened(store: Store, **request: Any) -> tuple[Deliveries, Any, queue.Queue]:
    events: queue.Queue = queue.Queue()
    deliveries = Deliveries(store, events)
    request = {"do": "train", "configs": CONFIGS, "resumes": False} | request
    return deliveries, deliveries.open(WorkerHandle(0), request), events


def test_the_supervisor_hears_of_results_once_they_are_written_and_free(there, here):
    deliveries, delivery, events = opened(here)
    assert here.lock("a") is None and deliveries.take(delivery, done(there))
    worker, facts = events.get(timeout=20)
    assert worker is delivery.worker and here.done() == {"a", "b"}
    records = {name: here.read(name) for name in CONFIGS}
    assert facts == {"event": "done", "ids": ["a", "b"], "busy": [], "records": records}
    lock = here.lock("a")
    assert lock and events.empty()
    lock.release()


def test_what_others_hold_is_not_sent(here):
    lock = Store(here.root).lock("a")
    assert lock
    _, delivery, _ = opened(here)
    assert list(delivery.request["configs"]) == ["b"] and delivery.claim.busy == ["a"]
    deliveries, nothing, events = opened(here, resumes=True)
    assert nothing is None
    assert events.get()[1] == {"event": "done", "ids": [], "busy": ["a", "b"]}
    lock.release()


def test_a_population_continues_from_the_checkpoint_of_the_command(there, here):
    adopt_checkpoints(folder_of(here), checkpoint_contents(folder_of(there), 5))
    _, delivery, _ = opened(here, resumes=True)
    assert {"checkpoint-0000000005.json", "unfinished"} < set(delivery.request["files"])


def test_what_arrives_of_a_run_that_is_done_changes_nothing(there, here):
    deliveries, delivery, events = opened(here)
    adopt_run(here, "a", CONFIGS["a"], run_contents(there, "a"))
    before = (here.run_dir("a") / "result.json").stat().st_mtime_ns
    deliveries.take(delivery, done(there))
    events.get(timeout=20)
    assert (here.run_dir("a") / "result.json").stat().st_mtime_ns == before


def test_a_damaged_arrival_is_a_failure_that_is_tried_again(there, here):
    deliveries, delivery, events = opened(here)
    facts = done(there)
    facts["files"]["b"]["curve.jsonl"] += b"\n"
    deliveries.take(delivery, facts)
    _, facts = events.get(timeout=20)
    assert (facts["event"], facts["status"], facts["again"]) == ("error", "damaged", True)
    assert here.done() == {"a"} and here.lock("b")


def test_one_thread_at_a_time_writes_to_the_folder_of_a_population(there, here, monkeypatch):
    within, most = [], []

    def adopt(folder: PopulationFolder, contents: Any) -> None:
        within.append(1)
        most.append(len(within))
        time.sleep(0.01)
        within.pop()

    monkeypatch.setattr(arriving, "adopt_checkpoints", adopt)
    deliveries, delivery, events = opened(here)
    for _ in range(5):
        deliveries.take(delivery, {"event": "checkpoint", "files": {}})
    deliveries.take(delivery, done(there))
    assert events.get(timeout=20)[1]["event"] == "done" and most == [1] * 6


def test_a_full_disk_ends_the_command(there, here, monkeypatch):
    def full(*_: Any) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(arriving, "adopt_run", full)
    deliveries, delivery, events = opened(here)
    deliveries.take(delivery, done(there))
    worker, facts = events.get(timeout=20)
    supervisor = Supervisor(here, processes=1)
    supervisor.workers = [worker]
    with pytest.raises(StorageError, match="no space"):
        supervisor._take(worker, facts)


def test_a_worker_that_is_killed_leaves_its_runs_free(here):
    deliveries, delivery, events = opened(here)
    deliveries.drop(delivery)
    assert events.empty() and here.lock("a")


# Ray, without Ray


def test_progress_comes_now_and_then_and_all_else_at_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(remote_task, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Events:
        def __init__(self) -> None:
            names = ["chunk"] * 25 + ["", "saved", "chunk", "", "", "done"]
            self.left = [{"event": name, "step": i} for i, name in enumerate(names)]

        def get(self, timeout: float) -> dict[str, Any]:
            event = self.left.pop(0)
            now[0] += 1.0 if event["event"] else timeout
            if not event["event"]:
                raise queue.Empty
            return event

    events: Any = Events()
    told = [(e["event"], e.get("step")) for e in remote_task.thinned(events)]
    chunks = [("chunk", 0), ("chunk", 10), ("chunk", 20), ("chunk", 24)]
    assert told == [*chunks, ("saved", 26), ("chunk", 27), ("alive", None), ("done", 30)]


@pytest.mark.parametrize(
    ("name", "event", "status"),
    [
        ("NodeDiedError", "gone", "lost"),
        ("WorkerCrashedError", "gone", "killed"),
        ("OutOfMemoryError", "error", "memory"),
        ("RuntimeEnvSetupError", "unfit", None),
        ("RayTaskError(ValueError)", "gone", "killed"),
    ],
)
def test_errors_of_ray_are_ends_of_a_line(name, event, status):
    facts = end_of(type(name, (Exception,), {})("\nfirst\nlast"))
    assert (facts["event"], facts.get("status")) == (event, status)
    assert "\n" not in facts["message"]
    assert ("last" in facts["message"]) == name.startswith("RayTaskError")


def engine_of(store: Store) -> RayEngine:
    engine = RayEngine.__new__(RayEngine)
    engine.ray = SimpleNamespace(cancel=lambda stream, force: None)
    engine.events, engine.tasks = queue.Queue(), {}
    engine.lock = raying.threading.Lock()
    engine.deliveries = Deliveries(store, engine.events)
    return engine


def test_a_silent_node_is_lost_one_that_waits_for_a_place_is_not(here, monkeypatch):
    engine = engine_of(here)
    request = {"do": "train", "configs": CONFIGS, "resumes": False}
    delivery = engine.deliveries.open(WorkerHandle(0), request)
    assert delivery
    engine.tasks = {"waits": Task(delivery, 0), "speaks": Task(delivery, 1, heard=30.0)}
    monkeypatch.setattr(raying.time, "monotonic", lambda: 89.0)
    engine._end_silent()
    assert len(engine.tasks) == 2
    engine.tasks["silent"] = Task(delivery, 2, heard=28.0)
    engine._end_silent()
    assert list(engine.tasks) == ["waits", "speaks"]
    _, facts = engine.events.get(timeout=20)
    assert facts["event"] == "gone" and facts["status"] == "lost" and here.lock("a")


def test_nodes_with_other_code_or_versions_train_nothing():
    ours = {"training_version": 3, "versions": {"jax": "1"}}
    ready = {"event": "ready"} | ours
    assert checked(ready, ours, "n1") is ready
    for change, words in (
        ({"training_version": 2}, "node n1 has training version 2, this command 3"),
        ({"versions": {"jax": "2"}}, "node n1 has jax 2, not 1"),
    ):
        facts = checked(ready | change, ours, "n1")
        assert facts["event"] == "unfit" and words in facts["message"]


def test_a_lost_machine_has_retries_of_its_own(here):
    engine: Any = SimpleNamespace(events=queue.Queue(), lost_retries=2, slots=1, is_remote=True)
    supervisor, then = Supervisor(here, engine=engine, retries=1), []
    supervisor.on_event = lambda worker, event, facts: then.extend(
        [facts["then"]] if event == "failed" else []
    )
    population = PlannedPopulation({"a": CONFIGS["a"]})
    for status in ("lost", "killed", "lost", "lost"):
        supervisor._fail(WorkerHandle(0), Failure(population, status, ""))
    assert then == ["tried again"] * 3 + ["given up"]
    engine.kill, lost = lambda worker: None, gone("lost", "was lost")
    for _ in range(5):  # many tasks can begin on a machine that is lost
        supervisor.workers = [WorkerHandle(0, population)]
        supervisor._take(supervisor.workers[0], dict(lost))
    assert then[4:] == ["given up"] * 5


def test_a_command_that_is_cut_off_ends_as_if_it_was_preempted(here):
    supervisor, said = Supervisor(here, processes=1), []
    supervisor.on_event = lambda worker, event, facts: said.append((event, facts["message"]))
    with pytest.raises(Preempted):
        supervisor._take(WorkerHandle(-1), {"event": "cut off", "message": "no head"})
    assert said == [("warning", "no head")]


HOLDER = """
import os
from normlab.launch.engines.cores import stay_on_cores
stay_on_cores(1)
print(sorted(os.sched_getaffinity(0)), flush=True)
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_workers_of_one_machine_stay_on_cores_of_their_own(tmp_path):
    import os

    def start() -> subprocess.Popen[str]:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        env = os.environ | {"TMPDIR": str(tmp_path)}
        return subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, env=env, **pipes)

    cores = sorted(os.sched_getaffinity(0))
    holders = [start() for _ in range(min(2, len(cores)))]
    held = [json.loads(process.stdout.readline()) for process in holders if process.stdout]
    assert sorted(held) == [[core] for core in cores[: len(holders)]]
    for process in holders:
        process.communicate("\n")


# the command line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--launch.slots=3"], "launch.slots = 3 is for --launch=ray|slurm"),
        (["--launch.partition=x"], "launch.partition = 'x' is for --launch=slurm; on this machine"),
        (["--launch=ray", "--launch.setup=x"], "launch.setup = ('x',) is for --launch=slurm, not"),
        (["--launch=slurm", "--launch.address=x:1"], "is for --launch=ray, not for slurm"),
        (["--take_over"], "take_over is for --launch=slurm and for results on a network disk"),
        (["--launch=ray", "--launch.slots=-1"], "launch.slots"),
        (["--launch=ray", "--launch.cpus=0"], "launch.cpus"),
        (["--launch=ray", "--launch.mem_gb=nan"], "launch.mem_gb"),
        (["--launch=ray", "--launch.timeout_min=inf"], "give a finite number"),
        (["--launch=ray", "--launch.code=git"], "ship|installed"),
        (["--launch=ray", "--launch.address=ray://x:1"], "is no HOST:PORT"),
        (["--launch=cloud"], "local|ray|slurm"),
    ],
)
def test_flags_that_mean_nothing_are_refused_in_a_line(tmp_path, flags, words):
    run = run_script("study", "--study=convergence", f"--results={tmp_path}/r", *flags)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert words in run.stderr and not (tmp_path / "r").exists()


def test_without_the_extra_a_line_names_it(tmp_path):
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(name='ray')")
    flags = ["--study=convergence", f"--results={tmp_path}/r", "--launch=ray"]
    run = run_script("study", *flags, PYTHONPATH=str(tmp_path))
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "ray is needed for this; install it with pip install 'normlab[ray]'" in run.stderr
    assert not (tmp_path / "r").exists()


def test_an_address_without_a_cluster_is_refused_in_a_line(tmp_path):
    (tmp_path / "ray.py").write_text("")
    flags = ["--study=convergence", f"--results={tmp_path}/r", "--launch=ray"]
    for address in ("localhost:1", "x:y"):
        own = [f"--launch.address={address}"]
        run = run_script("study", *flags, *own, PYTHONPATH=str(tmp_path))
        assert run.returncode == 2 and run.stderr.count("\n") == 1
        assert f"launch.address = {address!r}: no Ray cluster can be joined" in run.stderr


def test_no_option_lacks_a_flag_and_ray_is_imported_only_where_it_is_asked_for(tmp_path):
    (tmp_path / "ray.py").write_text("raise RuntimeError('imported')")
    run = run_script("study", "--help", PYTHONPATH=str(tmp_path))
    for name in vars(LaunchOptions()):
        assert f"--launch.{name}:" in run.stdout
    workspace = Workspace(tmp_path, 40)
    assert "runs trained" in finish(workspace.start(PYTHONPATH=str(tmp_path)))


def test_a_study_through_ray_gives_the_same_bits(tmp_path):
    pytest.importorskip("ray", reason="needs ray: pip install 'normlab[ray]'")
    found = []
    quiet = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    for name, flags in (("l", []), ("r", ["--launch=ray", "--launch.address=local"])):
        (tmp_path / name).mkdir()
        workspace = Workspace(tmp_path / name, 40)
        out = finish(workspace.start(*flags, **quiet))
        results = workspace.read_results()
        kept = ("status", "final", "curve_sha256", "config")
        own = {run: [facts[key] for key in kept] for run, facts in results.items()}
        found.append((own, out.partition("runs trained in")[2].splitlines()[1:-1]))
        assert all(facts["provenance"]["bit_exact"] for facts in results.values())
        assert all(facts["provenance"]["git_commit"] for facts in results.values())
    assert found[0] == found[1]
