"""A contender as the benchmark sees it: one process that answers, or several as one."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.loops.network import Job, Network, save_job
from normlab.launch.json_lines import last_line, receive, send, start_worker
from normlab.runs.provenance import available_cores

ROOT = Path(__file__).resolve().parents[2]


class Broken(RuntimeError):
    """A contender cannot do what was asked, because its library is missing for example."""


class Contender:
    """One worker process for each of `cores`. They do the same at the same time."""

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str],
        cores: Sequence[int | None] = (None,),
        unit: float = 1,
    ):
        self.log, self.unit = log, unit
        """`unit`: what one of the things that `run` counts does: steps, or operations."""
        self.processes = [self._start(core, environment) for core in cores]

    def _start(self, core: int | None, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        return start_worker(
            "benchmarks.loops.worker",
            {"core": core},
            environment=environment,
            log=self.log,
            folder=ROOT,
        )

    def _receive(self, process: subprocess.Popen[str]) -> Any:
        """Return the value of a process's next answer; raises Broken."""
        reply = next(receive(process.stdout), None)
        if reply is None:
            raise Broken(f"its process ended with code {process.wait()}: {last_line(self.log)}")
        if "error" in reply:
            raise Broken(reply["error"])
        return reply["value"]

    def ask(self, do: str, options: Sequence[Mapping[str, Any]] = (), **facts: Any) -> list[Any]:
        """Return the answers of all processes, which begin together. Process i gets options[i] with
        the facts that all get."""
        for process, own in zip(self.processes, options or [{}] * len(self.processes), strict=True):
            send(process, {"do": do, **facts, **own})
        return [self._receive(process) for process in self.processes]

    def make(self, library: str, network: Network, job: Path, *options: Mapping[str, Any]) -> None:
        """Let process i make the library's loop with options[i]."""
        facts = {"network": dataclasses.asdict(network), "job": str(job)}
        each = [{"options": own} for own in options]
        self.ask("make", each, loop=library.partition("-")[0], **facts)

    def losses(self, steps: int) -> list[float]:
        """Return the first losses of the first process."""
        send(self.processes[0], {"do": "losses", "steps": steps})
        return self._receive(self.processes[0])

    def run(self, count: int) -> float:
        """Return the seconds until the slowest process was done."""
        return max(self.ask("run", steps=count))

    def finish(self) -> None:
        """Let the processes end by themselves, and wait for that."""
        for process in self.processes:
            process.communicate()

    def close(self) -> None:
        """Kill the processes."""
        for process in self.processes:
            process.kill()
        self.finish()


class Workspace:
    """The files of contenders and their processes. Leaving it ends and removes them."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.environment = {
            "OMP_NUM_THREADS": str(len(available_cores())),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
        }

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def save(self, job: Job, name: str) -> Path:
        """Return the file of a job, which is written once."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            save_job(job, path)
        return path

    def start(
        self,
        cores: Sequence[int | None] = (None,),
        unit: float = 1,
        environment: Mapping[str, str] | None = None,
    ) -> Contender:
        own = {**self.environment, **(environment or {})}
        contender = Contender(self.folder / "log", own, cores, unit)
        self.stack.callback(contender.close)
        return contender
