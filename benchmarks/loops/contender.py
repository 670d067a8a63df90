"""A contender as the benchmark sees it: one process that answers, or several as one."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.loops.network import Job
from normlab.launch.json_lines import last_line, receive, send, start_worker
from normlab.runs.provenance import available_cores


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
        clock: str = "run",
    ):
        self.log, self.unit, self.clock = log, unit, clock
        """`unit`: what one of the things that `run` counts does: steps, or operations. `clock`: run
        counts seconds, spend those of the processor."""
        worker = "benchmarks.loops.worker"
        self.processes = [
            start_worker(worker, {"core": core}, environment=environment, log=log) for core in cores
        ]

    def _receive(self, process: subprocess.Popen[str]) -> Any:
        """Return the value of a process's next answer; raises Broken."""
        reply = next(receive(process.stdout), None)
        if reply is None:
            raise Broken(f"its process ended with code {process.wait()}: {last_line(self.log)}")
        if "error" in reply:
            raise Broken(reply["error"])
        return reply["value"]

    def _ask(self, do: str, each: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the answers of all processes, which begin together; process i gets each[i]."""
        for process, arguments in zip(self.processes, each, strict=True):
            send(process, {"do": do, "with": arguments})
        return [self._receive(process) for process in self.processes]

    def ask(self, do: str, *arguments: Any) -> list[Any]:
        """Return what a method of the loop returns in every process."""
        return self._ask(do, [arguments] * len(self.processes))

    def make(self, library: str, job: Path, *options: Mapping[str, Any]) -> None:
        """Let process i make the library's loop for the job in a file, with options[i]."""
        name = library.partition("-")[0]
        self._ask("make", [(name, str(job), own) for own in options])

    def run(self, count: int) -> float:
        """Return the seconds of the slowest process."""
        return max(self.ask(self.clock, count))

    def finish(self) -> None:
        """Let the processes end by themselves, and wait for that."""
        for process in self.processes:
            process.communicate()

    def close(self) -> None:
        """Kill the processes."""
        for process in self.processes:
            process.kill()
        self.finish()


class Workspace(ExitStack):
    """The files of contenders and their processes. Leaving it ends and removes them."""

    def __init__(self, cores: Sequence[int | None] = (None,), clock: str = "run") -> None:
        super().__init__()
        self.cores, self.clock = cores, clock
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.environment = {
            "OMP_NUM_THREADS": str(len(available_cores()) if None in cores else len(cores)),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
        }

    def save(self, job: Job, name: str = "job") -> Path:
        """Return the file of a job."""
        path = self.folder / f"{name}.pickle"
        path.write_bytes(pickle.dumps(job))
        return path

    def start(
        self,
        cores: Sequence[int | None] | None = None,
        unit: float = 1,
        environment: Mapping[str, str] | None = None,
    ) -> Contender:
        own = {**self.environment, **(environment or {})}
        contender = Contender(self.folder / "log", own, cores or self.cores, unit, self.clock)
        self.callback(contender.close)
        return contender
