"""Does batch norm free a network from the scale and the luck of its initial weights?

Fair test: A scale of the initial weights changes what a rate means. With batch norm, gain and rate
can be traded exactly (lr x gain^2). So every arm has its own best rate at every scale, and what is
left is dependence on the initialisation. Luck is tested apart, with 50 draws of the initial weights
on five data orders.
Source: arXiv:1502.03167, section 3.3 (invariance to the scale of the weights); arXiv:1901.09321
Expect: all seven gains from 4^-3 to 4^3 with batch norm, fewer without; a shorter unlucky tail
Refuted if: the 99 % interval lies below one factor of 4 (n = 12). For luck: the 90th percentile of
the final training loss falls by less than 0.3 decades (paired bootstrap over 50 draws)
Cost: quick: about 3 minutes on 2 cores; standard: about 4 minutes

The gain multiplies hidden kernels only. A diverged run counts with the loss of chance, ln 10.
"""

import math
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.effects import Claim, Effect, effect, subtract
from normlab.studies.intervals import PAIRED_T, QUANTILE
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning, reaches
from normlab.studies.setup import PAIR, Setup, level_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import DECADES, Unit

GAINS = tuple(4.0**k for k in range(-3, 4))
DRAWS, DATA_ORDERS = 50, 5

SCALES = Setup(
    name="initial-scale",
    title="ReLU MLP 8x64, 8x8 digits",
    base="digits_mlp",
    settings={"model.widths": (64,), "model.depth": 8, "train.eval_every": 100},
    arms=level_arms("init.gain", GAINS, *PAIR),
    protocol=Tuning(metric="error"),
)
DRAWN = replace(
    SCALES,
    name="initial-draws",
    title="ReLU MLP 8x64, 8x8 digits, 50 initial draws",
    arms=level_arms("init.gain", (1.0, 0.25), *PAIR),
    seeds=DRAWS,
    data_orders=DATA_ORDERS,
)
ON_MNIST = SCALES.settings | {"data.name": "mnist"}
SCALES_MNIST = replace(SCALES, title="ReLU MLP 8x64, MNIST", settings=ON_MNIST)
DRAWN_MNIST = replace(DRAWN, title="ReLU MLP 8x64, MNIST, 50 initial draws", settings=ON_MNIST)


def trained_gains(e: SetupRuns, norm: str) -> dict[int, int]:
    """Return seed -> at how many gains the norm reaches the target."""
    arms = [f"{norm}/{gain:g}" for gain in GAINS]
    target = e.setup.target
    return {s: sum(reaches(run, target) for run in runs) for s, runs in e.paired(*arms)}


def final_loss(run: Record) -> float:
    """Return log10 of the mean training loss over the last 100 steps, at most that of chance."""
    loss = run.curve[-1]["train_loss"] if run.status == "trained" else math.inf
    return math.log10(min(max(loss, 1e-12), math.log(10)))


def luck(gain: float) -> Effect:
    """The pairs of final losses of each draw, whose unlucky ends are compared."""

    def measure(e: SetupRuns) -> dict[int, tuple[float, ...]]:
        pairs = e.paired(f"none/{gain:g}", f"batch/{gain:g}")
        return {seed: tuple(map(final_loss, runs)) for seed, runs in pairs}

    comparison = (
        "90th percentile over initial draws of log10 final training loss, none - batch, "
        f"gain {gain:g}"
    )
    words = "final loss of the unluckiest tenth of the initial draws, without / with batch norm"
    return Effect(QUANTILE, DECADES, comparison, measure, words=words)


@effect(
    PAIRED_T,
    Unit("factors of 4"),
    f"number of the {len(GAINS)} initial gains at which {{target}} is reached, batch - none, rate "
    "tuned at each",
)
def more_gains(e: SetupRuns) -> dict[int, float]:
    return subtract(trained_gains(e, "batch"), trained_gains(e, "none"))


FREE = "Batch norm makes training less dependent on the initial weights"
LUCKIER = "Batch norm makes it less likely to get stuck at an unlucky start"
STUDY = study(
    __doc__,
    "initialization",
    "Initialisation",
    setups={"quick": (SCALES, DRAWN), "standard": (SCALES_MNIST, DRAWN_MNIST)},
    claims=(
        Claim("C5a", FREE, SCALES.name, more_gains, sesoi=1.0, looks=(12,)),
        Claim("C5b-1", LUCKIER, DRAWN.name, luck(1.0), sesoi=0.3, looks=(DRAWS,)),
        Claim("C5b-0.25", LUCKIER, DRAWN.name, luck(0.25), sesoi=0.3, looks=(DRAWS,)),
    ),
    figures=(Figure("levels", SCALES.name, "Test error against the gain of the initial kernels."),),
)
