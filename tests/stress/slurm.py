"""A Slurm of two nodes on this machine: its parts are killed in turn while a study trains.

A worker and a node are killed, a job is preempted by one with a higher priority, and the command is
killed. In the long version a job is also cancelled and a node is frozen. The long version installs
Slurm where it can.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from stress import attack
from stress.attack import SIGN_S, Attack, undisturbed
from stress.campaign import Broken, Report, Workspace
from stress.processes import Stage, until
from stress.slurm_nodes import SlurmNodes, missing

FAULTS = (
    ("worker", "preemption", "node", "command"),
    (
        "worker",
        "preemption",
        "node",
        "command",
        "cancelled",
        "frozen",
    ),
)
"""Of the short version and of the long one."""
STEPS = 60_000
NODE = "n2"
"""On which things happen."""


@dataclass
class SlurmAttack(Attack):
    nodes: SlurmNodes = field(kw_only=True)

    def jobs(self) -> dict[str, str]:
        """Return job -> node of the workers that run."""
        lines = self.nodes.ask("squeue", "-h", "-r", "-t", "running", "-o", "%i|%j|%N").splitlines()
        fields = (line.split("|") for line in lines)
        return {job: node for job, name, node in fields if name.startswith("normlab-")}

    def _training(self) -> int:
        """Return the worker on the node, once one of its checkpoints has arrived."""
        found, own = list[int](), Path(tempfile.gettempdir())

        def look() -> bool:
            found[:] = self.nodes.workers_on(NODE)
            here = {path.split("/")[0] for path in self.checkpoints()}
            saved = (own.glob(f"normlab-worker-{p}-*/populations/*/checkpoint-*") for p in found)
            return any(path.parent.name in here for paths in saved for path in paths)

        if not until(look, SIGN_S):
            raise Broken(f"node {NODE} does not train")
        return found[0]

    def worker(self) -> None:
        pid, before = self._training(), self.interrupted()
        os.kill(pid, signal.SIGKILL)
        self.wait("worker", lambda: self.interrupted() > before)

    def node(self) -> None:
        self._training()
        before = self.interrupted()
        self.nodes.kill_node(NODE)
        self.wait("node", lambda: self.interrupted() > before)
        self.nodes.add(NODE)

    def preemption(self) -> None:
        """Let a job with a higher priority take the node: the population saves, and continues."""
        self._training()
        (job,) = [job for job, node in self.jobs().items() if node == NODE]
        saved = self.printed().count(": saved at step")
        flags = ["-p", "urgent", "-w", NODE, "-o", "/dev/null"]
        self.nodes.ask("sbatch", *flags, "--wrap=sleep 2")
        ask = ("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T")
        self.wait("preemption", lambda: f"{job}|PREEMPTED" in self.nodes.ask(*ask).split())
        if not until(lambda: self.printed().count(": saved at step") > saved, SIGN_S):
            raise Broken("a population that was preempted did not save")

    def command(self) -> None:
        """Kill the command; the same command takes over the jobs that train meanwhile."""
        before = self.jobs()
        super().command()
        if not self.seen():
            return
        if kept := before.keys() & self.jobs().keys():
            self.workspace.emit(f"{len(kept)} of {len(before)} jobs were kept")
        else:
            raise Broken("no job was kept")

    def cancelled(self) -> None:
        self._training()
        before = self.printed().count("was cancelled")
        self.nodes.ask("scancel", next(iter(self.jobs())))
        self.wait("cancelled", lambda: self.printed().count("was cancelled") > before)

    def frozen(self) -> None:
        """Freeze the worker until its population continues elsewhere, then let it continue."""
        pid, before = self._training(), self.printed().count("nothing was heard of it")
        os.kill(pid, signal.SIGSTOP)
        self.wait("frozen", lambda: self.printed().count("nothing was heard of it") > before)
        os.kill(pid, signal.SIGCONT)


def run(workspace: Workspace) -> Report:
    """Train a study on a Slurm whose parts are killed one after another."""
    if lacking := missing(installs=workspace.is_long):
        return Report({"not run": lacking}, [])
    faults, expected = FAULTS[workspace.is_long], undisturbed(workspace, STEPS)
    nodes = SlurmNodes(workspace.folder / "nodes")
    with Stage(workspace, "slurm", witness_of=attack.__name__) as stage:
        stage.environment["SLURM_CONF"] = str(nodes.settings)
        try:
            nodes.start()
            study = SlurmAttack(stage, workspace, ["--launch=slurm"], STEPS, nodes=nodes)
            study.carry_out(faults)
            left = [str(p) for p in stage.store.root.glob("spool/**/*") if p.is_file()]
            study.failures += [f"{path} is left" for path in left]
            return study.judge(expected, faults)
        finally:
            nodes.stop()
            shutil.rmtree(workspace.folder / "slurm" / "site", ignore_errors=True)
