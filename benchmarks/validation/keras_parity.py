"""Whether the network of many a first lesson trains here as in Keras: the losses of both, by step.

Both start from the same weights and see the same batches. Keras's side is written as a lesson
writes it, with every default of Keras; ours is a population, whose settings say the same. Keras
also trains beside itself, the examples of each batch in reverse order: what rounding alone does.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import BadSelection
from benchmarks.page import Table, machine
from normlab.data import Dataset
from normlab.settings import Config
from normlab.training.population import Population

SEEDS = (0, 1, 2)
STEPS, LIMIT = 100, 1e-4
"""Steps in which the losses may differ by LIMIT nats at most."""
BEYOND = 1000
"""Steps that are taken; what comes behind STEPS is told, not judged."""
MORE = tuple(range(3, 20))
"""Further seeds that take STEPS steps, to tell how often rounding exceeds LIMIT; not judged."""
TOLD = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps whose losses are recorded."""
PACKAGES = ("keras", "flax", "optax")


class Arm(NamedTuple):
    norm: str
    act: str = "relu"
    is_judged: bool = True

    @property
    def settings(self) -> Config:
        return {"norm.name": self.norm, "model.act": self.act}


ARMS = (Arm("batch"), Arm("none"), Arm("batch", "tanh", is_judged=False))
"""The network, without its norm, and without the kink of ReLU, at which rounding is amplified."""


class Lesson(NamedTuple):
    """What both train: flat uint8 images with labels, the rows of the batches [T, B] and of the
    test, and the first weights, "dense_1" -> {"kernel": array, "bias": array}."""

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    test: np.ndarray
    weights: dict[str, dict[str, np.ndarray]]

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return images in 0..1, float32 [n, H*W*C]."""
        return self.images[rows] / np.float32(255)

    @property
    def reversed(self) -> Lesson:
        """Return it with the examples of each batch in reverse order."""
        return self._replace(rows=self.rows[:, ::-1])


class Trained(NamedTuple):
    losses: np.ndarray
    """Cross-entropy of every step's batch before the step, [T]."""
    running: dict[str, np.ndarray]
    """Running "mean" and "var" of the norms after the last step, all norms behind one another."""
    accuracy: float
    """On the test split after the last step, with the running statistics."""


def difference(a: Trained, b: Trained, steps: int | None = None) -> float:
    """Return the largest absolute difference of the losses of the first `steps` steps (of all)."""
    return float(np.max(np.abs(a.losses[:steps] - b.losses[:steps])))


class Run(NamedTuple):
    """The same run here, in Keras, and in Keras with the batches reversed."""

    arm: Arm
    seed: int
    ours: Trained
    keras: Trained
    reverse: Trained

    @property
    def is_within_limit(self) -> bool:
        return difference(self.ours, self.keras, STEPS) <= LIMIT

    @property
    def facts(self) -> dict[str, Any]:
        sides = {"normlab": self.ours, "keras": self.keras, "keras_reversed": self.reverse}
        pairs = {
            "normlab_keras": (self.ours, self.keras),
            "keras_keras_reversed": (self.keras, self.reverse),
            "normlab_keras_reversed": (self.ours, self.reverse),
        }
        total = len(self.ours.losses)
        return {
            **self.arm._asdict(),
            "seed": self.seed,
            "is_within_limit": self.is_within_limit,
            "largest_difference": {k: difference(*pair, STEPS) for k, pair in pairs.items()},
            f"largest_difference_of_{total}": {k: difference(*pair) for k, pair in pairs.items()},
            "losses": {
                name: {str(step): float(side.losses[step - 1]) for step in TOLD if step <= total}
                for name, side in sides.items()
            },
            f"test_accuracy_after_{total}": {name: side.accuracy for name, side in sides.items()},
        }


def train_population(
    config: Config, seeds: Sequence[int], dataset: Dataset, steps: int
) -> list[tuple[Lesson, Trained]]:
    """Return, for each seed, what its run began with and what the engine made of it."""
    often = {"train.steps": steps, "train.eval_every": 1, "host.width": len(seeds)}
    cheap = {"eval.curve_examples": 1, "eval.stats_examples": 2}
    population = Population([config | often | cheap | {"seed": seed} for seed in seeds], dataset)
    first = jax.device_get(population.start().params)
    batches = population.feed(0, steps).train
    end = jax.device_get(population.train(lambda progress: None).batch_stats)
    found = []
    for i, (seed, outcome) in enumerate(zip(seeds, population.outcomes, strict=True)):
        layers = {name: leaves for name, leaves in first.items() if "kernel" in leaves}
        weights = jax.tree.map(lambda leaf, i=i: leaf[i], layers)
        test = dataset.split(seed).test
        losses = np.full(steps, np.nan)
        for row in outcome.curve:  # one for each step: the mean of one loss is that loss
            losses[int(row["step"]) - 1] = row["train_loss"]
        norms = [end[name] for name in sorted(end)]
        running = {
            k: np.concatenate([[], *(norm[k][i] for norm in norms)]) for k in ("mean", "var")
        }
        kind = "running_test_accuracy" if norms else "test_accuracy"
        trained = Trained(losses, running, outcome.final.get(kind, float("nan")))
        found.append((Lesson(dataset.images, dataset.labels, batches[i], test, weights), trained))
    return found


def as_array(variable: Any) -> np.ndarray:
    """Return a copy of a Keras variable's value."""
    return np.array(importlib.import_module("keras").ops.convert_to_numpy(variable.value))


class KerasNetwork:
    """The network as a lesson writes it, compiled once; each `train` begins anew."""

    def __init__(self, config: Config, inputs: int, classes: int):
        keras = importlib.import_module("keras")
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
        self.first = [as_array(variable) for variable in self.variables]

    def train(self, lesson: Lesson) -> Trained:
        model = self.model
        for variable, value in zip(self.variables, self.first, strict=True):
            variable.assign(value)
        for name, leaves in lesson.weights.items():
            model.get_layer(name).set_weights([leaves["kernel"], leaves["bias"]])
        losses = []
        for rows in lesson.rows:
            model.reset_metrics()  # what is returned is a mean since then
            losses.append(float(model.train_on_batch(lesson.inputs(rows), lesson.labels[rows])))
        norms = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
        running = {
            "mean": np.concatenate([[], *(as_array(n.moving_mean) for n in norms)]),
            "var": np.concatenate([[], *(as_array(n.moving_variance) for n in norms)]),
        }
        guesses = model.predict(lesson.inputs(lesson.test), 1000, verbose=0).argmax(-1)
        accuracy = float(np.mean(guesses == lesson.labels[lesson.test]))
        return Trained(np.asarray(losses), running, accuracy)


def compare(
    arm: Arm, config: Config, dataset: Dataset, seeds: Sequence[int], steps: int
) -> Iterator[Run]:
    """Train every seed of an arm here and in Keras."""
    settings = config | arm.settings
    network = KerasNetwork(settings, dataset.images.shape[1], dataset.classes)
    trained = train_population(settings, seeds, dataset, steps)
    for seed, (lesson, ours) in zip(seeds, trained, strict=True):
        yield Run(arm, seed, ours, network.train(lesson), network.train(lesson.reversed))


def compare_all(config: Config, dataset: Dataset, tell: Callable[[str], None]) -> list[Run]:
    """Return the runs of SEEDS in every arm, then those of MORE; tell what came of each."""
    plan = [(arm, SEEDS, BEYOND) for arm in ARMS]
    plan += [(arm._replace(is_judged=False), MORE, STEPS) for arm in ARMS if arm.is_judged]
    runs = []
    for arm, seeds, steps in plan:
        for run in compare(arm, config, dataset, seeds, steps):
            runs.append(run)
            near, itself = (
                f"{difference(side, run.keras, STEPS):.1e}" for side in (run.ours, run.reverse)
            )
            told = f"{near} nats from Keras over {STEPS} steps, Keras {itself} from itself"
            tell(f"norm {arm.norm}, {arm.act}, seed {run.seed}: {told}")
    return runs


def find_keras() -> str:
    """Return Keras's backend; raises BadSelection where Keras is not installed."""
    if importlib.util.find_spec("keras") is None:
        raise BadSelection("Keras, beside which the suite trains, is missing: pip install keras")
    os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it when it is imported
    return importlib.import_module("keras").backend.backend()


def verdict(runs: Sequence[Run]) -> str:
    """Return in one line whether all judged runs agree with Keras."""
    judged = [run for run in runs if run.arm.is_judged]
    good = sum(run.is_within_limit for run in judged)
    worst = max(difference(run.ours, run.keras, STEPS) for run in judged)
    return (
        f"{'pass' if good == len(judged) else 'fail'}: {good} of {len(judged)} runs stay within "
        f"{LIMIT:g} nats of Keras over {STEPS} steps; the largest difference is {worst:.1e}"
    )


def tally(runs: Sequence[Run]) -> str:
    """Return in one line how many of the short runs stay within the limit."""
    short = [run for run in runs if len(run.ours.losses) == STEPS]
    good = sum(run.is_within_limit for run in short)
    return f"of {len(short)} further runs over {STEPS} steps, not judged, {good} stay within it"


def facts_of(runs: Sequence[Run], backend: str) -> dict[str, Any]:
    """Return what is recorded."""
    installed = [name for name in ("jax", *PACKAGES) if importlib.util.find_spec(name)]
    versions = {name: importlib.metadata.version(name) for name in installed}
    return {
        "suite": "tutorial",
        "date": datetime.date.today().isoformat(),
        "versions": versions | {"backend of keras": backend},
        "steps": STEPS,
        "limit": LIMIT,
        "verdict": verdict(runs),
        "further_runs": tally(runs),
        "runs": [run.facts for run in runs],
    }


def table_of(runs: Sequence[Run], backend: str) -> Table:
    """Return the section of the page: the long runs in lines, the short ones in its note."""
    columns = ("norm, activation", "seed", f"loss at step {STEPS}", "normlab - Keras")
    columns += ("Keras - reversed", "normlab - reversed", f"normlab - Keras, {BEYOND:,} steps")
    columns += (f"Keras - reversed, {BEYOND:,} steps", "test accuracy, normlab, Keras")
    rows = []
    for run in runs:
        if len(run.ours.losses) == STEPS:
            continue
        pairs = ((run.ours, run.keras), (run.keras, run.reverse))
        near = [difference(*pair, STEPS) for pair in (*pairs, (run.ours, run.reverse))]
        far = [difference(*pair) for pair in pairs]
        cells = [f"{value:.1e}" for value in (*near, *far)]
        cells[0] = cells[0] if run.is_within_limit else f"**{cells[0]}**"
        names = [f"{run.arm.norm}, {run.arm.act}", str(run.seed)]
        accuracies = f"{run.ours.accuracy:.4f}, {run.keras.accuracy:.4f}"
        rows.append([*names, f"{run.ours.losses[STEPS - 1]:.4f}", *cells, accuracies])
    note = INTRODUCTION.format(backend=backend, steps=STEPS, limit=LIMIT, total=f"{BEYOND:,}")
    note += f"Result: {verdict(runs)}; {tally(runs)}. {machine(PACKAGES)}"
    return Table("The network of a first lesson, beside Keras", columns, rows, note)


INTRODUCTION = """784 - dense 64 - batch norm - ReLU - dense 10 on MNIST, Adam at 1e-3, batches of
32 (configs/tutorial.py), beside the same in Keras ({backend} backend) as a lesson writes it: from
the same weights, with the same batches, in float32. Largest absolute difference of the training
loss in nats, over the first {steps} steps ({limit:g} is the limit) and over {total}. Reversed:
Keras with the examples of each batch in reverse order, which changes nothing but the rounding.
Rounding decides on which side of ReLU's kink a value falls that is all but 0, and from there on two
runs part; tanh, not judged, has no kink. Test accuracy after {total} steps, with the running
statistics.
"""
