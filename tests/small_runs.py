"""Small configurations for the tests of the engine, and how to train them."""

from __future__ import annotations

from typing import Any

from normlab.data import Dataset
from normlab.settings import Config, defaults
from normlab.training.population import Outcome, Population
from normlab.training.state import TrainState

SMALL: Config = {
    "data.name": "synthetic",
    "data.batch": 32,
    "model.widths": (16, 16),
    "norm.name": "none",
    "train.steps": 20,
    "train.eval_every": 5,
    "eval.curve_examples": 130,
    "eval.batch": 40,
    "eval.stats_examples": 64,
    "host.mode": "map",
    "host.width": 1,
    "host.chunk": 20,
}


def small(changes: dict[str, Any] | None = None, **more: Any) -> Config:
    """A run of half a second with `changes`; group__name=value stands for group.name."""
    return defaults() | SMALL | (changes or {}) | {k.replace("__", "."): v for k, v in more.items()}


def train(configs: list[Config], dataset: Dataset) -> tuple[list[Outcome], TrainState]:
    """Train one population to its end."""
    population = Population(configs, dataset)
    states = population.train(lambda progress: None)
    return population.outcomes, states
