"""Do a small GPT and an LSTM learn text here as in PyTorch, and how fast?

Both start from the same weights, see the same windows in the same order, and take the same steps of
Adam. The losses of the first steps are compared, and bits per character on the test after all
steps. Steps are counted per second of one processor core. docs/benchmarks.md says how to read the
table.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import runner
from benchmarks.runner import BadSelection, Check, Options, emit
from normlab import data
from normlab.data import Dataset
from normlab.runs.provenance import available_cores
from normlab.settings import Config
from normlab.studies.intervals import t_interval
from normlab.studies.setup import load_config
from normlab.training.batches import MemberBatches
from normlab.training.optim import rate_shape
from normlab.training.population import Population

NETWORKS = ("shakespeare_gpt", "shakespeare_lstm")
"""Names in configs/."""
SEEDS = (0, 1, 2, 3, 4)
EARLY, LIMIT = 10, 1e-4
"""The first steps, and nats that their losses may differ by."""


MEMBERS, CHUNK, ROUNDS = 4, 25, 7
"""Of the speed: runs of the population, steps of its chunk, rounds."""


class Pair(NamedTuple):
    """One seed here and in PyTorch: the losses of the first steps, and bits on the test."""

    early: float
    """Largest difference of the losses of the first EARLY steps, in nats."""
    ours: float
    theirs: float


def torch_network(config: Config, params: dict[str, Any]) -> Any:
    """Return PyTorch's network with these weights."""
    from benchmarks.loops.torch_text import gpt_of, lstm_of

    if config["model.name"] == "decoder":
        return gpt_of(params, config["model.heads"])
    return lstm_of(params)


def train_in_torch(
    config: Config, params: dict[str, Any], dataset: Dataset
) -> tuple[list[float], float]:
    """Return the losses of all steps, and the mean loss on the test, in nats."""
    from benchmarks.loops.torch_text import TextLoop

    loop = TextLoop(torch_network(config, params), dataset.images, dataset.labels)
    batches, steps = MemberBatches(config, dataset), config["train.steps"]
    rates = rate_shape(config["optim.schedule"], config["optim.warmup"], steps)
    rates = rates * config["optim.lr"]
    losses = [
        float(loop.step(rows, float(rate)))
        for rows, rate in zip(batches.chunk(0, steps).train, rates, strict=True)
    ]
    return losses, loop.mean_loss(batches.split.test)


def compare(config: Config, dataset: Dataset, seeds: Sequence[int]) -> list[Pair]:
    """Train every seed here, in one population that keeps all losses, and in PyTorch."""
    often = {"train.eval_every": 1, "eval.curve_examples": 1, "eval.batch": 8}
    often |= {"host.width": len(seeds)}
    configs = [config | often | {"seed": seed} for seed in seeds]
    population = Population(configs, dataset)
    first = jax.device_get(population.start().params)
    population.train(lambda progress: None)
    pairs = []
    for i, (settings, outcome) in enumerate(zip(configs, population.outcomes, strict=True)):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], first)
        losses, theirs = train_in_torch(settings, params, dataset)
        gaps = [row["train_loss"] - loss for row, loss in zip(outcome.curve, losses, strict=True)]
        early = float(np.abs(gaps[:EARLY]).max())
        pairs.append(Pair(early, outcome.final["test_loss"] / math.log(2), theirs / math.log(2)))
    return pairs


def measure_speed(config: Config, dataset: Dataset, rounds: int) -> tuple[list[float], list[float]]:
    """Return training steps per second of the processor, here and in PyTorch, of rounds in turns.
    Here MEMBERS runs train one after another in one program."""
    from benchmarks.loops.torch_text import TextLoop

    wide = {"host.width": MEMBERS, "host.chunk": CHUNK}
    configs = [config | wide | {"seed": seed} for seed in range(MEMBERS)]
    population = Population(configs, dataset)
    params = jax.tree.map(lambda leaf: leaf[0], jax.device_get(population.start().params))
    loop = TextLoop(torch_network(config, params), dataset.images, dataset.labels)
    batches = MemberBatches(configs[0], dataset).chunk(0, population.chunk).train

    def ours() -> tuple[Callable[[], object], int]:
        return population.warm_up(population.chunk), MEMBERS * population.chunk

    def theirs() -> tuple[Callable[[], object], int]:
        return lambda: [loop.step(rows, config["optim.lr"]) for rows in batches], len(batches)

    rates: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for side, prepare in zip(rates, (ours, theirs), strict=True):
            run, steps = prepare()
            began = time.process_time()
            run()
            if number:  # the first round compiles
                side.append(steps / (time.process_time() - began))
    return rates


def judge(name: str, pairs: Sequence[Pair]) -> Check:
    """Return the line of a network. It passes where the losses of the first steps agree, and the
    interval of the mean difference lies within the standard deviation over seeds."""
    ours, theirs = ([getattr(pair, side) for pair in pairs] for side in ("ours", "theirs"))
    differences, spread = np.subtract(ours, theirs), float(np.std(theirs, ddof=1))
    low, high = t_interval(differences.tolist())
    early = max(pair.early for pair in pairs)
    cells = [name, f"{early:.1e}", f"{np.mean(ours):.4f}", f"{np.mean(theirs):.4f}"]
    cells += [f"{differences.mean():+.4f} [{low:+.4f}, {high:+.4f}]", f"{spread:.4f}"]
    return Check(name, cells, early <= LIMIT and -spread < low and high < spread)


def run(options: Options) -> str:
    """Train, print the progress and the table; return the section of the page.

    Raises BadSelection where PyTorch is not installed, DataUnavailable without the text.
    """
    if importlib.util.find_spec("torch") is None:
        raise BadSelection("PyTorch, which the suite compares with, is missing: pip install torch")
    os.sched_setaffinity(0, available_cores()[-1:])
    checks, speeds, ratios, steps = [], [], [], 0
    for name in NETWORKS:
        config = load_config(name)
        emit(f"{name}: {len(SEEDS)} seeds, {config['train.steps']} steps, here and in PyTorch")
        steps = config["train.steps"]
        dataset = data.load(config["data.name"])
        checks.append(judge(name, compare(config, dataset, SEEDS)))
        ours, theirs = measure_speed(config, dataset, options.repeats or ROUNDS)
        ratios.append(runner.ratio_of(ours, theirs))
        speeds.append(
            [name, *(f"{np.median(side):.1f}" for side in (ours, theirs)), ratios[-1].text]
        )
    columns = ["network", f"first {EARLY} losses, nats", "normlab", "PyTorch"]
    columns += ["difference", "standard deviation over seeds", ""]
    title = f"Bits per character of the test after {steps:,} steps, {len(SEEDS)} seeds"
    table = runner.table(title, columns, [check.line for check in checks])
    fast = ["network", "normlab", "PyTorch, eager", "normlab / PyTorch"]
    tables = [table, runner.table("Training steps per second of one core", fast, speeds)]
    head = [runner.machine(["torch", "flax", "optax"]), runner.verdict("networks", checks)]
    return runner.publish([*head, runner.spread_text(ratios)], tables)
