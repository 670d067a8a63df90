"""A real Slurm of two nodes on this machine, from the packages of Debian or Ubuntu.

It has a partition `main`, whose jobs those of `urgent` may preempt. All of it, its keys too, is in
one folder, and nothing of it is left running. It needs root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stress.campaign import Broken
from stress.processes import of_process, until

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol")
INSTALL_S, START_S, GRACE_S = 300, 40.0, 2
SETTINGS = """\
ClusterName=stress
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=5,bf_continue
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=20
InactiveLimit=0
KillWait=10
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def missing(installs: bool) -> str:
    """Return why there can be no Slurm here, "" once its programs are there. `installs`: from the
    packages of the system, where they are not."""
    if os.geteuid():
        return "it needs root"
    if _lacks() and installs and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(["apt-get", "-qq", *command], timeout=INSTALL_S, **quiet)
    if lacking := _lacks():
        names = " ".join(PACKAGES)
        return f"{', '.join(lacking)} are not there; apt-get install {names} brings them"
    return ""


def _lacks() -> list[str]:
    return [name for name in PROGRAMS if not shutil.which(name)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class SlurmNodes:
    """Slurm with the nodes n1 and n2 of one core each, in a folder."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Path:
        """What the variable SLURM_CONF has to name."""
        return self.folder / "slurm.conf"

    def start(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "state").mkdir()
        text = SETTINGS.format(
            host=socket.gethostname(), folder=self.folder, ports=free_ports(3), grace=GRACE_S
        )
        self.settings.write_text(text)
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o600)
        places = [("socket", "socket"), ("key-file", "key"), ("pid-file", "pid")]
        places += [("log-file", "log"), ("seed-file", "seed")]
        flags = [f"--{flag}={self.folder}/munge.{end}" for flag, end in places]
        self._run("munged", "--foreground", "--force", *flags)
        until((self.folder / "munge.socket").exists, START_S)
        self._run("slurmctld", "-D", "-f", str(self.settings))
        for name in ("n1", "n2"):
            self.add(name)

    def add(self, name: str) -> None:
        """Start a node, and wait until jobs can run on it."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self._run(name, "-D", "-N", name, "-f", str(self.settings), program="slurmd")
        if not until(lambda: self.state(name) in ("idle", "mixed", "allocated"), START_S):
            raise Broken(f"node {name} of Slurm does not start: {self.state(name)}")

    def _run(self, name: str, *flags: str, program: str = "") -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program or name, *flags],  # end with this
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ | {"SLURM_CONF": str(self.settings)},
            )

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints."""
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"SLURM_CONF": str(self.settings)},
        )
        return run.stdout.strip()

    def state(self, node: str) -> str:
        time.sleep(0.1)
        return self.ask("sinfo", "-h", "-p", "main", "-n", node, "-o", "%t").rstrip("*")

    def processes_on(self, node: str) -> list[int]:
        """Return the processes of the jobs of a node."""
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.settings}".encode()}
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if marks.issubset(of_process(pid, "environ").split(b"\0"))]

    def workers_on(self, node: str) -> list[int]:
        """Return those that are workers of a study."""
        found = self.processes_on(node)
        return [pid for pid in found if b"slurm_task" in of_process(pid, "cmdline")]

    def kill_node(self, node: str) -> None:
        """Kill a node and all that runs on it, as a loss of power would."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        for pid in [*self._watchers(node), *self.processes_on(node)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _watchers(self, node: str) -> set[int]:
        """Return the processes of Slurm that watch the jobs of a node."""
        facts = [of_process(pid, "stat").decode() for pid in self.processes_on(node)]
        parents = {int(text.rpartition(")")[2].split()[1]) for text in facts if text}
        return {pid for pid in parents if b"slurmstepd" in of_process(pid, "cmdline")}

    def stop(self) -> None:
        for node in ("n1", "n2"):
            if node in self.daemons:
                self.kill_node(node)
        for process in self.daemons.values():
            process.kill()
            process.wait()
        self.daemons.clear()
