"""What a study survives: signals, crashes, hangs, too little memory, damage, drift."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from workspace import (
    LONG,
    RUNS,
    SHORT,
    Workspace,
    finish,
    needs_proc,
    start_script,
    wait_for_checkpoint,
    workers_of,
)

from normlab.runs import files
from normlab.runs.checkpoints import unfinished
from normlab.runs.store import Store

OFTEN = "--config.train.checkpoint_seconds=0.2"
ONE = ["--config=configs/digits_mlp.py", "--config.data.name=synthetic", OFTEN]
ONE += [f"--config.train.steps={LONG}"]
IN_WORKER = """
import os, sys, time
if "normlab.launch.worker" in sys.orig_argv:
    import jax
    from normlab.training import population
    train = population.Population.train
"""
"""Runs at the start of every Python process; what follows it is the fault of a worker."""
FAULTS = {
    "memory": """
    def broken(self, *rest):
        if self.width > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return train(self, *rest)
    population.Population.train = broken
""",
    "error": """
    def broken(self, *rest):
        if self.config["norm.name"] == "batch":
            raise ValueError("planted")
        return train(self, *rest)
    population.Population.train = broken
""",
    "hang": """
    def broken(self, *rest):
        try:
            os.mkdir(os.environ["ONCE"])
        except FileExistsError:
            return train(self, *rest)
        time.sleep(1e6)
    population.Population.train = broken
""",
    "hang always": """
    def broken(self, *rest):
        open(os.environ["ONCE"], "w")
        time.sleep(1e6)
    population.Population.train = broken
""",
    "other data": """
    from dataclasses import replace
    from normlab.training import batches
    load = batches.load
    batches.load = lambda *rest: replace(load(*rest), sha256="0" * 64)
""",
}


def environment(folder: Path, fault: str) -> dict[str, str]:
    """The environment in which workers have a fault."""
    (folder / "sitecustomize.py").write_text(IN_WORKER + FAULTS[fault])
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "ONCE": str(folder / "once")}


def train_one(results: Path, *flags: str, **more: str) -> subprocess.Popen[str]:
    return start_script("train", f"--results={results}", *ONE, *flags, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """The results of a study that nothing interrupts."""
    workspace = Workspace(tmp_path_factory.mktemp("whole"), LONG)
    finish(workspace.start(OFTEN))
    assert (
        not list(workspace.results.glob("populations/*/checkpoint*"))
        and len(workspace.done()) == RUNS
    )
    assert all(r["provenance"]["checkpoint_seconds"] > 0 for r in workspace.read_results().values())
    return workspace.read_results()


def assert_equal_bits(found: dict[str, dict[str, Any]], whole: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == whole.keys()
    for name, result in found.items():
        for part in ("final", "curve_sha256", "status", "diverged_at"):
            assert result[part] == whole[name][part]
        assert result["provenance"]["bit_exact"]


@needs_proc
def test_a_signal_saves_and_the_same_command_continues(tmp_path, whole):
    workspace = Workspace(tmp_path, LONG)
    process = workspace.start()  # no checkpoint but the one upon the signal
    workspace.wait_for_training(process)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 10, out + err
    assert "Traceback" not in err
    command = err.strip().partition("interrupted; the same command continues: ")[2]
    assert isinstance(process.args, list) and shlex.split(command)[1:] == process.args[1:]
    assert re.search(r"^saving \.\.\.\n(.*\n)*.*saved at step", out, re.M)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    step = out.split("saved at step ")[1].split()[0]
    assert f"continued from step {step}" in finish(workspace.start())
    assert_equal_bits(workspace.read_results(), whole)
    assert any(r["provenance"]["restarts"] for r in workspace.read_results().values())


@needs_proc
def test_what_was_killed_goes_on_from_its_last_checkpoint(tmp_path, whole):
    workspace = Workspace(tmp_path, LONG)
    process = workspace.start(OFTEN)
    wait_for_checkpoint(workspace.results, process)
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)
    out = finish(process)
    assert "continued from step" in out
    assert_equal_bits(workspace.read_results(), whole)
    attempts = [r["provenance"]["attempts"] for r in workspace.read_results().values()]
    (told,) = {json.dumps(a[0]["status"]) for a in attempts if a}
    assert told == '"killed"'


@needs_proc
def test_workers_whose_supervisor_is_killed_save(tmp_path, whole):
    workspace = Workspace(tmp_path, LONG)
    process = workspace.start()
    workspace.wait_for_training(process)
    workers = workers_of(process)
    process.kill()
    process.communicate()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)
    assert list(unfinished(workspace.store))
    assert "continued from step" in finish(workspace.start())
    assert_equal_bits(workspace.read_results(), whole)


def test_a_second_signal_leaves_at_once(tmp_path):
    workspace = Workspace(tmp_path, SHORT)
    process = workspace.start(**environment(tmp_path, "hang always"))
    while not (tmp_path / "once").exists():
        time.sleep(0.05)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):  # as launchers do
        process.send_signal(number)
        time.sleep(0.1)
    time.sleep(1)
    assert process.poll() is None  # it waits for the chunk
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    out, _ = process.communicate(timeout=30)
    assert out.splitlines()[-1] == "saving ..."  # said while it waited
    assert process.returncode == 75 and time.monotonic() - began < 3


def test_too_little_memory_halves_the_width_and_the_record_says_so(tmp_path):
    workspace = Workspace(tmp_path, SHORT)
    finish(
        workspace.start("--config.host.width=4", "--retries=0", **environment(tmp_path, "memory"))
    )
    assert len(workspace.done()) == RUNS
    for result in workspace.read_results().values():
        told = result["provenance"]
        widths = [(a["status"], a["width"]) for a in told["attempts"]]
        assert told["width"] == 2 and told["members"] <= 2
        assert widths == [("memory", 4)]


def test_an_error_ends_its_population_alone_and_is_not_tried_again(tmp_path):
    workspace = Workspace(tmp_path, SHORT)
    told = finish(workspace.start("--retries=3", **environment(tmp_path, "error")), 70)
    assert "could not be finished" in told and "failure.json" in told
    assert 0 < len(workspace.done()) < RUNS
    failures = [files.read_json(p) for p in workspace.results.glob("runs/*/failure.json")]
    assert len(failures) == len(workspace.done()) == 4  # reporting waits for what tuning chooses
    for failure in failures:
        (attempt,) = failure["attempts"]
        assert attempt["status"] == "error" and "planted" in attempt["message"]
        assert any("in broken" in line for line in attempt["tail"])
    (tmp_path / "sitecustomize.py").unlink()
    finish(workspace.start())
    assert len(workspace.done()) == RUNS and not list(workspace.results.glob("runs/*/failure.json"))


def test_a_worker_that_says_nothing_is_replaced(tmp_path):
    workspace = Workspace(tmp_path, SHORT)
    faults = environment(tmp_path, "hang")
    finish(workspace.start("--config.host.time_limit=12", **faults))
    assert len(workspace.done()) == RUNS
    attempts = [r["provenance"]["attempts"] for r in workspace.read_results().values()]
    assert {a["status"] for told in attempts for a in told} == {"timeout"}


@needs_proc
def test_a_stopped_run_is_continued_refused_or_begun_again(tmp_path):
    """In use, other data, damaged checkpoints, other flags of XLA: each has its exit code."""
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    process = train_one(whole)
    wait_for_checkpoint(whole, process)
    for pid in (*workers_of(process), process.pid):  # as a scheduler does to a group
        os.kill(pid, signal.SIGUSR1)
    assert "preempted" in finish(process, 75)
    (name,) = (path.name for path in (whole / "runs").iterdir())
    shutil.copytree(whole, damaged)

    lock = Store(whole).lock(name)
    assert lock is not None
    assert "error[in-use]" in finish(train_one(whole), 6)
    lock.release()
    line = finish(train_one(whole, **environment(tmp_path, "other data")), 4)
    assert "error[drift]" in line and "restore the data" in line and "--restart" in line
    out = finish(train_one(whole, XLA_FLAGS="--xla_cpu_enable_fast_math=false"))
    assert "xla_flags changed since the start" in out
    provenance = files.read_json(whole / "runs" / name / "result.json")["provenance"]
    assert provenance["bit_exact"] is False
    assert list(provenance["restarts"][0]["changed"]) == ["xla_flags"]

    for path in damaged.glob("populations/*/checkpoint-*.json"):
        path.write_bytes(path.read_bytes().replace(b"step", b"stop", 1))
    for _ in range(2):
        line = finish(train_one(damaged), 5)
        assert "error[no-checkpoint]" in line and "--restart" in line
    assert not Store(damaged).is_done(name)
    finish(train_one(damaged, "--restart"))
    assert Store(damaged).is_done(name)
    assert list(damaged.glob("populations/*.aside/*.corrupt"))  # nothing was deleted
