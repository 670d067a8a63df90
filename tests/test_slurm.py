"""Workers as jobs of Slurm, whose commands are replaced: what arrives, what is lost, who directs.

The campaign `slurm` of scripts/stress.py does the same with a real one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sent_runs import CONFIGS, done, folder_of
from workspace import ROOT, Workspace, finish, run_script

from normlab.cli import launch as cli_launch
from normlab.launch import lease as leasing
from normlab.launch.claims import Claim
from normlab.launch.engines import slurm as slurming
from normlab.launch.engines import slurm_jobs, slurm_task, spool
from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.engines.options import LaunchOptions
from normlab.launch.engines.slurm import SlurmEngine
from normlab.launch.engines.slurm_box import Box, end_of
from normlab.launch.lease import Lease
from normlab.runs import files
from normlab.runs.errors import Damaged, InUse, StorageError
from normlab.runs.provenance import host_facts
from normlab.runs.store import Store
from normlab.runs.transfer import adopt_run, checkpoint_contents, run_contents

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs bash and /proc")
TRAIN = {"do": "train", "configs": CONFIGS, "resumes": False, "attempts": []}


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """Commands like those of Slurm on PATH; return the folder of their notes. Jobs are held."""
    root, place = tmp_path / "slurm", tmp_path / "bin"
    (root / "jobs").mkdir(parents=True)
    place.mkdir()
    for name in slurm_jobs.COMMANDS:
        text = f'#!/bin/sh\nexec "{sys.executable}" -S "{ROOT}/tests/fake_slurm.py" {name} "$@"\n'
        (place / name).write_text(text)
        (place / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("FAKE_SLURM", str(root))
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    (root / "hold").touch()
    return root


@pytest.fixture
def engines(here, fake, monkeypatch) -> Iterator[Any]:
    """Make engines, without their threads; all are closed."""
    made: list[SlurmEngine] = []
    monkeypatch.setattr(SlurmEngine, "_begin", lambda engine: None)

    def make(**options: Any) -> SlurmEngine:
        made.append(SlurmEngine(here, LaunchOptions(**options)))
        return made[-1]

    yield make
    monkeypatch.undo()
    for engine in made:
        for worker in list(engine.boxes):
            engine.kill(worker)
        engine.close()


def calls(fake: Path, program: str) -> list[list[str]]:
    lines = [json.loads(line) for line in (fake / "calls").read_text().splitlines()]
    return [line for line in lines if line[0] == program and "--test-only" not in line]


def sent(engine: SlurmEngine) -> tuple[WorkerHandle, Path]:
    """Send the runs to a worker whose job is submitted; return its folder too."""
    engine.adopt()
    worker = WorkerHandle(0)
    engine.send(worker, TRAIN)
    engine._submit()
    return worker, engine._folder(engine.boxes[worker])


def say(folder: Path, number: int, facts: dict[str, Any], request: int = 1) -> None:
    spool.write(spool.event_path(folder, request, number), facts)


def taken(engine: SlurmEngine) -> None:
    """Wait until all that was taken is written, and remove it."""
    end = time.monotonic() + 20
    while any(delivery.writes for delivery, _, _ in engine.used) and time.monotonic() < end:
        time.sleep(0.01)
    engine._remove_used()


def ready() -> dict[str, Any]:
    return {"event": "ready", "node": "n1"} | host_facts()


def look(engine: SlurmEngine, fake: Path, state: str) -> None:
    """Let all jobs have a state, and look at them twice."""
    for path in (fake / "jobs").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": state}))
    engine._note_states()
    engine._note_states()


# files


def test_contents_and_facts_arrive_and_a_single_bit_is_noticed(tmp_path):
    facts = {"event": "x", "lr": 0.1, "files": {"a": {"b": bytes(range(256)), "c": b""}}}
    content = spool.pack(facts)
    assert spool.unpack(content) == facts
    for place in range(0, len(content), 37):
        broken = bytearray(content)
        broken[place] ^= 1
        with pytest.raises(Damaged, match="sha256 mismatch"):
            spool.unpack(bytes(broken), tmp_path)
    with pytest.raises(TypeError, match="cannot be sent"):
        spool.pack({"a": object()})


# requests and events


def test_the_workers_of_one_moment_are_one_array(engines, fake, here):
    options = {"partition": "long", "account": "a b", "constraint": "x&y", "setup": ("one", "two")}
    options |= {"gpus": 2, "mem_gb": 1.5, "cpus": 3, "timeout_min": 30, "array_parallelism": 7}
    engine = engines(**options)
    engine.adopt()
    for name in CONFIGS:
        engine.send(WorkerHandle(0), TRAIN | {"configs": {name: CONFIGS[name]}})
    engine._submit()
    engine._submit()
    (call,) = calls(fake, "sbatch")
    asked = "partition=long account=a_b constraint=x&y gres=gpu:2 mem=1536M cpus-per-task=3 time=30"
    for flag in [*asked.split(), "array=0-1%7", "no-requeue", "signal=B:TERM@60"]:
        assert f"--{flag.replace('a_b', 'a b')}" in call
    lines = call[-1].splitlines()
    assert lines[:3] == ["#!/bin/bash", "one", "two"] and lines[-1].startswith("exec ")
    code = Path(lines[3].partition("=")[2].partition('"')[0])
    assert (code / "normlab" / "version.py").exists() and code.is_relative_to(here.root)
    requests = sorted(here.root.glob("spool/normlab-*/*/in-0001"))
    assert [list(spool.read(path)["request"]["configs"]) for path in requests] == [["a"], ["b"]]


def test_results_are_written_once_and_then_nothing_is_left_of_them(engines, there, here, fake):
    engine = engines()
    worker, folder = sent(engine)
    say(folder, 1, ready())
    say(folder, 2, {"event": "checkpoint", "files": checkpoint_contents(folder_of(there), 5)})
    with engine.boxes[worker].delivery.folder:  # so that nothing can be written
        engine._take_from(engine.boxes[worker])
        engine._remove_used()
    assert len(spool.names_in(folder)) == 4
    assert engine.events.get(timeout=20)[1]["event"] == "ready"
    assert here.lock("a") is None
    taken(engine)
    left = {"in-0001", "out-0001-000002", "stop"}
    assert spool.names_in(folder) == left and folder_of(here).steps() == [5]
    say(folder, 4, {"event": "alive"})  # the third is not there yet
    engine._take_from(engine.boxes[worker])
    assert engine.boxes[worker].events == 2
    say(folder, 3, done(there))
    engine._take_from(engine.boxes[worker])
    assert engine.events.get(timeout=20)[1]["ids"] == ["a", "b"] and here.done() == {"a", "b"}
    engine._remove_used()
    assert spool.names_in(folder) == {"out-0001-000004", "stop"}
    lock = here.lock("a")
    assert lock
    lock.release()


def test_a_worker_gets_its_next_request_without_another_job(engines, there, here, fake):
    engine = engines()
    worker, folder = sent(engine)
    say(folder, 1, ready())
    say(folder, 2, done(there) | {"ids": [], "files": {}})
    engine._take_from(engine.boxes[worker])
    while engine.events.get(timeout=20)[1]["event"] != "done":
        pass
    engine.send(worker, TRAIN)
    engine._submit()
    assert spool.request_path(folder, 2).exists() and len(calls(fake, "sbatch")) == 1


def test_late_files_of_a_worker_that_was_replaced_are_ignored(engines, there, here, fake):
    engine = engines()
    worker, folder = sent(engine)
    delivery = engine.boxes[worker].delivery
    engine.kill(worker)
    assert delivery and delivery.free.is_set()
    assert calls(fake, "scancel") == [["scancel", "--quiet", "1_0", ""]] and not folder.exists()
    with pytest.raises(StorageError):
        say(folder, 1, done(there))
    assert not engine.boxes and here.done() == set() and here.lock("a")


def test_what_a_worker_sends_damaged_is_an_attempt_and_its_runs_are_free(engines, here, fake):
    engine = engines()
    worker, folder = sent(engine)
    spool.event_path(folder, 1, 1).write_bytes(b"0" * 64 + b"\n{}\n")
    engine._take_from(engine.boxes[worker])
    facts = engine.events.get(timeout=20)[1]
    assert (facts["event"], facts["status"]) == ("gone", "killed")
    assert "sha256 mismatch" in facts["message"] and here.lock("a")


# ends


@pytest.mark.parametrize(
    ("state", "event", "status", "words"),
    [
        ("FAILED", "gone", "killed", "job 1_0 is FAILED, NonZeroExitCode, the last line"),
        ("CANCELLED", "gone", "lost", "job 1_0 was cancelled"),
        ("NODE_FAIL", "gone", "lost", "has the state NODE_FAIL"),
        ("UNKNOWN", "gone", "lost", "has the state UNKNOWN"),
        ("PREEMPTED", "gone", "lost", ""),
        ("TIMEOUT", "gone", "killed", "time limit"),
        ("OUT_OF_MEMORY", "error", "memory", "--launch.mem_gb"),
    ],
)
def test_a_job_that_has_ended_is_an_end_of_a_line(engines, fake, here, state, event, status, words):
    engine = engines()
    worker, folder = sent(engine)
    folder.with_suffix(".log").write_text("first\nthe last line\n")
    look(engine, fake, "RUNNING")
    assert engine.events.empty()
    look(engine, fake, state)
    _, facts = engine.events.get(timeout=20)
    assert (facts["event"], facts["status"]) == (event, status) and here.lock("a")
    assert (words in facts["message"]) if words else facts["message"] == ""


def test_what_a_worker_wrote_before_its_job_ended_counts(engines, there, here, fake):
    engine = engines()
    worker, folder = sent(engine)
    say(folder, 1, done(there))
    look(engine, fake, "NODE_FAIL")
    assert engine.events.get(timeout=20)[1]["event"] == "done" and here.done() == {"a", "b"}
    assert engine.boxes[worker].is_over
    for name in CONFIGS:
        shutil.rmtree(here.run_dir(name))
    engine.send(worker, TRAIN)
    engine._submit()  # its next request is for a new job
    assert len(calls(fake, "sbatch")) == 2 and not folder.exists()


@pytest.mark.parametrize(
    ("state", "words"), [("COMPLETED", ""), ("PREEMPTED", ""), ("CANCELLED", "was cancelled")]
)
def test_a_worker_that_saves_and_leaves_has_not_failed(engines, fake, state, words):
    engine = engines()
    worker, folder = sent(engine)
    say(folder, 1, ready())
    say(folder, 2, {"event": "gone", "message": ""})
    engine._take_from(engine.boxes[worker])
    assert engine.events.get(timeout=20)[1]["event"] == "ready" and engine.events.empty()
    look(engine, fake, state)
    message = engine.events.get(timeout=20)[1]["message"]
    assert words in message and bool(words) == bool(message)


def test_a_job_that_ends_at_once_is_no_end_without_reason():
    facts = end_of(Box(WorkerHandle(0), "normlab-x", job_id="1_0", state="COMPLETED"), "")
    assert "on a disk of all nodes?" in facts["message"]


def test_a_silent_worker_is_lost_one_that_waits_for_a_job_is_not(engines, here, fake, monkeypatch):
    engine = engines()
    worker, folder = sent(engine)
    box = engine.boxes[worker]
    now = time.monotonic()
    monkeypatch.setattr(slurming.time, "monotonic", lambda: now + 10_000)
    engine._end_silent(box)
    say(folder, 1, ready())
    engine._take_from(box)
    monkeypatch.setattr(slurming.time, "monotonic", lambda: now + 10_059)
    engine._end_silent(box)
    assert engine.events.get(timeout=20)[1]["event"] == "ready" and engine.events.empty()
    monkeypatch.setattr(slurming.time, "monotonic", lambda: now + 10_061)
    engine._end_silent(box)
    _, facts = engine.events.get(timeout=20)
    assert facts["status"] == "lost" and "60 s" in facts["message"] and here.lock("a")


def test_a_job_that_runs_and_is_never_ready_is_lost(engines, fake, monkeypatch):
    engine = engines()
    worker, _ = sent(engine)
    look(engine, fake, "RUNNING")
    now = time.monotonic()
    monkeypatch.setattr(slurming.time, "monotonic", lambda: now + 301)
    engine._end_silent(engine.boxes[worker])
    assert "not ready 300 s" in engine.events.get(timeout=20)[1]["message"]


def test_a_worker_is_asked_to_leave_by_a_file_and_one_that_waits_is_left_behind(engines, fake):
    engine = engines()
    worker, folder = sent(engine)
    engine.stop(worker)
    assert engine.events.get(timeout=20)[1] == {"event": "gone", "status": "killed", "message": ""}
    engine.kill(worker)
    worker, folder = sent(engine)
    say(folder, 1, ready())
    engine._take_from(engine.boxes[worker])
    assert not spool.is_asked_to_stop(folder)
    engine.stop(worker)
    assert spool.is_asked_to_stop(folder) and spool.is_asked_to_stop(folder / "none")
    say(folder, 2, {"event": "gone", "message": ""})
    engine._take_from(engine.boxes[worker])
    events = [engine.events.get(timeout=20)[1]["event"] for _ in range(2)]
    assert events == ["ready", "gone"]


def test_while_slurm_takes_no_jobs_it_is_tried_again_then_the_command_ends(
    engines, fake, monkeypatch
):
    engine = engines()
    (fake / "refuse").write_text("too many jobs")
    engine.adopt()
    engine.send(WorkerHandle(0), TRAIN)
    ticks = iter(range(0, 400))
    monkeypatch.setattr(slurming.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(engine.is_closed, "wait", lambda seconds: False)
    engine._look()
    said = [engine.events.get(timeout=20)[1] for _ in range(engine.events.qsize())]
    assert {facts["event"] for facts in said[:-1]} == {"warning"} and 20 < len(said) < 40
    assert said[-1] == {"event": "cut off", "message": "Slurm takes no jobs: too many jobs"}
    (fake / "refuse").unlink()
    engine._submit()
    (box,) = engine.boxes.values()
    assert box.job_id == "1_0" and spool.request_path(engine._folder(box), 1).exists()


# a command that was killed


def killed(engine: SlurmEngine, here: Store) -> None:
    """Let a command be gone: its locks are free, and its files stay."""
    for box in engine.boxes.values():
        if box.delivery:
            engine.deliveries.drop(box.delivery)
    engine.boxes.clear()
    (here.root / leasing.NAME).unlink()


def test_the_next_command_takes_over_a_worker_that_trains(engines, there, here, fake):
    first = engines()
    old, folder = sent(first)
    say(folder, 1, ready())
    say(folder, 2, {"event": "checkpoint", "files": checkpoint_contents(folder_of(there), 5)})
    first._take_from(first.boxes[old])
    taken(first)
    assert spool.names_in(folder) == {"in-0001", "out-0001-000002", "stop"}
    killed(first, here)
    engine = engines()
    (worker,) = engine.adopt()
    assert worker.population and worker.population.configs == CONFIGS and worker.is_ready
    assert here.lock("a") is None
    box = engine.boxes[worker]
    say(folder, 3, done(there))
    engine._take_from(box)
    assert engine.events.get(timeout=20)[1]["event"] == "done" and here.done() == {"a", "b"}
    assert not calls(fake, "scancel") and len(calls(fake, "sbatch")) == 1
    engine.send(worker, TRAIN | {"configs": {"a": CONFIGS["a"] | {"seed": 5}}})
    assert not spool.request_path(folder, 2).exists()  # run a is done
    engine.send(worker, TRAIN | {"configs": {"c": CONFIGS["a"] | {"seed": 5}}})
    engine._submit()  # the code of the first command may not be that of this one
    assert len(calls(fake, "sbatch")) == 2 and not folder.exists()
    assert spool.request_path(engine._folder(engine.boxes[worker]), 1).exists()


def test_the_next_command_writes_what_was_left_and_no_run_twice(engines, there, here, fake):
    first = engines()
    _, folder = sent(first)
    say(folder, 1, done(there))
    killed(first, here)
    adopt_run(here, "a", CONFIGS["a"], run_contents(there, "a"))
    before = (here.run_dir("a") / "result.json").stat().st_mtime_ns
    engine = engines()
    (worker,) = engine.adopt()
    engine._take_from(engine.boxes[worker])
    assert engine.events.get(timeout=20)[1]["busy"] == [] and here.done() == {"a", "b"}
    assert (here.run_dir("a") / "result.json").stat().st_mtime_ns == before


def test_a_worker_whose_runs_are_done_or_with_others_is_not_taken_over(
    engines, there, here, fake, monkeypatch
):
    released, release = [], Claim.release
    monkeypatch.setattr(Claim, "release", lambda claim: (released.append(claim), release(claim)))
    for others in (True, False):
        first = engines()
        _, folder = sent(first)
        killed(first, here)
        lock = here.lock("b") if others else None
        for name in () if others else CONFIGS:
            adopt_run(here, name, CONFIGS[name], run_contents(there, name))
        released.clear()
        assert engines().adopt() == [] and not folder.exists() and len(released) == 1
        if lock:
            lock.release()
        (here.root / leasing.NAME).unlink()
    lock = here.lock("a")
    assert lock
    lock.release()


def test_the_end_of_a_command_leaves_no_file_and_no_job(engines, here, fake):
    engine = engines()
    worker, _ = sent(engine)
    engine.kill(worker)
    engine.close()
    assert not (here.root / spool.FOLDER).exists() and not (here.root / leasing.NAME).exists()


# who directs


def holder(here: Store, host: str, process: int, age: float) -> None:
    path = here.root / leasing.NAME
    files.write_json(path, {"host": host, "process": process, "since": "now"})
    os.utime(path, (time.time() - age, time.time() - age))


def test_one_command_directs_the_workers_of_a_results_directory(here):
    holder(here, "elsewhere", 17, 12)
    with pytest.raises(InUse, match=r"on elsewhere \(process 17, last sign of life 1[23] s ago\)"):
        Lease(here.root).take()
    holder(here, socket.gethostname(), 1, 12)
    with pytest.raises(InUse):
        Lease(here.root).take()
    assert files.read_json(here.root / leasing.NAME)["process"] == 1
    assert [path.name for path in here.root.glob(".driver*")] == []


@pytest.mark.parametrize(
    ("host", "process", "age", "takes_over"),
    [
        ("elsewhere", 17, 61, False),
        ("elsewhere", 17, 1, True),
        ("", 2**22 + 1, 1, False),
        ("", 0, 1, False),
    ],
)
def test_a_command_takes_over_from_one_that_is_gone(here, host, process, age, takes_over):
    """Process 0 is this one. Both processes of the suite have to find the same tests."""
    holder(here, host or socket.gethostname(), process or os.getpid(), age)
    lease = Lease(here.root, takes_over)
    lease.take()
    assert files.read_json(here.root / leasing.NAME)["process"] == os.getpid()
    lease.release()
    assert not (here.root / leasing.NAME).exists()


def test_a_command_notices_that_another_has_taken_over(here, monkeypatch):
    lease = Lease(here.root)
    lease.take()
    old = time.time() - 50
    os.utime(here.root / leasing.NAME, (old, old))
    monkeypatch.setattr(leasing, "RENEW_S", 0.0)
    assert lease.renew() and (here.root / leasing.NAME).stat().st_mtime > old + 40
    holder(here, "elsewhere", 17, 0)
    assert not lease.renew()
    lease.release()
    assert (here.root / leasing.NAME).exists()


def test_a_command_that_was_replaced_leaves_the_workers_alone(engines, here, fake, monkeypatch):
    engine = engines()
    worker, folder = sent(engine)
    say(folder, 1, ready())
    holder(here, "elsewhere", 17, 0)
    monkeypatch.setattr(leasing, "RENEW_S", 0.0)
    engine._listen()
    assert engine.events.get(timeout=20)[1]["event"] == "cut off" and engine.events.empty()
    engine.boxes[worker].heard = 1.0
    engine.stop(worker)
    engine.kill(worker)
    engine.close()
    assert not calls(fake, "scancel") and not spool.is_asked_to_stop(folder)
    assert spool.names_in(folder) == {"in-0001", "out-0001-000001", "stop"} and here.lock("a")
    assert files.read_json(here.root / leasing.NAME)["host"] == "elsewhere"


def test_on_a_network_disk_one_command_works_at_a_time(here, monkeypatch):
    heard = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
    monkeypatch.setattr(leasing, "LOOK_S", 0.02)
    monkeypatch.setattr(leasing, "RENEW_S", 0.0)
    try:
        with leasing.held(here.root, False):
            time.sleep(0.1)
            assert not heard.is_set()
            holder(here, "elsewhere", 17, 0)
            assert heard.wait(20)
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(InUse, match="on elsewhere"), leasing.held(here.root, False):
        pytest.fail("it was held")


@pytest.mark.parametrize(
    ("kind", "launch"), [("nfs4", "local"), (None, "local"), ("nfs4", "slurm")]
)
def test_the_command_holds_results_on_a_network_disk(here, monkeypatch, kind, launch):
    monkeypatch.setattr(cli_launch, "network_file_system", lambda root: kind)
    monkeypatch.setattr(cli_launch, "FLAGS", SimpleNamespace(launch=launch, take_over=False))
    with cli_launch.one_command(here):
        there = (here.root / leasing.NAME).exists()
    assert there == (kind == "nfs4" and launch == "local")
    assert not (here.root / leasing.NAME).exists()


# the worker


def test_a_worker_leaves_without_work_or_when_its_folder_is_gone(tmp_path, monkeypatch):
    never = slurm_task.threading.Event()
    slurm_task.serve(tmp_path / "none", never)
    spool.make_box(tmp_path / "0")
    monkeypatch.setattr(slurm_task, "IDLE_S", 0.3)
    slurm_task.serve(tmp_path / "0", never)
    monkeypatch.setattr(slurm_task, "IDLE_S", 1000.0)
    spool.ask_to_stop(tmp_path / "0")
    slurm_task.serve(tmp_path / "0", never)


# the command line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--launch.timeout_min=2"], "launch.timeout_min = 2 is too short"),
        (["--launch.partition=a\nb"], "is no name in Slurm"),
        (["--launch.array_parallelism=-1"], "launch.array_parallelism"),
    ],
)
def test_options_that_slurm_cannot_take_are_refused_in_a_line(tmp_path, fake, flags, words):
    common = ["--study=convergence", f"--results={tmp_path}/r", "--launch=slurm"]
    run = run_script("study", *common, *flags)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert words in run.stderr and not (tmp_path / "r").exists()


def test_what_slurm_refuses_is_refused_in_a_line(tmp_path, fake):
    (fake / "refuse").write_text("invalid partition specified: x")
    common = ["--study=convergence", f"--results={tmp_path}/r", "--launch=slurm"]
    run = run_script("study", *common, "--launch.partition=x")
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert (
        "--launch.partition=x --launch.cpus=1: " in run.stderr
        and "invalid partition specified: x" in run.stderr
    )
    assert not (tmp_path / "r").exists()


def test_a_machine_without_slurm_is_refused_in_a_line(tmp_path):
    common = ["--study=convergence", f"--results={tmp_path}/r", "--launch=slurm"]
    run = run_script("study", *common, PATH=str(tmp_path))
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "needs sbatch, squeue, scancel, sinfo" in run.stderr


def test_the_size_of_a_job_does_not_come_from_the_job_of_the_command(fake, monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    assert slurm_jobs.is_of_this_job("SLURM_MEM_PER_CPU")
    assert not slurm_jobs.is_of_this_job("SLURM_CONF")
    monkeypatch.setenv("PATH", f"{fake}{os.pathsep}{os.environ['PATH']}")
    (fake / "sbatch").write_text('#!/bin/sh\necho "[$SLURM_MEM_PER_CPU$JAX_ENABLE_X64]"\n')
    (fake / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert slurm_jobs.call("sbatch") == "[]\n"


def test_the_room_of_a_cluster_is_its_cores_that_are_there(fake):
    assert slurm_jobs.room(LaunchOptions()) == 4 and slurm_jobs.room(LaunchOptions(cpus=3)) == 1


def test_a_study_through_slurm_gives_the_same_bits(tmp_path, fake):
    (fake / "hold").unlink()
    found = []
    for name, flags in (("l", []), ("s", ["--launch=slurm", "--launch.slots=2"])):
        (tmp_path / name).mkdir()
        workspace = Workspace(tmp_path / name, 40)
        out = finish(workspace.start(*flags))
        results = workspace.read_results()
        kept = ("status", "final", "curve_sha256", "config")
        own = {run: [facts[key] for key in kept] for run, facts in results.items()}
        found.append((own, out.partition("runs trained in")[2].splitlines()[1:-1]))
        assert all(facts["provenance"]["bit_exact"] for facts in results.values())
    assert found[0] == found[1]
    assert not (workspace.results / spool.FOLDER).exists()
    pids = [json.loads(path.read_text())["pid"] for path in (fake / "jobs").iterdir()]
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids)


def test_a_command_that_is_killed_leaves_its_jobs_to_the_next(tmp_path, fake):
    (fake / "hold").unlink()
    workspace = Workspace(tmp_path, 5_000)
    flags = ["--launch=slurm", "--launch.slots=1", "--config.train.checkpoint_seconds=0"]
    first = workspace.start(*flags)
    box = f"spool/{slurm_jobs.PREFIX}*/0/out-*"
    while not any(workspace.results.glob(box)):
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(workspace.start(*flags))
    assert len(workspace.done()) == 12
    assert len(list((fake / "jobs").iterdir())) == 2  # the one that was there, and one for the rest
    assert not calls(fake, "scancel") or shutil.which("scancel")
