"""Train a population: runs that share every static setting, in one compiled program.

A single run is a population of one. Between chunks the host looks at the scores, so that progress,
divergence and signals need no callback inside the compiled code.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normlab.data import Dataset
from normlab.settings import Config
from normlab.training.batches import MemberBatches, Schedule
from normlab.training.evaluate import CURVE_PARTS
from normlab.training.flops import step_flops
from normlab.training.mesh import choose_spread, even_width, to_devices
from normlab.training.outcome import Outcome
from normlab.training.program import ChunkBatches, Trace, compile_program
from normlab.training.snapshot import Snapshot, arrays_of, states_of
from normlab.training.state import Hyper, TrainState, hyper_of
from normlab.training.stream import Stream, is_streamed, stream_chunk

MODES = ("", "running_", "batch_")
"""Prefix of the metrics of each mode: re-estimated statistics (or none), running ones, and those of
the very batch that is scored."""
SEEN_GROUPS = {"train_set_": [3], "replaced_": [4]}
CURVE_GROUPS = {"": [0], **SEEN_GROUPS}
FINAL_GROUPS = {"validation_": [0, 1], "test_": [2], **SEEN_GROUPS, "long_": [5]}
"""Prefix of the metrics of a curve's row, and of a run's end -> the parts they are taken of."""
SEEDS = ("seed", "init_seed")
CHUNK_FLOPS = 200_000_000_000
"""Operations in the matrix products of a full population's chunk on a CPU; a core does 20 to 60
thousand million a second (2026-11-20)."""


@dataclass(frozen=True)
class Progress:
    """What the host sees after each chunk."""

    step: int
    steps: int
    alive: int
    train_loss: float
    best_accuracy: float
    seconds: float
    waited: float
    """Seconds of them in which the device waited for images."""
    rows: list[list[dict[str, float]]]
    """The new curve rows of each member."""
    snapshot: Callable[[], Snapshot]
    """Copies all that is needed to continue from here; to be called before the next chunk."""


def choose_mode(mode: str) -> str:
    """Return map on a CPU, vmap elsewhere, unless the setting says which."""
    if mode != "auto":
        return mode
    return "map" if jax.default_backend() == "cpu" else "vmap"


def choose_conv(form: str, mode: str) -> str:
    """Return the form of the convolutions for members that run by `mode`."""
    if form == "auto" and jax.default_backend() == "cpu":
        return "cpu" if mode == "map" else "patches"
    return "lax" if form == "auto" else form


def choose_chunk(config: Config, flops: int) -> int:
    """Return the steps of a chunk: on a CPU at most as many as take some seconds. So the host
    can save and leave in time. A function of the settings alone, since it decides the program."""
    if jax.default_backend() != "cpu":
        return config["host.chunk"]
    return max(1, min(config["host.chunk"], CHUNK_FLOPS // (flops * config["host.width"])))


def stack(members: list[Any], width: int) -> Any:
    """Return the members' leaves stacked along S, the last member repeated up to `width`."""
    padded = members + [members[-1]] * (width - len(members))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)


def stack_batches(
    members: list[MemberBatches], width: int, first: int, length: int
) -> ChunkBatches:
    return stack([m.chunk(first, length) for m in members], width)


class Population:
    """S runs in lockstep: `for progress in population.train(): ...`, then `population.outcomes`."""

    def __init__(self, configs: list[Config], dataset: Dataset):
        first = configs[0]
        self.config, self.size, self.spread = first, len(configs), choose_spread(first)
        self.width = even_width(max(first["host.width"], self.size), self.spread)
        self.mode = choose_mode(first["host.mode"])
        self.conv_form = choose_conv(first["host.conv"], self.mode)
        self.outcomes = [Outcome() for _ in configs]
        self.members = [MemberBatches(c, dataset) for c in configs]
        member = self.members[0]
        self.flops = step_flops(first, dataset.shape, dataset.classes)
        self.chunk = choose_chunk(first, self.flops)
        self.program = compile_program(
            first, dataset.shape, dataset.classes, self.conv_form, self.mode, self.spread
        )
        self.stream, batches = None, len(member.scoring.parts)
        if is_streamed(first, dataset):
            orders, home = len({c["seed"] for c in configs}), self.program.home
            self.chunk = stream_chunk(first, dataset, self.chunk, orders)
            rows = functools.partial(stack_batches, self.members, self.width)
            self.stream = Stream(first, dataset, rows, self.chunk, orders, home)
            self.images, batches = self.stream.like, self.stream.curve
        else:
            self.images = to_devices(np.asarray(dataset.images), self.program.home)
        self.schedule = Schedule(first, member.curve_batches, batches)
        self.hyper = self._stack_hyper(configs)

    def _stack_hyper(self, configs: list[Config]) -> Hyper:
        values = stack([hyper_of(c) for c in configs], self.width)
        seeds = {name: np.asarray(getattr(values, name), np.uint32) for name in SEEDS}
        return Hyper(*(np.asarray(v, np.float32) for v in values))._replace(**seeds)

    def _start_inputs(self) -> tuple[Any, ...]:
        rows = stack([m.chunk(0, 1).train[0] for m in self.members], self.width)
        return self.hyper, rows, self.images

    def start(self) -> TrainState:
        """Return the states at step 0; the padding behind the last member is not alive."""
        inputs = self._start_inputs()
        if self.stream:
            batches, images = self.feed(0)
            inputs = self.hyper, batches.train[:, 0], images
        states = self.program.start(*inputs)
        return states._replace(is_alive=jnp.arange(self.width) < self.size)

    def resume(self, snapshot: Snapshot) -> TrainState:
        """Return the states of a snapshot and take over its outcomes; raises ValueError where it is
        of another population."""
        like = jax.eval_shape(inspect.unwrap(self.program.start), *self._start_inputs())
        states = states_of(snapshot.arrays, snapshot.key_kind, like, self.size, self.width)
        self.outcomes = [Outcome(**facts) for facts in snapshot.outcomes]
        alive = np.arange(self.width) < self.size
        return states._replace(is_alive=states.is_alive & alive)

    def _snapshot(self, step: int, states: TrainState) -> Snapshot:
        arrays, kind = arrays_of(states, self.size)
        return Snapshot(step, arrays, kind, [asdict(outcome) for outcome in self.outcomes])

    def batches(self, first: int, length: int) -> ChunkBatches:
        return stack_batches(self.members, self.width, first, length)

    def feed(self, first: int) -> tuple[ChunkBatches, Any]:
        """Return the batches of the chunk from step `first` on, and the images of their rows."""
        if self.stream:
            return self.stream.take(first)
        return self.batches(first, self.chunk), self.images

    def train(
        self, on_chunk: Callable[[Progress], None], resumed: Snapshot | None = None
    ) -> TrainState:
        """Train all members to the end, calling `on_chunk` after every chunk; from the step of
        `resumed` on, where there is one."""
        steps, length = self.config["train.steps"], self.chunk
        began = time.monotonic()
        states = self.resume(resumed) if resumed else self.start()
        for first in range(resumed.step if resumed else 0, steps, length):
            (batches, images), now = self.feed(first), self.schedule.chunk(first, length)
            states, trace = self.program.advance(states, self.hyper, batches, now, images)
            trace, end = jax.device_get(trace), min(first + length, steps)
            if self.stream and end == steps:
                given = (states, self.hyper, now, trace, end - 1 - first)
                states, trace = self.stream.finish(self.program.advance, *given)
            rows = self._note(first, trace)
            states = self._stop(states)
            take = functools.partial(self._snapshot, end, states)
            on_chunk(self._progress(end, rows, time.monotonic() - began, take))
            if all(o.is_over for o in self.outcomes):
                break
        return states

    def warm_up(self, steps: int) -> Callable[[], None]:
        """Return a call that advances fresh members by their first `steps` steps without evaluation
        and drops them; call it once. It needs no program but that of `train`, because the rest of
        the chunk is padding."""
        length = self.chunk
        states, (batches, images) = self.start(), self.feed(0)
        schedule = self.schedule.chunk(0, length)
        schedule = schedule._replace(
            scored=np.zeros(length, np.int32), is_step=np.arange(length) < steps
        )
        jax.block_until_ready(states)

        def run() -> None:
            out = self.program.advance(states, self.hyper, batches, schedule, images)
            jax.block_until_ready(out)

        return run

    def _fits(self, trace: Trace, at: int) -> bool:
        """Return whether train.stop_at_loss was reached, in the program's own arithmetic."""
        limit = np.float32(self.config["train.stop_at_loss"])
        if not limit:
            return False
        parts = list(CURVE_PARTS[1:])
        loss, count = (v[at, 0, parts].sum() for v in (trace.scores.loss, trace.scores.count))
        return bool(loss / count <= limit)

    def _stop(self, states: TrainState) -> TrainState:
        """Let the members that have reached train.stop_at cost nothing more."""
        if not self.config["train.stop_at"]:
            return states
        goes_on = np.zeros(self.width, bool)
        goes_on[: self.size] = [not o.is_over for o in self.outcomes]
        return states._replace(is_alive=states.is_alive & goes_on)

    def _note(self, first: int, trace: Trace) -> list[list[dict[str, float]]]:
        points = [p for p in self.schedule.points if first < p <= first + trace.loss.shape[1]]
        return [
            self._note_member(outcome, first, points, jax.tree.map(lambda v, i=i: v[i], trace))
            for i, outcome in enumerate(self.outcomes)
        ]

    def _note_member(self, outcome: Outcome, first: int, points: list[int], trace: Trace):
        rows: list[dict[str, float]] = []
        if outcome.is_over:
            return rows
        steps = min(len(trace.loss), self.config["train.steps"] - first)
        is_end = ~np.isfinite(trace.loss[:steps]) & (self.config["train.on_nonfinite"] == "diverge")
        bad = np.flatnonzero(is_end)
        end = first + (int(bad[0]) if len(bad) else steps)
        position = first
        for point in [p for p in points if p <= end]:
            at = point - first - 1
            outcome.add_losses(trace.loss[position - first : at + 1])
            position = point
            row = {
                "step": point,
                "train_loss": outcome.take_mean_loss(),
                **metrics(trace, at, CURVE_GROUPS),
            }
            row |= {name: float(values[at]) for name, values in trace.diagnostics.items()}
            rows.append(row)
            self._end(outcome, row, trace, at)
            if outcome.is_over:
                break
        if not outcome.is_over:
            outcome.add_losses(trace.loss[position - first : end - first])
        outcome.curve += rows
        if len(bad) and not outcome.is_over:
            outcome.diverged_at = end + 1
        return rows

    def _end(self, outcome: Outcome, row: dict[str, float], trace: Trace, at: int) -> None:
        """Note whether the run ends at this row, and its final metrics if it does."""
        step, target = int(row["step"]), self.config["train.stop_at"]
        if not np.isfinite(row["loss"]):
            outcome.diverged_at = step
        elif self._fits(trace, at):
            outcome.stopped_at, outcome.final = step, metrics(trace, at, FINAL_GROUPS)
        elif 0 < target <= row["accuracy"]:  # the test split is not looked at
            outcome.stopped_at = step
            outcome.final = {f"validation_{name}": row[name] for name in ("loss", "accuracy")}
        elif step == self.config["train.steps"]:
            outcome.final = metrics(trace, at, FINAL_GROUPS)

    def _progress(
        self, step: int, rows, seconds: float, snapshot: Callable[[], Snapshot]
    ) -> Progress:
        finite = [o for o in self.outcomes if o.diverged_at is None]
        losses = [o.curve[-1]["train_loss"] for o in finite if o.curve]
        accuracies = [r["accuracy"] for o in self.outcomes for r in o.curve]
        return Progress(
            step=step,
            steps=self.config["train.steps"],
            alive=sum(not o.is_over for o in self.outcomes),
            train_loss=float(np.median(losses)) if losses else float("nan"),
            best_accuracy=max(accuracies, default=float("nan")),
            seconds=seconds,
            waited=self.stream.waited if self.stream else 0.0,
            rows=rows,
            snapshot=snapshot,
        )


def metrics(trace: Trace, at: int, groups: dict[str, list[int]]) -> dict[str, float]:
    """Return loss and accuracy, of each mode, on each group of parts that has examples."""
    out: dict[str, float] = {}
    for mode in range(trace.scores.count.shape[1]):
        for name, parts in groups.items():
            loss, correct, count = (float(v[at, mode, parts].sum()) for v in trace.scores)
            if count:
                out[f"{MODES[mode]}{name}loss"] = loss / count
                out[f"{MODES[mode]}{name}accuracy"] = correct / count
    return out
