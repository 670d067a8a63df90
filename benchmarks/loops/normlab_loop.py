"""normlab's population, or one worker's share of it: the engine's own compiled program."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.loops.network import CLASSES, Job, Network
from normlab.data import Dataset, Split
from normlab.launch.costs import peak_memory
from normlab.models.build import build_model
from normlab.settings import Config, defaults
from normlab.training.batches import batch_rows
from normlab.training.population import Population
from normlab.training.program import CPU_OPTIONS, input_shape
from normlab.training.state import hyper_of, init_state

CHUNKS = 8
"""Chunks whose batches are drawn beforehand; a longer loop repeats them."""
SCORED = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Images(Dataset):
    """Images that all train; the first are scored where a program has to score some."""

    def split(self, seed: int, train: int = 0, validation: int = 0) -> Split:
        del seed, train, validation
        rows = np.arange(len(self.images), dtype=np.int32)
        return Split(rows, rows[:SCORED], rows[:SCORED])


def config_of(network: Network, seed: int = 0) -> Config:
    return defaults() | network.settings | {"seed": seed}


def first_weights(network: Network) -> dict[str, dict[str, np.ndarray]]:
    """Return what seed 0 starts from, "conv_1" -> {"kernel": array, "bias": array}."""
    config = config_of(network)
    net = build_model(config, CLASSES, "lax")
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    x = jnp.zeros((2, *input_shape(config, network.shape)))

    def start():
        return init_state(net, "momentum", hyper_of(config), x).params

    weights: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in flatten_dict(jax.jit(start, compiler_options=options)()).items():
        weights.setdefault("_".join(path[:-1]), {})[path[-1]] = np.asarray(leaf)
    return weights


def first_rows(network: Network, examples: int, steps: int) -> np.ndarray:
    """Return the batches that seed 0 sees first, [steps, B]."""
    rows = np.arange(examples, dtype=np.int32)
    return batch_rows(Split(rows, rows[:0], rows[:0]), 0, network.batch, 0, steps)


class Loop:
    """Members of the given seeds, advanced by chunks of `length` steps; `run` counts chunks."""

    def __init__(self, job: Job, seeds: Sequence[int], length: int):
        host = {"host.width": len(seeds), "host.chunk": length, "train.steps": CHUNKS * length}
        host["train.eval_every"] = CHUNKS * length
        configs = [config_of(job.network, seed) | host for seed in seeds]
        images = Images("random", job.images, job.labels, job.network.shape, CLASSES, "")
        self.population = Population(configs, images)
        self.batches = [self.population.batches(i * length, length) for i in range(CHUNKS)]
        nothing = np.zeros(length, np.int32)
        table = self.population.schedule.chunk(0, length)._replace(scored=nothing)
        self.idle = table._replace(is_step=np.zeros(length, bool))
        self.table = table._replace(is_step=np.ones(length, bool))
        began = time.perf_counter()
        self._begin()
        self._advance(0, self.idle)
        self.compile_seconds = time.perf_counter() - began

    def _begin(self) -> None:
        self.states = self.population.start()

    def _advance(self, chunk: int, table):
        p, batches = self.population, self.batches[chunk % CHUNKS]
        self.states, trace = p.program.advance(self.states, p.hyper, batches, table, p.images)
        return jax.block_until_ready(trace.loss)

    def costs(self) -> tuple[float, float]:
        """Return the seconds of compilation, and the most memory so far in MB of 2^20 bytes."""
        return self.compile_seconds, peak_memory() / 2**20

    def losses(self, steps: int) -> list[float]:
        """Return the first losses of the first member."""
        self._begin()
        losses: list[float] = []
        chunk = 0
        while len(losses) < steps:
            losses += np.asarray(self._advance(chunk, self.table)[0]).tolist()
            chunk += 1
        return losses[:steps]

    def run(self, chunks: int) -> float:
        """Advance all members by that many chunks and return the seconds it took."""
        began = time.perf_counter()
        for chunk in range(chunks):
            self._advance(chunk, self.table)
        jax.block_until_ready(self.states)
        return time.perf_counter() - began
