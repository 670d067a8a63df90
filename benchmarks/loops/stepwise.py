"""One dispatch a step: what the loops of other libraries have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.loops.network import Job
from normlab.data import DATASETS
from normlab.data.split import split_rows


class Run(NamedTuple):
    """One run of a study: its setting and when it is evaluated."""

    rate: float
    seed: int
    steps: int
    eval_every: int


def batch_rows(train: np.ndarray, batch: int, run: Run) -> Iterator[np.ndarray]:
    """Yield the rows of each step's batch: a permutation an epoch, the partial batch dropped."""
    random = np.random.default_rng(run.seed)
    per_epoch, order = len(train) // batch, train
    for step in range(run.steps):
        position = step % per_epoch
        if position == 0:
            order = random.permutation(train)
        yield order[position * batch : (position + 1) * batch]


class Stepwise:
    """A library's loop; `start` and the methods that raise are what a library has to say."""

    def __init__(self, job: Job):
        self.job = job

    def load(self) -> None:
        """Restart from the weights of the job."""
        raise NotImplementedError

    def start(self, run: Run) -> None:
        """Draw new weights, as the library does it."""
        raise NotImplementedError

    def step(self, rows: np.ndarray) -> Any:
        """Take a gradient step and return its loss, which need not be there yet."""
        raise NotImplementedError

    def wait(self) -> None:
        """Return when all steps are done; a step that waits for its loss needs nothing."""

    def count_correct(self, rows: np.ndarray) -> Any:
        """Return how many of these examples are classified right, in evaluation mode."""
        raise NotImplementedError

    def losses(self, steps: int) -> list[float]:
        self.load()
        return [float(self.step(rows)) for rows in self.job.rows[:steps]]

    def run(self, steps: int) -> float:
        """Take that many steps and return the seconds they took."""
        rows = self.job.rows
        began = time.perf_counter()
        for i in range(steps):
            self.step(rows[i % len(rows)])
        self.wait()
        return time.perf_counter() - began

    def score(self, rows: np.ndarray, size: int) -> float:
        """Return the accuracy on `rows`, `size` at a time: one shape where it divides them."""
        parts = [self.count_correct(rows[i : i + size]) for i in range(0, len(rows), size)]
        return sum(map(float, parts)) / len(rows)

    def train(self, facts: Sequence[Any], data: str) -> tuple[float, float]:
        """Train and evaluate the Run of these fields; return its test accuracy and the seconds it
        took. A run whose loss is not finite at an evaluation ends there."""
        run = Run(*facts)
        split = split_rows(DATASETS[data], run.seed)
        began, accuracy = time.perf_counter(), math.nan
        self.start(run)
        for step, rows in enumerate(batch_rows(split.train, self.job.network.batch, run), 1):
            loss = self.step(rows)
            if step % run.eval_every == 0 or step == run.steps:
                self.score(split.validation, len(split.validation))
                if not math.isfinite(float(loss)):
                    break
        else:
            accuracy = self.score(split.test, len(split.validation))
        self.wait()
        return accuracy, time.perf_counter() - began
