"""How long the runs that are left will take: a first guess, corrected by what is measured."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from normlab.data import DATASETS
from normlab.launch.batching import PlannedPopulation
from normlab.launch.engines.engine import WorkerHandle
from normlab.models.table import MODELS
from normlab.runs.config import cohort_id
from normlab.runs.constraints import example_shape
from normlab.settings import SETTINGS, Config, program_key
from normlab.training.evaluation_steps import eval_steps

LAYER_S, OPERATIONS_PER_S = 1e-5, 7e10
"""Seconds of a layer's call, and operations of matrix products in a second, on one core."""
NORMED, PROBED, STOPPED, FITTED = 1.7, 2.5, 0.6, 0.2
"""Factors of the first guess: for a norm, for diagnostics, for runs that stop at an accuracy or at
a training loss."""
COMPILE_S, COMPILE_LAYER_S = 1.5, 0.6
"""Seconds in which a program is compiled, and more of them for each layer."""


def guessed_seconds(config: Config) -> float:
    """Return about how long a run takes, where no run like it was measured."""
    model, data = MODELS[config["model.name"]], DATASETS[config["data.name"]]
    kernel = 9 if model.is_convolutional else 1
    before = data.shape[2] if model.is_convolutional else math.prod(data.shape)
    shapes, products = model.shapes(config, example_shape(config)), 0
    for height, width, channels in shapes:
        products += height * width * channels * before * kernel
        before = channels
    steps, examples = config["train.steps"], config["data.batch"] * config["train.steps"]
    if config["train.late_batch"]:
        early = config["train.late_from"]
        examples = early * config["data.batch"] + (steps - early) * config["train.late_batch"]
    points = len(eval_steps(steps, config["train.eval_every"], config["train.eval_growth"]))
    scored = config["eval.train_examples"] + min(data.validation, config["eval.curve_examples"])
    operations = products * (6 * examples + 2 * points * scored)
    calls = len(shapes) * (steps + points * scored / config["eval.batch"])
    if model.has_time:
        length = example_shape(config)[0]
        operations, calls = operations * length, calls * length
    factor = NORMED if config["norm.name"] != "none" else 1.0
    factor *= PROBED if config["eval.probes"] else 1.0
    factor *= STOPPED if config["train.stop_at"] else 1.0
    factor *= FITTED if config["train.stop_at_loss"] else 1.0
    return factor * (LAYER_S * calls + operations / OPERATIONS_PER_S)


def guessed_compilation(config: Config) -> float:
    """Return about how long a program is compiled, where none was measured."""
    model = MODELS[config["model.name"]]
    seconds = COMPILE_S + COMPILE_LAYER_S * len(model.shapes(config, example_shape(config)))
    return seconds * (PROBED if config["eval.probes"] else 1.0)


@dataclass(frozen=True)
class Kind:
    """What decides the seconds of a run: the same for all runs of a cohort."""

    guess: float
    compile_guess: float
    likes: tuple[Hashable, ...]
    """What it has in common with others, the closest first."""
    program: Hashable


@cache
def _kind(cohort: str, items: tuple[tuple[str, Any], ...]) -> Kind:
    config = dict(items)
    plain = tuple((name, v) for name, v in items if not name.startswith("norm."))
    network = (config["model.name"], config["data.name"])
    compiling = guessed_compilation(config)
    likes = (cohort, plain, network, ())
    return Kind(guessed_seconds(config), compiling, likes, program_key(config))


def kind_of(config: Config) -> Kind:
    common = {name: v for name, v in config.items() if SETTINGS[name].kind != "traced"}
    return _kind(cohort_id(config), tuple(common.items()))


@dataclass
class Work:
    """What a worker does."""

    kind: Kind
    runs: int
    steps: int
    since: float
    """When its seconds began to count."""
    is_new: bool
    """Whether the worker has to compile its program."""
    is_first: bool = False
    """Whether the worker has just started, and loads data before it trains."""
    done: float = 0.0
    """The share of its steps."""
    compiled: float = 0.0
    """Its seconds of compilation."""
    chunks: float = 0.0
    """Its seconds that are counted already."""


class TimeLeft:
    """Learns from the events of the workers what runs cost, and says what is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.spent: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
        """What runs have in common -> seconds that such runs took, and those guessed for them."""
        self.compiled = [0.0, 0.0]
        """Seconds of all compilations, and those guessed for the programs."""
        self.loaded: set[tuple[int, Hashable]] = set()
        """Worker, program that it has compiled or compiles."""
        self.work: dict[int, Work] = {}
        """Worker -> its population."""
        self.kinds: dict[str, Kind] = {}

    @property
    def has_measured(self) -> bool:
        return bool(self.spent)

    def note(self, worker: WorkerHandle, event: str, facts: dict[str, Any]) -> None:
        """Learn from an event."""
        number, now = worker.number, self.clock()
        if event == "given" and worker.population:
            self.work[number] = self._begin(number, worker.population, now)
        work = self.work.get(number)
        if work is None:
            return
        if event == "ready":
            work.is_first = True
        elif event == "resumed":
            work.done = facts["step"] / work.steps
        elif event == "chunk":
            if work.is_first:
                work.since, work.is_first = now - facts["seconds"], False
            self.compiled[0] += facts["compiled"] - work.compiled
            self.compiled[1] += work.kind.compile_guess * work.is_new
            work.compiled, work.is_new = facts["compiled"], False
            self._count(work, now, facts["step"] / work.steps)
        elif event == "done":
            self._count(work, now, 1.0)
        if event in ("done", "failed", "gone"):
            del self.work[number]

    def _begin(self, number: int, population: PlannedPopulation, now: float) -> Work:
        kind, steps = kind_of(population.config), population.config["train.steps"]
        is_new = (number, kind.program) not in self.loaded
        self.loaded.add((number, kind.program))
        return Work(kind, len(population.configs), steps, now, is_new)

    def _count(self, work: Work, now: float, done: float) -> None:
        """Count the seconds of a population since its last event."""
        seconds = now - work.since - work.compiled
        guess = work.kind.guess * work.runs * (done - work.done)
        for like in work.kind.likes:
            self.spent[like][0] += seconds - work.chunks
            self.spent[like][1] += guess
        work.chunks, work.done = seconds, done

    def run_seconds(self, kind: Kind) -> float:
        """Return the seconds of a run: those guessed, times how much longer than guessed similar
        runs took. The most similar ones that were measured count."""
        for like in kind.likes:
            seconds, guess = self.spent.get(like, (0.0, 0.0))
            if guess > 0:
                return kind.guess * seconds / guess
        return kind.guess

    def _kind(self, name: str, config: Config) -> Kind:
        if name not in self.kinds:
            self.kinds[name] = kind_of(config)
        return self.kinds[name]

    def seconds(self, runs: Iterable[tuple[str, Config]], workers: int) -> float:
        """Return how long `workers` need for runs, those in training included."""
        kinds = Counter(self._kind(name, config) for name, config in runs)
        total = sum(count * self.run_seconds(kind) for kind, count in kinds.items())
        total += self._compile_seconds(kinds)
        longest = 0.0
        for work in self.work.values():
            whole = work.runs * self.run_seconds(work.kind)
            total -= whole * work.done
            longest = max(longest, whole * (1 - work.done))
        return max(longest, total / workers)

    def _compile_seconds(self, kinds: Iterable[Kind]) -> float:
        """Return the seconds of the compilations that are left. A program that is new takes as many
        of them as one took until now: several workers may need it."""
        programs = {program for _, program in self.loaded}
        new = {kind.program: kind.compile_guess for kind in kinds if kind.program not in programs}
        guess = sum(new.values()) * len(self.loaded) / max(1, len(programs))
        guess += sum(work.kind.compile_guess for work in self.work.values() if work.is_new)
        compiled, guessed = self.compiled
        return guess * (compiled / guessed if guessed else 1.0)
