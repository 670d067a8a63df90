"""What is printed while runs train."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from normlab.launch.batching import PlannedPopulation
from normlab.launch.engines.engine import WorkerHandle
from normlab.studies.study import Study


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


def notice(worker: WorkerHandle, event: str, facts: dict[str, Any]) -> str | None:
    """Return a line for an event that is worth one of its own, None for the others."""
    if event == "saving":
        return "saving ..."
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


LIVE_S, LOG_S = 0.2, 20.0
"""Least seconds between two lines, on a terminal and in a log."""
SHARE = 0.02
"""Of the time that lines may take: each looks at all runs that are left."""


class Display:
    """What trains now: a line that is written over on a terminal, else one now and then."""

    def __init__(self, summary: Callable[[], str], serves: Mapping[str, Study]):
        """`summary()`: how far all is; `serves`: run -> the study that it is trained for."""
        self.summary, self.serves = summary, serves
        self.given: dict[int, PlannedPopulation] = {}
        """Worker -> its last population."""
        self.is_live = sys.stdout.isatty()
        self.printed, self.cost = -math.inf, 0.0

    def show(self, worker: WorkerHandle, event: str, facts: dict[str, Any]) -> None:
        """Print what an event is worth."""
        line = notice(worker, event, facts)
        if line:
            self.close()
            print(line, flush=True)
        if event == "given" and worker.population:
            self.given[worker.number] = worker.population
        states = {"given": "begins", "done": "done"}
        if event in (*states, "chunk") and worker.number in self.given:
            population = self.given[worker.number]
            self._print(population, states.get(event) or chunk_text(population, facts))

    def _print(self, population: PlannedPopulation, state: str) -> None:
        """Print the state of a population, unless the last line is too recent."""
        now = time.monotonic()
        if now - self.printed < max(LIVE_S if self.is_live else LOG_S, self.cost / SHARE):
            return
        self.printed = now
        study = self.serves.get(next(iter(population.configs)))
        question = "" if self.is_live or not study else f" ({study.question})"
        name = f"{study.name}{question}: " if study else ""
        text = f"[{self.summary()}] {name}{population.label}: {state}"
        self.cost = time.monotonic() - now
        self.close()
        width = shutil.get_terminal_size().columns - 1 if self.is_live else None
        print(text[:width], end="" if self.is_live else "\n", flush=True)

    def close(self) -> None:
        """Remove the last line from a terminal."""
        print("\r\033[K" if self.is_live else "", end="", flush=True)


def chunk_text(population: PlannedPopulation, facts: dict[str, Any]) -> str:
    """Return how far a population is."""
    best = "" if math.isnan(facts["best"]) else f", best {100 * facts['best']:.1f} %"
    wait = f", waited {facts['waited']:.1f} s for images" if facts["waited"] >= 0.1 else ""
    return f"step {facts['step']}/{population.config['train.steps']}{best}{wait}"
