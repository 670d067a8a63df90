"""The contenders as the benchmark sees them: processes that answer, alone or several as one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.loops.network import Network

ROOT = Path(__file__).resolve().parents[2]


class Broken(RuntimeError):
    """A contender cannot do what was asked: its library is missing, say; one line."""


class Process:
    """One worker process; `close` ends it."""

    def __init__(self, core: int | None = None, log: Path | None = None, **environment: str):
        command = [sys.executable, "-m", "benchmarks.loops.worker"]
        command += [f"--core={core}"] if core is not None else []
        with open(log or os.devnull, "ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                env=os.environ | environment,
                cwd=ROOT,  # where `benchmarks` is found
            )

    def send(self, do: str, **facts: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **facts}) + "\n")
        except BrokenPipeError:
            pass  # `receive` finds that it is gone

    def receive(self) -> Any:
        """Return the value of the next answer; raises Broken."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Broken(f"its process ended with code {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise Broken(reply["error"])
        return reply["value"]

    def finish(self) -> None:
        """Let it end by itself, and wait for that."""
        self.process.communicate()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclasses.dataclass
class Contender:
    """One or several processes that do the same at the same time."""

    processes: Sequence[Process]
    unit: float = 1
    """Steps of single runs in one of what `run` counts; of a matrix product, its operations."""

    def ask(self, do: str, **facts: Any) -> list[Any]:
        """Return the answers of all; each begins when the last of them has been told."""
        for process in self.processes:
            process.send(do, **facts)
        return [process.receive() for process in self.processes]

    def make(self, loop: str, network: Network, job: Path, options: Sequence[dict[str, Any]]):
        """Let process i make the loop with options[i]."""
        facts = {"loop": loop, "network": dataclasses.asdict(network), "job": str(job)}
        for process, own in zip(self.processes, options, strict=True):
            process.send("make", **facts, options=own)
        for process in self.processes:
            process.receive()

    def losses(self, steps: int) -> list[float]:
        self.processes[0].send("losses", steps=steps)
        return self.processes[0].receive()

    def run(self, count: int) -> float:
        """Return the seconds until the slowest was done."""
        return max(self.ask("run", steps=count))

    def finish(self) -> None:
        for process in self.processes:
            process.finish()

    def close(self) -> None:
        for process in self.processes:
            process.close()
