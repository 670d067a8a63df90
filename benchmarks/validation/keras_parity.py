"""Does a small network train here as in Keras? It compares the losses of both, step by step.

Both start from the same weights and see the same batches. Keras's side is written as a tutorial
writes it, with every default of Keras; ours is a population, whose settings say the same. Keras
also trains a second time, with the examples of each batch in reverse order: that shows what
rounding alone does. docs/benchmarks.md says how to read the table.
"""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import runner
from benchmarks.reference_libraries import import_keras
from benchmarks.runner import BadSelection, Options, emit
from normlab import data
from normlab.data import Dataset
from normlab.report.tables import Table
from normlab.runs.files import make_folder, write_json
from normlab.settings import Config
from normlab.studies.setup import load_config
from normlab.training.population import Population

SEEDS = (0, 1, 2)
STEPS, LIMIT = 100, 1e-4
"""Steps in which the losses may differ by LIMIT nats at most."""
BEYOND = 1000
"""Steps that are taken; those after STEPS are reported, not judged."""
MORE = tuple(range(3, 20))
"""Further seeds that take STEPS steps. They show how often rounding exceeds LIMIT; not judged."""
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps whose losses are recorded."""
PACKAGES = ("keras", "flax", "optax")


PAIRS = (("normlab", "keras"), ("keras", "keras_reversed"), ("normlab", "keras_reversed"))


class Arm(NamedTuple):
    norm: str
    act: str = "relu"
    is_judged: bool = True


ARMS = (Arm("batch"), Arm("none"), Arm("batch", "tanh", is_judged=False))
"""The network, without its norm, and without the kink of ReLU, at which rounding is amplified."""


class Lesson(NamedTuple):
    """What both train: the rows of the batches [T, B] and of the test, in one data set."""

    dataset: Dataset
    rows: np.ndarray
    test: np.ndarray
    weights: dict[str, dict[str, np.ndarray]]
    """What both start from, "dense_1" -> {"kernel": array, "bias": array}."""

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return images in 0..1, float32 [n, H*W*C]."""
        return self.dataset.images[rows] / np.float32(255)


class Trained(NamedTuple):
    losses: np.ndarray
    """Cross-entropy of every step's batch before the step, [T]."""
    accuracy: float
    """On the test split after the last step, with the running statistics."""


class Run(NamedTuple):
    """The same run here, in Keras, and in Keras with the batches reversed."""

    arm: Arm
    seed: int
    normlab: Trained
    keras: Trained
    keras_reversed: Trained

    @property
    def is_long(self) -> bool:
        return len(self.keras.losses) != STEPS

    def differences(self, steps: int | None = None) -> dict[str, float]:
        """Return the largest absolute difference of each pair's losses in the first `steps` steps
        (None: in all)."""
        return {
            f"{one}_{two}": float(
                np.max(
                    np.abs(getattr(self, one).losses[:steps] - getattr(self, two).losses[:steps])
                )
            )
            for one, two in PAIRS
        }

    @property
    def from_keras(self) -> float:
        """The difference that is judged."""
        return self.differences(STEPS)["normlab_keras"]

    @property
    def is_within_limit(self) -> bool:
        return self.from_keras <= LIMIT

    @property
    def facts(self) -> dict[str, Any]:
        sides = {name: getattr(self, name) for name in ("normlab", "keras", "keras_reversed")}
        total = len(self.keras.losses)
        return {
            **self.arm._asdict(),
            "seed": self.seed,
            "is_within_limit": self.is_within_limit,
            "largest_difference": self.differences(STEPS),
            f"largest_difference_of_{total}": self.differences(),
            "losses": {
                name: {str(step): float(side.losses[step - 1]) for step in SHOWN if step <= total}
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


def compare(
    arm: Arm, config: Config, dataset: Dataset, seeds: Sequence[int], steps: int
) -> Iterator[Run]:
    """Train every seed of an arm here and in Keras."""
    settings = config | {"norm.name": arm.norm, "model.act": arm.act}
    network = KerasNetwork(settings, dataset.images.shape[1], dataset.classes)
    trained = train_population(settings, seeds, dataset, steps)
    for seed, (lesson, ours) in zip(seeds, trained, strict=True):
        turned = lesson._replace(rows=lesson.rows[:, ::-1])
        yield Run(arm, seed, ours, network.train(lesson), network.train(turned))


def compare_all(config: Config, dataset: Dataset) -> list[Run]:
    """Return the runs of SEEDS in every arm, then those of MORE; print each difference."""
    plan = [(arm, SEEDS, BEYOND) for arm in ARMS]
    plan += [(arm._replace(is_judged=False), MORE, STEPS) for arm in ARMS if arm.is_judged]
    runs = []
    for arm, seeds, steps in plan:
        for run in compare(arm, config, dataset, seeds, steps):
            runs.append(run)
            itself = run.differences(STEPS)["keras_keras_reversed"]
            emit(
                f"norm {arm.norm}, {arm.act}, seed {run.seed}: {run.from_keras:.1e} nats from "
                f"Keras over {STEPS} steps, Keras {itself:.1e} from itself"
            )
    return runs


def verdict(runs: Sequence[Run]) -> str:
    """Return in one line whether all judged runs agree with Keras."""
    judged = [run for run in runs if run.arm.is_judged]
    good = sum(run.is_within_limit for run in judged)
    word = "pass" if good == len(judged) else "fail"
    worst = max(run.from_keras for run in judged)
    return (
        f"{word}: {good} of {len(judged)} runs stay within {LIMIT:g} nats of Keras over {STEPS} "
        f"steps; the largest difference is {worst:.1e}"
    )


def tally(runs: Sequence[Run]) -> str:
    """Return in one line how many of the short runs stay within the limit."""
    short = [run.is_within_limit for run in runs if not run.is_long]
    return f"{sum(short)} of {len(short)} further runs stay within it; they are not judged"


def facts_of(runs: Sequence[Run], backend: str) -> dict[str, Any]:
    """Return what is recorded."""
    return {
        "suite": "tutorial",
        "date": datetime.date.today().isoformat(),
        "versions": runner.versions(PACKAGES) | {"backend of keras": backend},
        "steps": STEPS,
        "limit": LIMIT,
        "verdict": verdict(runs),
        "further_runs": tally(runs),
        "runs": [run.facts for run in runs],
    }


def table_of(runs: Sequence[Run]) -> Table:
    """Return a line for each long run."""
    columns = ("norm, activation", "seed", f"loss at step {STEPS}", "normlab - Keras")
    columns += ("Keras - reversed", "normlab - reversed", f"normlab - Keras, {BEYOND:,} steps")
    columns += (f"Keras - reversed, {BEYOND:,} steps", "test accuracy, normlab, Keras")
    rows = []
    for run in [run for run in runs if run.is_long]:
        near, far = run.differences(STEPS).values(), list(run.differences().values())
        first, *others = (f"{value:.1e}" for value in (*near, *far[:2]))
        first = first if run.is_within_limit else f"**{first}**"
        names = [f"{run.arm.norm}, {run.arm.act}", str(run.seed)]
        loss = f"{run.normlab.losses[STEPS - 1]:.4f}"
        accuracies = f"{run.normlab.accuracy:.4f}, {run.keras.accuracy:.4f}"
        rows.append([*names, loss, first, *others, accuracies])
    return runner.table("Losses here and in Keras", columns, rows)


def run(options: Options) -> str:
    """Train, write the record, print the progress and the table; return the section of the page.

    Raises BadSelection where Keras is not installed. The study `tutorial` reads the record.
    """
    config = load_config("tutorial")
    data.check(config["data.name"])
    if importlib.util.find_spec("keras") is None:
        raise BadSelection("Keras, which the suite compares with, is missing: pip install keras")
    backend = import_keras().backend.backend()
    runs = compare_all(config, data.load(config["data.name"]))
    path = make_folder(Path(options.results), "bench") / "tutorial.json"
    write_json(path, facts_of(runs, backend))
    where = f"{runner.machine(PACKAGES)} Keras's backend: {backend}."
    head = [where, f"Result: {verdict(runs)}. {tally(runs)}."]
    return runner.publish(head, [table_of(runs)])
