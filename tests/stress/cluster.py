"""A Ray cluster of two nodes on this machine: its parts are killed in turn while a study trains.

A worker, a node and the command are killed, and in the long version a node is frozen and the head
is killed. Each run must be there in the end, recorded once, with the bits of an undisturbed study
that trained without Ray.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stress import attack
from stress.attack import SIGN_S, Attack, undisturbed
from stress.campaign import Broken, Report, Workspace
from stress.processes import Stage, until

FAULTS = ("worker", "node", "command"), ("worker", "node", "command", "frozen", "head")
"""Of the short version and of the long one."""
STORE_BYTES = 100 * 2**20
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


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
class RayAttack(Attack):
    nodes: Nodes = field(kw_only=True)

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
        before = self.interrupted()
        for process in find():
            with suppress(import_module("psutil").NoSuchProcess):
                process.kill()
        if not until(lambda: self.interrupted() > before, SIGN_S):
            raise Broken("no population was interrupted")

    def frozen(self) -> None:
        """Freeze the second node until its population continues elsewhere, then let it continue."""
        self._training()
        found = self.nodes.processes(self.nodes.second)
        for process in found:
            process.suspend()
        self.wait("frozen", lambda: "was lost" in self.printed())
        for process in found:
            process.resume()

    def head(self) -> None:
        (server,) = self.nodes.cluster.head_node.all_processes["gcs_server"]
        server.process.kill()
        self.wait("head", self.child.has_ended)
        if self.child.process.poll() != 75:
            self.failures.append(f"without its head: {self.child.last_words()}")
        self.nodes.stop()
        self.nodes.start()
        self.again()


@contextmanager
def ray_stage(workspace: Workspace) -> Iterator[tuple[Stage, Nodes]]:
    with Stage(workspace, "ray", witness_of=attack.__name__) as stage:
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
            study = RayAttack(stage, workspace, ["--launch=ray"], nodes=nodes)
            study.carry_out(faults)
            return study.judge(expected, faults)
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(workspace.folder / "ray" / "site", ignore_errors=True)
