"""Small configurations for the tests of training, how to train them, and layers that only log."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normlab.data import Dataset
from normlab.norms import Layers
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


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaves_of(tree: Any) -> dict[str, Any]:
    """Return the leaves of nested dicts by their path, "conv_1/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(k.key for k in path): leaf for path, leaf in leaves}


def member(states: Any, i: int = 0) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf[i]), states._replace(key=states.step))


def record(net: Any, shape: tuple[int, ...], train: bool = True) -> list[tuple[str, Any, Any]]:
    """Return what the layers of `net` note in a pass over a batch of this shape."""
    log: list = []
    net = net.clone(layers=recorder(log))
    jax.eval_shape(lambda x: net.apply({}, x, train=train), draw(shape))
    return log


def recorder(log: list) -> Layers:
    """Return layers that note their name, the shape they receive and, of norms, `train`, `mask`."""

    def layer(result):
        def make(*arguments, name, **options):
            def call(x, **flags):
                log.append((name, x.shape[1:], flags))
                return result(x, *arguments, **options)

            return call

        return make

    def convolved(x, features, kernel_init, stride, size=3):
        return jnp.zeros((*x[:, ::stride, ::stride].shape[:3], features))

    dense = layer(lambda x, features, kernel_init: jnp.zeros((len(x), features)))
    same = layer(lambda x: x)
    return Layers(conv=layer(convolved), dense=dense, head=dense, norm=same, act=same)
