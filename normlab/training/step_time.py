"""How long a step of a single run takes: the arms in turn, medians."""

from __future__ import annotations

import statistics
import time

from normlab.data import Dataset
from normlab.settings import Config
from normlab.training.population import Population

REPEATS = 7


def step_seconds(configs: dict[str, Config], dataset: Dataset) -> dict[str, float]:
    """Return for each arm the median seconds of a training step of one run, without evaluation.

    The rest of each population is padding, which skips its chunk whole and needs no program more.
    One chunk of each arm in turn, REPEATS times after a warm-up, so that a drift of the machine
    meets all arms alike. Populations are faster per run than this and say nothing about it.
    """
    populations = {arm: Population([config], dataset) for arm, config in configs.items()}
    seconds: dict[str, list[float]] = {arm: [] for arm in configs}
    for repeat in range(REPEATS + 1):
        for arm, population in populations.items():
            length = population.chunk
            run = population.warm_up(length)
            began = time.perf_counter()
            run()
            if repeat:
                seconds[arm].append((time.perf_counter() - began) / length)
    return {arm: statistics.median(times) for arm, times in seconds.items()}
