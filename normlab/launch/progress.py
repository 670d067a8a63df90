"""What is printed while runs train."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from normlab.launch.batching import PlannedPopulation
from normlab.launch.supervisor import WorkerProcess


def clock(seconds: float) -> str:
    """Return a duration as people say it: 42 s, 3 min 05 s, 2 h 10 min."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def notice(worker: WorkerProcess, event: str, facts: dict[str, Any]) -> str | None:
    """Return a line for an event that is worth one of its own, None for the others."""
    label = worker.population.label if worker.population else "worker"
    if event == "resumed":
        return f"{label}: continued from step {facts['step']}"
    if event == "saved":
        return f"{label}: saved at step {facts['step']}"
    if event == "failed":
        return f"{label}: {facts['status']}: {facts['message']}; {facts['then']}"
    if event == "warning":
        return f"warning: {label}: {facts['message']}"
    return None


class Display:
    """One line for each chunk. On a terminal it is written over the one before it."""

    def __init__(self, left: Callable[[], tuple[int, int, int]]):
        """`left()` -> (runs done, runs known, run-steps still to do)."""
        self.left, self.began, self.steps_done = left, time.monotonic(), 0
        self.seen: dict[int, tuple[int, float]] = {}
        """Worker -> (step, seconds) of its last chunk."""
        self.is_live = sys.stdout.isatty()

    def show(self, worker: WorkerProcess, event: str, facts: dict[str, Any]) -> None:
        """Print what an event is worth."""
        line = notice(worker, event, facts)
        if line:
            self.close()
            print(line, flush=True)
        if event == "given":
            self.seen[worker.number] = (0, 0.0)
        if event == "chunk" and worker.population:
            chunk = self._chunk_line(worker.number, worker.population, facts)
            text = f"[{self.summary()}] {chunk}"
            self.close()
            width = shutil.get_terminal_size().columns - 1 if self.is_live else None
            print(text[:width], end="" if self.is_live else "\n", flush=True)

    def close(self) -> None:
        """Remove the line of the last chunk from a terminal."""
        print("\r\033[K" if self.is_live else "", end="", flush=True)

    def _chunk_line(self, number: int, population: PlannedPopulation, facts: dict[str, Any]) -> str:
        before, at = self.seen.get(number, (0, 0.0))
        run_steps = (facts["step"] - before) * len(population.configs)
        self.steps_done += run_steps
        rate = run_steps / max(facts["seconds"] - at, 1e-9)
        self.seen[number] = (facts["step"], facts["seconds"])
        scores = f"loss {facts['train_loss']:.3g}, best {100 * facts['best']:.1f} %, "
        return (
            f"{population.label}: step {facts['step']}/{population.config['train.steps']}, "
            f"{rate:,.0f} run-steps/s, {'' if math.isnan(facts['best']) else scores}"
            f"{facts['alive']} going"
        )

    def summary(self) -> str:
        done, known, steps = self.left()
        seconds = time.monotonic() - self.began
        left = steps * seconds / self.steps_done if self.steps_done else math.inf
        return f"{done:,} of {known:,} known runs, {clock(seconds)} so far, {clock(left)} left"
