"""Training on images that are not on the device: every chunk brings those that it needs.

The compiled program stays the same. Its images are those of every evaluation, then those of one
chunk's batches, and rows count among them. A thread reads the next images while the device trains.
What is scored only once, after the last step, follows in pieces that are as small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from normlab.data import Dataset
from normlab.settings import Config
from normlab.training.evaluate import CURVE_PARTS, PARTS, Scoring
from normlab.training.mesh import to_devices
from normlab.training.program import ChunkBatches, ScheduleChunk, Trace
from normlab.training.state import TrainState

FITS = 0.5
"""Of a device's memory that images may take before they are streamed."""
MOST_BYTES, MOST_EXAMPLES = 1_000_000_000, 0.125
"""Images of a chunk's batches: bytes, and the share of all examples. Twice these bytes are needed
in the host's memory."""
TOGETHER = len(PARTS)
"""Batches of a piece. Each has the place of a part, so that the program does not add them up. The
host does, one after the other, as the program would with all images on the device."""


def is_streamed(config: Config, dataset: Dataset) -> bool:
    """Return whether images are brought chunk by chunk."""
    if config["data.stream"] != "auto":
        return config["data.stream"] == "on"
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", float("inf"))
    return not isinstance(dataset.images, np.ndarray) or dataset.images.nbytes > FITS * limit


def stream_chunk(config: Config, dataset: Dataset, chunk: int, orders: int) -> int:
    """Return the steps of a chunk, at most `chunk`, so that the images of its batches are few.
    `orders`: in how many orders the members visit the examples."""
    size, examples = dataset.images.nbytes / len(dataset.images), len(dataset.images)
    most = min(MOST_BYTES / size, MOST_EXAMPLES * examples)
    return max(1, min(chunk, int(most // (config["data.batch"] * orders))))


class Stream:
    """The batches of a population and their images, one chunk after the other.

    `batches(first, length)` returns the rows of all members in the data set. `home` is where the
    images are to be. A chunk is a function of its first step, so a stream can begin at any.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        batches: Callable[[int, int], ChunkBatches],
        length: int,
        orders: int,
        home: Any,
    ):
        self.batches, self.length, self.home = batches, length, home
        self.steps, self.source = config["train.steps"], dataset.images
        self.quiet = batches(0, 1)
        self.plan = self.quiet.scoring
        every = self.plan.rows.shape[1]
        # Such runs are scored in full at any evaluation, or by a loop of their own.
        is_whole = bool(config["train.stop_at_loss"] or config["eval.long"])
        self.curve = every if is_whole else int(np.isin(self.plan.parts[0], CURVE_PARTS).sum())
        self.pieces = range(self.curve, every, TOGETHER)
        fixed = [self.quiet.stats, self.quiet.held_out, self.plan.rows[:, : self.curve]]
        # Row 0 is that of all padding.
        self.kept = np.unique(np.concatenate([[0], *(rows.ravel() for rows in fixed)]))
        parts = [len(np.unique(self.plan.rows[:, i : i + TOGETHER])) for i in self.pieces]
        room = min(len(self.source), max(orders * length * config["data.batch"], *parts, 1))
        shape = (len(self.kept) + room, *self.source.shape[1:])
        self.like = jax.ShapeDtypeStruct(shape, self.source.dtype)
        self.buffers = [np.zeros(shape, self.source.dtype) for _ in range(2)]
        self.buffers[0][: len(self.kept)] = self.buffers[1][: len(self.kept)] = self.source[
            self.kept
        ]
        self.reader = ThreadPoolExecutor(1, "images")
        self.held: tuple[int, ChunkBatches, jax.Array] | None = None
        self.ahead: tuple[int, Future[tuple[ChunkBatches, np.ndarray]]] | None = None
        self.waited = 0.0
        """Seconds in which the device had nothing to do but wait for images."""

    def facts(self) -> dict[str, float]:
        """Return the seconds waited for images so far, and the 10^6 bytes of them on the device."""
        buffer = round(self.buffers[0].nbytes / 1e6, 3)
        return {"data_wait_seconds": round(self.waited, 3), "data_buffer_mb": buffer}

    def take(self, place: int) -> tuple[ChunkBatches, jax.Array]:
        """Return the batches of the chunk that begins at step `place`, and the images of their
        rows. They are good until the next is taken. From train.steps on, places are pieces."""
        if self.held and self.held[0] == place:
            return self.held[1:]
        began = time.monotonic()
        if self.ahead is None or self.ahead[0] != place:
            self.ahead = self._read_ahead(place)
        batches, buffer = self.ahead[1].result()
        self.held = None  # so that the device never holds two
        images = jax.block_until_ready(to_devices(buffer, self.home))
        self.waited += time.monotonic() - began
        self.held = place, batches, images
        after = min(place + self.length, self.steps) if place < self.steps else place + 1
        is_last = after == self.steps + len(self.pieces)
        self.ahead = None if is_last else self._read_ahead(after)
        return batches, images

    def _read_ahead(self, place: int) -> tuple[int, Future[tuple[ChunkBatches, np.ndarray]]]:
        self.buffers.reverse()  # the device may still see the first one
        return place, self.reader.submit(self._read, place, self.buffers[1])

    def _read(self, place: int, buffer: np.ndarray) -> tuple[ChunkBatches, np.ndarray]:
        if place < self.steps:
            batches = self.batches(place, self.length)
            rows, plan = batches.train, self._plan(range(self.curve))
        else:
            begin = self.pieces[place - self.steps]
            plan = self._plan(range(begin, begin + TOGETHER))
            rows, parts = plan.rows, np.arange(plan.parts.shape[1], dtype=np.int32) % TOGETHER
            plan = plan._replace(parts=np.tile(parts, (len(rows), 1)))
            train, labels = (np.repeat(np.zeros_like(v), self.length, 1) for v in self.quiet[:2])
            batches = self.quiet._replace(train=train, labels=labels)
        new, first = np.setdiff1d(rows, self.kept), len(self.kept)
        buffer[first : first + len(new)] = self.source[new]
        number = np.full(len(self.source), -1, np.int32)
        number[self.kept] = np.arange(first)
        number[new] = np.arange(first, first + len(new))
        renumbered = {
            name: number[getattr(batches, name)] for name in ("train", "stats", "held_out")
        }
        return batches._replace(**renumbered, scoring=plan._replace(rows=number[plan.rows])), buffer

    def _plan(self, part: range) -> Scoring:
        """Return these batches of the plan, padded to the size that all such plans have."""
        size = max(self.curve, TOGETHER)

        def cut(leaf: np.ndarray) -> np.ndarray:
            found = leaf[:, part.start : part.stop]
            behind = [(0, 0), (0, size - found.shape[1]), *[(0, 0)] * (leaf.ndim - 2)]
            return np.pad(found, behind)

        return jax.tree.map(cut, self.plan)

    def finish(
        self,
        advance: Callable[..., tuple[TrainState, Trace]],
        states: TrainState,
        hyper: Any,
        schedule: ScheduleChunk,
        trace: Trace,
        at: int,
    ) -> tuple[TrainState, Trace]:
        """Return the states, and the trace of the last chunk with all scores of its step `at`. In a
        piece the program takes no step."""
        scores = jax.tree.map(np.array, trace.scores)
        schedule = schedule._replace(is_step=np.zeros_like(schedule.is_step))
        for i, begin in enumerate(self.pieces):
            batches, images = self.take(self.steps + i)
            parts = self.plan.parts[0, begin : begin + TOGETHER]
            scored = np.zeros_like(schedule.scored)
            scored[0] = len(parts)
            given = (states, hyper, batches, schedule._replace(scored=scored), images)
            states, found = advance(*given)
            for total, more in zip(scores, jax.device_get(found.scores), strict=True):
                for j, part in enumerate(parts):
                    total[:, at, :, part] += more[:, 0, :, j]
        return states, trace._replace(scores=scores)
