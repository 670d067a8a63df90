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


def loop_of(population: Population, at: int, dataset: Dataset) -> Any:
    """Return PyTorch's loop with the first weights of a member."""
    from benchmarks.loops.torch_text import TextLoop, gpt_of, lstm_of

    params = jax.tree.map(lambda leaf: np.asarray(leaf[at]), population.start().params)
    is_gpt = population.config["model.name"] == "decoder"
    net = gpt_of(params, population.config["model.heads"]) if is_gpt else lstm_of(params)
    return TextLoop(net, dataset.images, dataset.labels)


def compare(config: Config, dataset: Dataset, seeds: Sequence[int]) -> list[Pair]:
    """Train every seed here, in one population that keeps all losses, and in PyTorch."""
    often = {"train.eval_every": 1, "eval.curve_examples": 1, "eval.batch": 8}
    often |= {"host.width": len(seeds)}
    population = Population([config | often | {"seed": seed} for seed in seeds], dataset)
    loops = [loop_of(population, i, dataset) for i in range(len(seeds))]
    population.train(lambda progress: None)
    rates = population.schedule.rate * config["optim.lr"]
    pairs = []
    for member, outcome, loop in zip(population.members, population.outcomes, loops, strict=True):
        steps = zip(member.chunk(0, len(rates)).train, rates, strict=True)
        losses = [float(loop.step(rows, float(rate))) for rows, rate in steps]
        gaps = [row["train_loss"] - loss for row, loss in zip(outcome.curve, losses, strict=True)]
        nats = outcome.final["test_loss"], loop.mean_loss(member.split.test)
        pairs.append(Pair(float(np.abs(gaps[:EARLY]).max()), *(n / math.log(2) for n in nats)))
    return pairs


def measure_speed(config: Config, dataset: Dataset, rounds: int) -> dict[str, list[float]]:
    """Return training steps per second of the processor, here and in PyTorch. Here MEMBERS runs
    train one after another in one program."""
    wide = {"host.width": MEMBERS, "host.chunk": CHUNK}
    population = Population([config | wide | {"seed": s} for s in range(MEMBERS)], dataset)
    loop, batches = loop_of(population, 0, dataset), population.members[0].chunk(0, CHUNK).train

    def rate(run: Callable[[], object], steps: int) -> float:
        began = time.process_time()
        run()
        return steps / (time.process_time() - began)

    def ours() -> float:
        return rate(population.warm_up(population.chunk), MEMBERS * population.chunk)

    def theirs() -> float:
        return rate(lambda: [loop.step(r, config["optim.lr"]) for r in batches], len(batches))

    return runner.take_turns({"normlab": ours, "PyTorch": theirs}, rounds, warm_up=1)


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
        ours, theirs = measure_speed(config, dataset, options.repeats or ROUNDS).values()
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
