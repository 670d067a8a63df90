"""A Ray cluster of two nodes on this machine: its parts are killed in turn while a study trains.

A worker, a node and the command are killed, and in the long version a node is frozen and the head
is killed. Each run must be there in the end, recorded once, with the bits of an undisturbed study
that trained without Ray.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workspace import ROOT, runs_of, study_text

from normlab.runs import files
from stress.campaign import Broken, Report, Workspace
from stress.kills import Facts, difference, facts_of
from stress.processes import Child, Stage, members, until

ARMS = ("none", "batch", "layer", "group")
STEPS, CHUNK = 24_000, 1_000
SIZES = {"train_eval_every": CHUNK, "eval_curve_examples": 100, "eval_stats_examples": 64}
FAULTS = ("worker", "node", "command"), ("worker", "node", "command", "frozen", "head")
"""Of the short version and of the long one."""
SIGN_S, END_S = 120.0, 300.0
"""Seconds for a sign of training, and for the rest of the study."""
MOST_S = {"frozen": 90.0, "head": 70.0}
"""Most seconds from a fault to its replacement, and to the end of the command."""
STORE_BYTES = 100 * 2**20
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


def witness(log: str) -> None:
    """Make this process append to a log, by single writes, which results it records."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    write = files.write_atomic

    def logged(path: Path, content: str | bytes) -> None:
        write(path, content)
        if path.name == "result.json" and "normlab-worker-" not in str(path):
            os.write(handle, f"recorded {os.getpgid(0)} {path.parent.name} 0\n".encode())

    files.write_atomic = logged


@dataclass
class Nodes:
    """A cluster of two nodes of one core each. Commands find its head with RAY_ADDRESS."""

    stage: Stage
    cluster: Any = None
    second: Any = None

    def start(self) -> None:
        head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        make = import_module("ray.cluster_utils").Cluster
        self.cluster = make(initialize_head=True, head_node_args=head)
        self.add_second()
        self.stage.environment["RAY_ADDRESS"] = self.cluster.address

    def add_second(self) -> None:
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def processes(self, of: Any) -> list[Any]:
        """Return a node's raylet and the processes that it started."""
        psutil = import_module("psutil")
        (raylet,) = of.all_processes["raylet"]
        found = psutil.Process(raylet.process.pid)
        return [found, *found.children(recursive=True)]

    def worker(self) -> Any:
        """Return a process of the second node that has a checkpoint, None while there is none."""
        saved = Path(tempfile.gettempdir()).glob("normlab-worker-*/populations/*/checkpoint-*.json")
        pids = {int(path.parts[-4].split("-")[2]) for path in saved}
        return next((p for p in self.processes(self.second) if p.pid in pids), None)

    def stop(self) -> None:
        if self.cluster:
            self.cluster.shutdown()
            self.cluster = None


@dataclass
class Attack:
    """One study on one cluster, and what is done to it."""

    stage: Stage
    nodes: Nodes
    child: Child
    workspace: Workspace
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Fault -> until it was dealt with."""

    def seen(self, fresh: bool = True) -> bool:
        """Wait until a population has a checkpoint; return whether there was one in time."""
        known = self.checkpoints() if fresh else set()
        found = until(lambda: self.child.has_ended() or self.checkpoints() - known, SIGN_S)
        if not found or self.child.has_ended():
            self.failures.append(f"no training to be seen: {self.child.last_words()}")
        return found and not self.child.has_ended()

    def checkpoints(self) -> set[str]:
        paths = self.stage.store.root.glob("populations/*/checkpoint-*.json")
        return {f"{path.parent.name}/{path.name}" for path in paths}

    def again(self) -> None:
        """Give the same command."""
        self.child = start(self.stage, "--launch=ray")

    def worker(self) -> None:
        self._kill(lambda: [self._training()])

    def _training(self) -> Any:
        """Return a process of the second node, as soon as it trains."""
        found: list[Any] = []
        if not until(lambda: found.append(self.nodes.worker()) or found[-1], SIGN_S):
            raise Broken("the second node does not train")
        return found[-1]

    def node(self) -> None:
        self._training()
        self._kill(lambda: self.nodes.processes(self.nodes.second))
        self.nodes.cluster.remove_node(self.nodes.second, allow_graceful=False)
        self.nodes.add_second()

    def _kill(self, find: Callable[[], list[Any]]) -> None:
        """Kill processes, and wait until the command says that a population was interrupted."""
        before = self._interrupted()
        for process in find():
            with suppress(import_module("psutil").NoSuchProcess):
                process.kill()
        if not until(lambda: self._interrupted() > before, SIGN_S):
            raise Broken("no population was interrupted")

    def _interrupted(self) -> int:
        return self.child.out.read_text(encoding="utf-8").count("; tried again")

    def command(self) -> None:
        os.killpg(self.child.group, signal.SIGKILL)
        self.child.process.wait()
        until(lambda: not members(self.child.group), SIGN_S)
        self.again()

    def frozen(self) -> None:
        """Freeze the second node until its population continues elsewhere, then let it continue."""
        self._training()
        found = self.nodes.processes(self.nodes.second)
        for process in found:
            process.suspend()
        self._wait("frozen", lambda: "was lost" in self.child.out.read_text(encoding="utf-8"))
        for process in found:
            process.resume()

    def head(self) -> None:
        (server,) = self.nodes.cluster.head_node.all_processes["gcs_server"]
        server.process.kill()
        self._wait("head", self.child.has_ended)
        if self.child.process.poll() != 75:
            self.failures.append(f"without its head: {self.child.last_words()}")
        self.nodes.stop()
        self.nodes.start()
        self.again()

    def _wait(self, fault: str, condition: Callable[[], object]) -> None:
        began = time.monotonic()
        in_time = until(condition, 2 * MOST_S[fault])
        self.seconds[fault] = time.monotonic() - began
        if not in_time or self.seconds[fault] > MOST_S[fault]:
            self.failures.append(f"{fault}: dealt with after {self.seconds[fault]:.0f} s")

    def carry_out(self, faults: tuple[str, ...]) -> None:
        for fault in faults:
            if not self.seen():
                return
            self.workspace.emit(f"{fault} ...")
            try:
                getattr(self, fault)()
            except Broken as error:
                self.failures.append(f"{fault}: {error}")
        if not until(self.child.has_ended, END_S) or self.child.process.poll() != 0:
            self.failures.append(f"the study did not end well: {self.child.last_words()}")


def start(stage: Stage, *flags: str) -> Child:
    file = stage.folder / "tiny.py"
    file.write_text(study_text(ARMS, STEPS, **SIZES), encoding="utf-8")
    settings = ["--config.train.checkpoint_seconds=0", f"--config.host.chunk={CHUNK}"]
    script = str(ROOT / "scripts" / "study.py")
    return stage.start(
        script, f"--study={file}", f"--results={stage.store.root}", *settings, *flags
    )


def undisturbed(workspace: Workspace) -> Facts:
    """Return the results of the study without Ray."""
    with Stage(workspace, "local") as stage:
        child = start(stage)
        until(child.has_ended, END_S)
        return {run: facts_of(stage.store, run) for run in sorted(stage.store.done())}


@contextmanager
def ray_stage(workspace: Workspace) -> Iterator[tuple[Stage, Nodes]]:
    with Stage(workspace, "ray", witness_of=__name__) as stage:
        stage.environment.update(QUIET)
        os.environ.update(stage.environment)  # nodes are children of this process
        nodes = Nodes(stage)
        try:
            nodes.start()
            yield stage, nodes
        finally:
            nodes.stop()


def run(workspace: Workspace) -> Report:
    """Train a study on a cluster whose parts are killed one after another."""
    if not find_spec("ray"):
        return Report({"not run": "it needs pip install 'normlab[ray]'"}, [])
    expected = undisturbed(workspace)
    faults, before = FAULTS[workspace.is_long], dict(os.environ)
    try:
        with ray_stage(workspace) as (stage, nodes):
            attack = Attack(stage, nodes, start(stage, "--launch=ray"), workspace)
            attack.carry_out(faults)
            recorded = Counter(note.run for note in stage.log.notes())
            wrong = [difference(stage.store, name, facts) for name, facts in expected.items()]
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(workspace.folder / "ray" / "site", ignore_errors=True)
    wrong = list(filter(None, wrong))
    twice = [f"run {name} was recorded {n} times" for name, n in recorded.items() if n > 1]
    few = [] if len(expected) == runs_of(len(ARMS)) else [f"{len(expected)} runs without Ray"]
    figures: dict[str, int | str] = {
        "faults": len(faults),
        "runs lost": sum("is lost" in line for line in wrong),
        "runs recorded twice": len(twice),
        "bit-equal": f"{len(expected) - len(wrong)} of {len(expected)}",
    }
    figures |= {f"{fault}, s": f"{seconds:.0f}" for fault, seconds in attack.seconds.items()}
    return Report(figures, [*attack.failures, *few, *wrong, *twice])
