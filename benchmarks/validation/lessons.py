"""The tutorial's network here and in Keras: each trains one lesson, in float32 or in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reference_libraries import import_keras
from normlab.data import Dataset
from normlab.models.build import build_model
from normlab.settings import Config
from normlab.training.batches import MemberBatches
from normlab.training.optim import rate_shape
from normlab.training.population import Population
from normlab.training.state import Hyper, TrainState, hyper_of, init_state
from normlab.training.step import Batch, make_train_step


class Lesson(NamedTuple):
    """What both train: the rows of the batches [T, B] and of the test, in one data set."""

    dataset: Dataset
    rows: np.ndarray
    test: np.ndarray
    weights: dict[str, dict[str, np.ndarray]]
    """What both start from, "dense_1" -> {"kernel": array, "bias": array}."""
    dtype: str = "float32"

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return images in 0..1, [n, H*W*C]."""
        return self.dataset.images[rows] / np.asarray(255, self.dtype)


class Trained(NamedTuple):
    losses: np.ndarray
    """Cross-entropy of every step's batch before the step, [T]."""
    accuracy: float
    """On the test split after the last step, with the running statistics."""


def train_population(
    config: Config, seeds: Sequence[int], dataset: Dataset, steps: int
) -> list[tuple[Lesson, Trained]]:
    """Return, for each seed, what its run began with and what the engine made of it."""
    often = {"train.steps": steps, "train.eval_every": 1, "host.width": len(seeds)}
    cheap = {"eval.curve_examples": 1, "eval.stats_examples": 2}
    population = Population([config | often | cheap | {"seed": seed} for seed in seeds], dataset)
    first = jax.device_get(population.start().params)
    batches = population.batches(0, steps).train
    has_norm = bool(population.train(lambda progress: None).batch_stats)
    found = []
    for i, (seed, outcome) in enumerate(zip(seeds, population.outcomes, strict=True)):
        layers = {name: leaves for name, leaves in first.items() if "kernel" in leaves}
        weights = jax.tree.map(lambda leaf, i=i: leaf[i], layers)
        test = dataset.split(seed).test
        losses = np.full(steps, np.nan)
        for row in outcome.curve:  # one for each step: the mean of one loss is that loss
            losses[int(row["step"]) - 1] = row["train_loss"]
        kind = "running_test_accuracy" if has_norm else "test_accuracy"
        trained = Trained(losses, outcome.final.get(kind, float("nan")))
        found.append((Lesson(dataset, batches[i], test, weights), trained))
    return found


def train_in_float64(
    config: Config, seeds: Sequence[int], dataset: Dataset, steps: int
) -> list[tuple[Lesson, Trained]]:
    """Return the same in float64, where jax allows it.

    A population is in float32 by design. Its network, first weights, batches and step are used.
    """
    net, optimizer = build_model(config, dataset.classes, "lax"), config["optim.name"]
    rates = rate_shape(config["optim.schedule"], config["optim.warmup"], steps).astype(float)

    @jax.jit
    def advance(hyper: Hyper, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        return make_train_step(net, optimizer, hyper)(state, batch)

    found = []
    for seed in seeds:
        settings = config | {"seed": seed, "train.steps": steps}
        hyper, test = hyper_of(settings), dataset.split(seed).test
        rows = MemberBatches(settings, dataset).chunk(0, steps).train
        lesson = Lesson(dataset, rows, test, {}, "float64")
        state = init_state(net, optimizer, hyper, jnp.asarray(lesson.inputs(rows[0])))
        state = jax.tree.map(lambda v: v.astype(float) if v.dtype == jnp.float32 else v, state)
        weights = {k: v for k, v in jax.device_get(state.params).items() if "kernel" in v}
        losses = []
        for now, rate in zip(rows, rates, strict=True):
            batch = map(jnp.asarray, (lesson.inputs(now), dataset.labels[now], rate))
            state, loss = advance(hyper, state, Batch(*batch))
            losses.append(loss)
        logits = np.asarray(net.apply(state.variables, lesson.inputs(test), train=False))
        accuracy = float(np.mean(logits.argmax(-1) == dataset.labels[test]))
        trained = Trained(np.stack(jax.device_get(losses)), accuracy)
        found.append((lesson._replace(weights=weights), trained))
    return found


@contextlib.contextmanager
def arithmetic(dtype: str) -> Iterator[None]:
    """Let jax and Keras compute in `dtype`; afterwards as before."""
    settings = import_keras().config
    floats, policy = settings.floatx(), settings.dtype_policy()
    try:
        settings.set_floatx(dtype)
        settings.set_dtype_policy(dtype)
        with jax.enable_x64(dtype == "float64"):
            yield
    finally:
        settings.set_floatx(floats)
        settings.set_dtype_policy(policy)


class KerasNetwork:
    """The network as a tutorial writes it, compiled once; each `train` begins anew."""

    def __init__(self, config: Config, inputs: int, classes: int):
        keras = import_keras()
        layers = keras.layers
        model = keras.Sequential([keras.Input((inputs,))])
        for i, width in enumerate(config["model.widths"], 1):
            model.add(layers.Dense(width, name=f"dense_{i}"))
            if config["norm.name"] != "none":
                model.add(layers.BatchNormalization())
            model.add(layers.Activation(config["model.act"]))
        model.add(layers.Dense(classes, activation="softmax", name="head"))
        optimizer = keras.optimizers.Adam(config["optim.lr"])
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, loss="sparse_categorical_crossentropy")
        self.model = model
        self.variables = [*model.variables, *optimizer.variables]
        convert = keras.ops.convert_to_numpy
        self.first = [np.array(convert(variable.value)) for variable in self.variables]

    def train(self, lesson: Lesson) -> Trained:
        model, labels = self.model, lesson.dataset.labels
        for variable, value in zip(self.variables, self.first, strict=True):
            variable.assign(value)
        for name, leaves in lesson.weights.items():
            model.get_layer(name).set_weights([leaves["kernel"], leaves["bias"]])
        losses = []
        for rows in lesson.rows:
            model.reset_metrics()  # what is returned is a mean since then
            losses.append(float(model.train_on_batch(lesson.inputs(rows), labels[rows])))
        guesses = model.predict(lesson.inputs(lesson.test), 1000, verbose=0).argmax(-1)
        accuracy = float(np.mean(guesses == labels[lesson.test]))
        return Trained(np.asarray(losses), accuracy)
