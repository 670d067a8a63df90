"""The surroundings of a command: variables, encodings, signals, pauses, files in its folder."""

from __future__ import annotations

import math
import os
import queue
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from workspace import ROOT

from normlab import cli
from normlab.data import DataUnavailable
from normlab.data.prepared import data_root
from normlab.launch import devices, surroundings
from normlab.launch import supervisor as supervision
from normlab.launch.batching import PlannedPopulation
from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.json_lines import receive, send, start_worker
from normlab.launch.supervisor import STARTS, Supervisor
from normlab.lookup import local_path
from normlab.runs.errors import ConfigError, NoWorker
from normlab.runs.store import Store
from normlab.settings import defaults

WORKER = """
print("a plug-in prints before the protocol begins")
from normlab.launch.json_lines import answer, open_worker, receive
options, requests, answers = open_worker()
for request in receive(requests):
    print("a norm prints \\u00d7")
    answer(answers, {"got": request["n"], "given": options["given"]})
"""


def test_foreign_output_is_shown_and_does_not_reach_the_answers(tmp_path, monkeypatch):
    """Nor does a file of the working directory that is named like a module."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('imported from here')")
    (tmp_path / "there" / "sitecustomize.py").write_text("print('a site hook prints')")
    (tmp_path / "there" / "echo.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path / "here")
    environment = {"PYTHONPATH": f"{os.pathsep}{tmp_path / 'there'}", "PYTHONIOENCODING": "ascii"}
    environment["PYTHONUNBUFFERED"] = ""
    log = tmp_path / "log"
    with start_worker("echo", {"given": 1}, environment=environment, log=log) as process:
        for n in range(2):
            send(process, {"n": n})
        answers = receive(process.stdout)
        assert [next(answers) for _ in range(2)] == [{"got": n, "given": 1} for n in range(2)]
        printed = log.read_text().splitlines()
    assert printed[:2] == ["a site hook prints", "a plug-in prints before the protocol begins"]
    assert printed[2:] == ["a norm prints x"] * 2


def test_settings_of_jax_and_matplotlib_that_change_results_are_left_out(monkeypatch):
    kept = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": "x", "XLA_FLAGS": "y"}
    changing = ("JAX_DEBUG_NANS", "JAX_DEFAULT_PRNG_IMPL", "JAX_ENABLE_X64", "JAX_TRANSFER_GUARD")
    found = {**kept, **dict.fromkeys(changing, "1"), "MPLBACKEND": "module://mine"}
    monkeypatch.setattr(surroundings.os, "environ", found)
    monkeypatch.setattr(surroundings, "print_anything", lambda: None)
    assert surroundings.prepare_process() == [*changing]
    assert found == kept | {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}


def test_every_character_of_the_texts_has_another_in_ascii():
    surroundings.print_anything()
    for path in [*(ROOT / "normlab").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]:
        for letter in set(re.findall(r"[^\x00-\x7f]", path.read_text("utf-8"))):
            assert "?" not in letter.encode("ascii", "normlab.plain").decode(), (path, letter)
    assert "3 × 10⁻⁵ ≥ é".encode("latin-1", "normlab.plain").decode("latin-1") == "3 × 10-5 >= é"
    assert "\udcff".encode("utf-8", "normlab.plain") == b"?"


def test_a_scheduler_may_end_a_command_with_several_signals():
    heard: list[int] = []
    ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    before = {name: signal.getsignal(getattr(signal, name)) for name in surroundings.STOPS}
    try:
        surroundings.heed(lambda number, _: heard.append(number))
        for number in (signal.SIGUSR1, signal.SIGXCPU, signal.SIGHUP, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert heard == [signal.SIGUSR1, signal.SIGXCPU, signal.SIGHUP]
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
        signal.signal(signal.SIGUSR2, ignored)


def test_output_that_nobody_reads_is_one_line():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(ROOT / "scripts" / "list.py"), "settings"]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert run.returncode == 75 and len(run.stderr.splitlines()) == 1
    assert "nobody reads the output; to continue: " in run.stderr


def test_scripts_run_from_any_folder_without_installation(tmp_path):
    """Whatever the files there are named."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported from here')")
    command = [sys.executable, str(ROOT / "scripts" / "list.py"), "configs"]
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0 and "digits_mlp" in run.stdout, run.stderr
    for script in (ROOT / "scripts").glob("*.py"):
        before, line, _ = script.read_text().partition("sys.path.insert(0, str(Path(__file__)")
        assert line and "import cli" not in before, script


# paths


@pytest.mark.parametrize(
    ("path", "words"),
    [("gs://b/x", "is an address"), ("~nobody-here/x", "no such home"), ("", "an empty path")],
)
def test_paths_are_of_this_machine(path, words, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/x") == "/home/me/x" and local_path("a/~b") == "a/~b"
    with pytest.raises(ValueError, match=words):
        local_path(path)
    if path:
        monkeypatch.setenv("TFDS_DATA_DIR", path)
        with pytest.raises(DataUnavailable, match=f"{words}.*--data_dir=DIR"):
            data_root()


def test_every_flag_that_is_a_path_is_read_as_one():
    plain = re.compile(r"DEFINE_(?:string|list)\((.*?)\)\n", re.S)
    for file in (*(ROOT / "scripts").glob("*.py"), *(ROOT / "normlab" / "cli").glob("*.py")):
        for definition in plain.findall(file.read_text()):
            assert not re.search(r"\b([Dd]irectory|[Ff]iles|Markdown)\b", definition), (
                file,
                definition,
            )
    parsed = cli.PathsParser().parse("~/a,all")
    assert parsed == [os.path.expanduser("~/a"), "all"]


@pytest.mark.parametrize(("text", "value"), [("False", False), ("true", True), ("0", False)])
def test_false_is_read_as_false(text, value):
    assert cli.parse_settings([f"eval.batch_statistics={text}"]) == {"eval.batch_statistics": value}
    with pytest.raises(ConfigError, match="'no' is not of type bool"):
        cli.parse_settings(["eval.batch_statistics=no"])


# cores


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/a/b", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("4:cpu,x:/a", {"cpu/a/cpu.cfs_quota_us": "1", "cpu/a/cpu.cfs_period_us": "2"}, 0.5),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "2"}, math.inf),
        ("0::/", {}, math.inf),
    ],
)
def test_a_quota_of_cpu_time_limits_the_workers(group, files, cores, tmp_path, monkeypatch):
    (tmp_path / "own").write_text(f"{group}\n1:memory:/\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(devices, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(devices, "GROUPS", tmp_path)
    monkeypatch.setattr(devices, "available_cores", lambda: [*range(8, 72)])
    assert devices.cpu_quota() == cores
    used = devices.cores_to_use()
    assert len(set(used)) == math.ceil(min(64, cores)) and set(used) <= {*range(8, 72)}


# the supervisor


class Queue:
    """Events that come when `next_event` says so, in place of a queue."""

    def __init__(self, *events: Any):
        self.events, self.now = [*events], 0.0

    def monotonic(self) -> float:
        return self.now

    def get(self, timeout: float) -> Any:
        event = self.events.pop(0)
        self.now += event if isinstance(event, float) else 0.1
        if isinstance(event, float):
            raise queue.Empty
        return event


@pytest.fixture
def watched(tmp_path, monkeypatch) -> tuple[Supervisor, WorkerHandle, list[Any]]:
    """A supervisor, a worker of it that trains, and what it reports."""
    events: list[Any] = []
    supervisor = Supervisor(Store(tmp_path).open(), processes=1)
    supervisor.on_event = lambda worker, event, facts: events.append(event)
    population = PlannedPopulation({"a": defaults() | {"host.time_limit": 3.0}})
    worker = WorkerHandle(0, population, is_ready=True)
    supervisor.workers.append(worker)
    monkeypatch.setattr(supervisor, "_replace", lambda worker: events.append("replaced"))
    return supervisor, worker, events


def wait(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, *events: Any) -> None:
    monkeypatch.setattr(supervisor, "events", Queue(*events))
    monkeypatch.setattr(supervision, "time", supervisor.events)
    supervisor._wait()


def test_the_time_for_which_a_command_is_suspended_is_no_silence(watched, monkeypatch):
    supervisor, worker, events = watched
    wait(supervisor, monkeypatch, 1.0, 5000.0, (worker, {"event": "done", "busy": []}))
    assert events == ["done"] and not supervisor.failures
    worker.population = PlannedPopulation({"a": defaults() | {"host.time_limit": 3.0}})
    wait(supervisor, monkeypatch, 1.0, 1.0, 1.0)
    assert events == ["done", "failed", "replaced"]


def test_a_silent_worker_is_noticed_while_another_speaks(watched, monkeypatch):
    supervisor, _, events = watched
    other = WorkerHandle(1, PlannedPopulation({}))
    told = [step for _ in range(3) for step in (0.9, (other, {"event": "chunk"}))]
    wait(supervisor, monkeypatch, *told)
    assert events == ["failed", "replaced"]


def test_workers_that_never_get_ready_end_the_command(watched, monkeypatch):
    supervisor, worker, events = watched
    worker.is_ready = False
    monkeypatch.setenv("XLA_FLAGS", "--nonsense")
    facts = {"status": "killed", "message": "ended with code -6"}
    for _ in range(STARTS - 1):
        supervisor._note_end(worker, facts)
    assert events == ["replaced"] * (STARTS - 1) and not supervisor.failures
    with pytest.raises(NoWorker, match=r"ended with code -6, .* is XLA_FLAGS right\?"):
        supervisor._note_end(worker, facts)
    with pytest.raises(NoWorker, match="train here: no card"):
        supervisor._take(worker, {"event": "unfit", "message": "no card"})


def test_workers_save_where_nobody_reads_the_output(watched, monkeypatch):
    supervisor, worker, events = watched

    def save() -> None:
        events.append("saved")
        supervisor.on_event(worker, "saving", {})  # prints, which would fail again

    monkeypatch.setattr(supervisor, "_let_save", save)
    monkeypatch.setattr(supervisor.engine, "kill", lambda worker: events.append("ended"))
    supervisor.__exit__(BrokenPipeError, BrokenPipeError(), None)
    assert events == ["saved", "ended"]
