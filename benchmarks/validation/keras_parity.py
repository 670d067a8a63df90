"""Does a small network train here as in Keras? It compares the losses of both, step by step.

Both start from the same weights and see the same batches. Keras's side is written as a tutorial
writes it, with every default of Keras; ours has settings that say the same. Keras also trains a
second time, with the examples of each batch in reverse order: that shows what rounding alone does.
In float32 ours is a population. In float64 it is the network and the step of one.
docs/benchmarks.md says how to read the table.
"""

from __future__ import annotations

import datetime
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import runner
from benchmarks.reference_libraries import import_keras
from benchmarks.runner import BadSelection, Options, emit
from benchmarks.validation.lessons import (
    KerasNetwork,
    Trained,
    arithmetic,
    train_in_float64,
    train_population,
)
from normlab import data
from normlab.data import Dataset
from normlab.report.tables import Table
from normlab.runs.files import make_folder, write_json
from normlab.settings import Config
from normlab.studies.setup import load_config

SEEDS = (0, 1, 2)
STEPS = 100
"""Steps in which the losses are judged."""
LIMITS = {"float64": 1e-6, "float32": 2.0}
"""Type of the floats -> the largest `judged` value of a run."""
UNITS = {"float64": "nats of Keras", "float32": "times Keras's own difference"}
BEYOND = 1000
"""Steps that are taken; those after STEPS are reported, not judged."""
MORE = tuple(range(3, 20))
"""Further seeds that take STEPS steps. They show how often rounding decides; not judged."""
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps whose losses are recorded."""
PACKAGES = ("keras", "flax", "optax")


PAIRS = (("normlab", "keras"), ("keras", "keras_reversed"), ("normlab", "keras_reversed"))


class Arm(NamedTuple):
    norm: str
    act: str = "relu"
    is_judged: bool = True
    dtype: str = "float32"


ARMS = (
    *(Arm(norm, dtype=dtype) for dtype in ("float64", "float32") for norm in ("batch", "none")),
    Arm("batch", "tanh", is_judged=False),
)
"""The network, without its norm, and without the kink of ReLU, at which rounding is amplified."""


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
    def judged(self) -> float:
        """In float64 the difference from Keras over STEPS steps, in nats. In float32 its ratio to
        the difference of Keras from itself, when the examples of its batches are reversed."""
        difference, own, _ = self.differences(STEPS).values()
        if self.arm.dtype == "float64" or not difference:
            return difference
        return difference / own if own else math.inf

    @property
    def is_within_limit(self) -> bool:
        return self.judged <= LIMITS[self.arm.dtype]

    @property
    def facts(self) -> dict[str, Any]:
        sides = {name: getattr(self, name) for name in ("normlab", "keras", "keras_reversed")}
        total = len(self.keras.losses)
        return {
            **self.arm._asdict(),
            "seed": self.seed,
            "judged": self.judged,
            "is_within_limit": self.is_within_limit,
            "largest_difference": self.differences(STEPS),
            f"largest_difference_of_{total}": self.differences(),
            "losses": {
                name: {str(step): float(side.losses[step - 1]) for step in SHOWN if step <= total}
                for name, side in sides.items()
            },
            f"test_accuracy_after_{total}": {name: side.accuracy for name, side in sides.items()},
        }


def compare(
    arm: Arm, config: Config, dataset: Dataset, seeds: Sequence[int], steps: int
) -> list[Run]:
    """Train every seed of an arm here and in Keras."""
    settings, runs = config | {"norm.name": arm.norm, "model.act": arm.act}, []
    train = train_in_float64 if arm.dtype == "float64" else train_population
    with arithmetic(arm.dtype):
        network = KerasNetwork(settings, dataset.images.shape[1], dataset.classes)
        for seed, (lesson, ours) in zip(seeds, train(settings, seeds, dataset, steps), strict=True):
            turned = lesson._replace(rows=lesson.rows[:, ::-1])
            runs.append(Run(arm, seed, ours, network.train(lesson), network.train(turned)))
    return runs


def compare_all(config: Config, dataset: Dataset) -> list[Run]:
    """Return the runs of SEEDS in every arm, then those of MORE; print each difference."""
    plan = [(arm, SEEDS, BEYOND) for arm in ARMS]
    plan += [(arm._replace(is_judged=False), MORE, STEPS) for arm in ARMS if arm.is_judged]
    runs = []
    for arm, seeds, steps in plan:
        for run in compare(arm, config, dataset, seeds, steps):
            runs.append(run)
            near = [f"{value:.1e}" for value in run.differences(STEPS).values()]
            emit(
                f"norm {arm.norm}, {arm.act}, {arm.dtype}, seed {run.seed}: {near[0]} nats from "
                f"Keras over {STEPS} steps, Keras {near[1]} from itself"
            )
    return runs


def result(runs: Sequence[Run], dtype: str) -> dict[str, Any]:
    """Return what the judged runs of a type show, and in one line whether all keep to its limit."""
    judged = [run for run in runs if run.arm.is_judged and run.arm.dtype == dtype]
    good = sum(run.is_within_limit for run in judged)
    largest = float(np.max([run.judged for run in judged]))
    line = (
        f"{dtype}: {'pass' if good == len(judged) else 'fail'}: {good} of {len(judged)} runs stay "
        f"within {LIMITS[dtype]:g} {UNITS[dtype]} over {STEPS} steps; the largest is {largest:.2g}"
    )
    facts = {"limit": LIMITS[dtype], "largest": largest, "n": len({run.seed for run in judged})}
    return {"verdict": line, **facts, "further_runs": tally(runs, dtype)}


def tally(runs: Sequence[Run], dtype: str) -> str:
    """Return in one line how many of the short runs of a type keep to its limit."""
    short = [run for run in runs if run.arm.dtype == dtype and not run.is_long]
    good, largest = sum(run.is_within_limit for run in short), np.max([r.judged for r in short])
    return f"{good} of {len(short)} further runs, not judged, do too; the largest is {largest:.2g}"


def facts_of(runs: Sequence[Run], backend: str) -> dict[str, Any]:
    """Return what is recorded."""
    return {
        "suite": "tutorial",
        "date": datetime.date.today().isoformat(),
        "versions": runner.versions(PACKAGES) | {"backend of keras": backend},
        "steps": STEPS,
        "results": {dtype: result(runs, dtype) for dtype in LIMITS},
        "runs": [run.facts for run in runs],
    }


def table_of(runs: Sequence[Run]) -> Table:
    """Return a line for each long run."""
    columns = ("norm, activation, type", "seed", f"loss at step {STEPS}", "normlab - Keras")
    columns += ("Keras - reversed", "normlab - reversed", f"normlab - Keras, {BEYOND:,} steps")
    columns += (f"Keras - reversed, {BEYOND:,} steps", "test accuracy, normlab, Keras")
    rows = []
    for run in [run for run in runs if run.is_long]:
        near, far = run.differences(STEPS).values(), list(run.differences().values())
        first, *others = (f"{value:.1e}" for value in (*near, *far[:2]))
        first = first if run.is_within_limit else f"**{first}**"
        names = [f"{run.arm.norm}, {run.arm.act}, {run.arm.dtype}", str(run.seed)]
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
    facts = facts_of(runs, backend)
    write_json(make_folder(Path(options.results), "bench") / "tutorial.json", facts)
    head = [f"{runner.machine(PACKAGES)} Keras's backend: {backend}."]
    head += [
        f"Result in {found['verdict']}. {found['further_runs']}."
        for found in facts["results"].values()
    ]
    return runner.publish(head, [table_of(runs)])
