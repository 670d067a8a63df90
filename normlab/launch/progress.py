"""What a person sees while runs train: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
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


class ProgressState:
    """Counts runs and steps, and knows what every worker is doing."""

    def __init__(self, left: Callable[[], tuple[int, int, int]]):
        """`left()` -> (runs done, runs known, run-steps still to do)."""
        self.left = left
        self.began = time.monotonic()
        self.steps_done = 0
        self.lines: dict[int, str] = {}
        """Worker -> what it is doing."""
        self.seen: dict[int, tuple[int, float]] = {}
        """Worker -> (step, seconds) of its last chunk."""

    def note(self, worker: WorkerProcess, event: str, facts: dict[str, Any]) -> bool:
        """Take an event; return whether it ended a chunk."""
        if event == "given" and worker.population:
            self.seen[worker.number] = (0, 0.0)
            self.lines[worker.number] = f"{worker.population.label}: compiling"
        elif event == "chunk" and worker.population:
            self._note_chunk(worker.number, worker.population, facts)
            return True
        return False

    def _note_chunk(
        self, number: int, population: PlannedPopulation, facts: dict[str, Any]
    ) -> None:
        before, at = self.seen.get(number, (0, 0.0))
        run_steps = (facts["step"] - before) * len(population.configs)
        self.steps_done += run_steps
        rate = run_steps / max(facts["seconds"] - at, 1e-9)
        self.seen[number] = (facts["step"], facts["seconds"])
        scores = f"loss {facts['train_loss']:.3g}, best {100 * facts['best']:.1f} %, "
        self.lines[number] = (
            f"{population.label}: step {facts['step']}/{population.config['train.steps']}, "
            f"{rate:,.0f} run-steps/s, {'' if math.isnan(facts['best']) else scores}"
            f"{facts['alive']} going"
        )

    def summary(self) -> str:
        done, known, steps = self.left()
        seconds = time.monotonic() - self.began
        left = steps * seconds / self.steps_done if self.steps_done else math.inf
        return f"{done:,} of {known:,} known runs, {clock(seconds)} so far, {clock(left)} left"


def notice(worker: WorkerProcess, event: str, facts: dict[str, Any]) -> str | None:
    """Return a line for an event that is worth one beside the display, None for the others."""
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


class PlainDisplay:
    """One line per chunk, for logs."""

    def __init__(self, progress: ProgressState):
        self.progress = progress

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, worker: WorkerProcess, event: str, facts: dict[str, Any]) -> None:
        line = notice(worker, event, facts)
        if line:
            print(line, flush=True)
        if self.progress.note(worker, event, facts):
            line = self.progress.lines[worker.number]
            print(f"[{self.progress.summary()}] {line}", flush=True)


class LiveDisplay:
    """A panel that is redrawn in place: the whole above, one line per worker below."""

    def __init__(self, progress: ProgressState):
        from rich.live import Live

        self.progress = progress
        self.live = Live(get_renderable=self._draw, refresh_per_second=2, transient=True)

    def __enter__(self) -> LiveDisplay:
        self.live.__enter__()
        return self

    def __exit__(self, *facts: Any) -> None:
        self.live.__exit__(*facts)

    def show(self, worker: WorkerProcess, event: str, facts: dict[str, Any]) -> None:
        line = notice(worker, event, facts)
        if line:
            self.live.console.print(line, markup=False, highlight=False)
        self.progress.note(worker, event, facts)

    def _draw(self):
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done, known, _ = self.progress.left()
        grid = Table.grid()
        grid.add_row(Text(self.progress.summary(), style="bold"))
        grid.add_row(ProgressBar(total=max(known, 1), completed=done, width=60))
        for _, line in sorted(self.progress.lines.items()):
            grid.add_row(Text(line, overflow="ellipsis", no_wrap=True))
        return grid


def choose_display(progress: ProgressState) -> PlainDisplay | LiveDisplay:
    return LiveDisplay(progress) if sys.stdout.isatty() else PlainDisplay(progress)
