"""Does the network of the tutorials train as in Keras, and does batch norm help it?

Fair test: As the article has it: 784 - dense 64 - batch norm - ReLU - dense 10, Adam at its default
rate of 1e-3. It trains for 10 epochs of batches of 32, and nothing is tuned. What the norm does for
it at tuned rates is the question of the other studies.
Source: tutorials; the defaults of Keras 3
Expect: losses equal to 1e-6 nats over 100 steps in float64. In float32 they differ by at most 2
times the difference of Keras from itself, with the examples of its batches reversed. A better
accuracy by 0.2 points
Refuted if: a loss of either network differs by more (3 initial draws); the effect is below 0.2
points (99 % interval, n = 24)
Cost: quick: seconds on 2 cores; standard: about 3 minutes

The comparison with Keras is a benchmark, whose record is read here. It needs Keras:
`python scripts/bench.py --suite=keras_parity`.
"""

import math
from functools import partial
from typing import Any

import numpy as np

from normlab.studies.effects import Claim, Effect, Measured, error_difference
from normlab.studies.intervals import MAX_ERROR
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import OFTEN, PAIR, Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import NATS, PLAIN

DIGITS = Setup(
    name="tutorial-mlp",
    title="MLP 64-64-10, 8x8 digits, 10 epochs of Adam, batch 32",
    base="tutorial",
    settings={"data.name": "digits", "train.steps": 10 * (897 // 32), **OFTEN},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning((-3.0,), metric="steps", seeds=(1000,), extensions=0),
    target=0.95,
)
MNIST = DIGITS.on("tutorial", "MLP 784-64-10, MNIST, 10 epochs of Adam, batch 32", settings=OFTEN)


def parity(e: SetupRuns, dtype: str) -> Measured:
    """Return seed -> what is judged in that type, of the network in which it is larger."""
    record = e.benchmarks.get("tutorial", {})
    found: dict[int, list[float]] = {}
    for run in record.get("runs", []):
        if run["is_judged"] and run.get("dtype") == dtype:  # earlier records have no type
            found.setdefault(run["seed"], []).append(run["judged"])
    effects = {seed: float(np.max(values)) for seed, values in found.items()}
    if not all(map(math.isfinite, effects.values())):
        return Measured(effects, unmet="a loss is not finite, or Keras equals itself reversed")
    further = record["results"][dtype]["further_runs"] if effects else ""
    return Measured(effects, further)


DOUBLE = Effect(
    MAX_ERROR,
    NATS,
    "largest difference of the training loss over 100 steps in float64, same initial weights and "
    "batches, with and without the norm",
    partial(parity, dtype="float64"),
)
SINGLE = Effect(
    MAX_ERROR,
    PLAIN,
    "largest difference of the training loss over 100 steps in float32, divided by that of Keras "
    "from itself with the examples of its batches reversed",
    partial(parity, dtype="float32"),
)
HELPS = error_difference(*PAIR, "test error without - with batch norm, Adam at 1e-3, 10 epochs")
DRAWS: Any = {"looks": (3,), "setup_seeds": 24, "scope": "MLP 784-64-10, MNIST, batch 32"}
SAME = "The tutorial's network trains as it does in Keras"
BETTER = "Batch norm improves the tutorial's network"
STUDY = study(
    __doc__,
    "tutorial",
    "The tutorial's network",
    setups={"quick": (DIGITS,), "standard": (MNIST,)},
    claims=(
        Claim("C14a", SAME, DIGITS.name, DOUBLE, sesoi=1e-6, **DRAWS),
        Claim("C14a-float32", SAME, DIGITS.name, SINGLE, sesoi=2.0, **DRAWS),
        Claim("C14b", BETTER, DIGITS.name, HELPS, sesoi=0.2, looks=(24,)),
    ),
    benchmarks=("tutorial",),
    figures=(Figure("curves", DIGITS.name, "Validation accuracy with and without the norm."),),
)
