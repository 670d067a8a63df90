"""How much deeper may a network without shortcuts be with batch norm?

Fair test: Deep networks without a norm need small rates. So the rate is tuned for every arm at
every depth, on a grid that reaches down to 10^-4.5 (ReLU). What counts is how well the training set
is fitted in 300 steps. The arms with shortcuts show what the depth limit is made of.
Source: arXiv:1502.03167, section 1; arXiv:1512.03385 (shortcuts needed all the same); against it
arXiv:1902.08129 (batch norm limits the depth to about 50 layers); arXiv:2002.10444 (skipinit)
Expect: deeper with batch norm, clearly so with sigmoids; with shortcuts skipinit does as well
Refuted if: with ReLU the training accuracy at depth 32 grows by less than 10 points. With sigmoids:
the largest depth that fits grows by less than 0.5 octaves (99 % intervals, n = 12)
Cost: quick: about 5 minutes on 2 cores; standard: about 7 minutes

The arms with shortcuts are screened: they carry no verdict.
"""

import math
import statistics
from dataclasses import replace

from normlab.studies.effects import MAY_BE_CUT_OFF, Claim, Effect, Measured, effect, subtract
from normlab.studies.intervals import PAIRED_T
from normlab.studies.metrics import train_accuracy
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import PAIR, Arm, Setup, level_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import OCTAVES, POINTS

FITS, SECONDARY = 0.90, 0.80
# 10^-4.5 to 10^-0.5: at depth 32 a network without norm needs rates below 0.003.
SMALL_RATES = tuple(e / 2 for e in range(-9, 0))


def shortcut_arm(name: str, norm: str, kind: str) -> Arm:
    settings = {"norm.name": norm, "model.depth": 32, "model.shortcut": kind}
    return Arm(name, settings, level=32, line=f"{kind}, {norm}")


RELU = Setup(
    name="depth-relu",
    title="ReLU MLP of width 64, 8x8 digits",
    base="digits_mlp",
    settings={"model.widths": (64,), "eval.train_examples": 897, "train.eval_every": 300},
    arms=(
        *level_arms("model.depth", (4, 8, 16, 32), *PAIR),
        shortcut_arm("none+shortcuts", "none", "identity"),
        shortcut_arm("skipinit", "none", "skipinit"),
        shortcut_arm("batch+shortcuts", "batch", "identity"),
    ),
    protocol=Tuning(SMALL_RATES, metric="train_error"),
)
SIGMOID = replace(
    RELU,
    name="depth-sigmoid",
    title="sigmoid MLP of width 64, 8x8 digits",
    settings=RELU.settings | {"model.act": "sigmoid"},
    arms=level_arms("model.depth", (4, 8, 16), *PAIR),
    protocol=Tuning(metric="train_error"),
)
ON_MNIST = {"data.name": "mnist", "eval.train_examples": 1000}
RELU_MNIST = replace(RELU, title="ReLU MLP of width 64, MNIST", settings=RELU.settings | ON_MNIST)
SIGMOID_MNIST = replace(
    SIGMOID, title="sigmoid MLP of width 64, MNIST", settings=SIGMOID.settings | ON_MNIST
)
CIFAR = Setup(
    name="depth-resnet",
    title="ResNet without shortcuts, CIFAR-10",
    base="cifar10_resnet",
    settings={"model.residual": "none", "eval.train_examples": 1000, "train.steps": 3000},
    arms=level_arms("model.depth", (20, 44, 110), *PAIR),
    protocol=Tuning(SMALL_RATES, metric="train_error"),
)


def largest_depths(e: SetupRuns, norm: str, fits: float = FITS) -> dict[int, float]:
    """Return seed -> log2 of the largest depth at which training accuracy is at least `fits`; one
    octave below the smallest where none does."""
    depths = {a.name: a.level or 0.0 for a in e.setup.arms if a.name.startswith(f"{norm}/")}
    found = {}
    for seed, runs in e.paired(*depths):
        pairs = zip(depths.values(), runs, strict=True)
        fitted = [depth for depth, run in pairs if train_accuracy(run) >= fits]
        found[seed] = math.log2(max(fitted, default=min(depths.values()) / 2))
    return found


@effect(
    PAIRED_T,
    OCTAVES,
    "log2 of the largest depth with training accuracy of 90 %, batch - none, rate tuned at each "
    "depth",
    "largest depth with a training accuracy of 90 %, with / without batch norm",
)
def deeper(e: SetupRuns) -> Measured:
    batch, none = (largest_depths(e, norm) for norm in ("batch", "none"))
    end = math.log2(max(arm.level or 1.0 for arm in e.setup.arms))
    is_end = bool(batch) and sum(v == end for v in batch.values()) > MAY_BE_CUT_OFF * len(batch)
    return Measured(subtract(batch, none), is_lower_bound=is_end)


def depths_reached(e: SetupRuns) -> str:
    """Return, as a remark, the largest depth with a training accuracy of 80 %: medians of seeds."""
    depths = sorted({arm.level or 0.0 for arm in e.setup.arms})
    found = [largest_depths(e, norm, SECONDARY).values() for norm in PAIR]
    if not all(found):
        return ""
    reached = [2 ** statistics.median_low(values) for values in found]
    none, batch = (f"{d:g}" if d > depths[0] - 1 else "no depth" for d in reached)
    return (
        f"training accuracy of {100 * SECONDARY:g} %, of depths {depths[0]:g} to {depths[-1]:g}: "
        f"up to {batch} with batch norm, {none} without (medians, exploratory)"
    )


def fits_better(depth: int) -> Effect:
    """Training accuracy at one depth, batch - none, in points."""

    def measure(e: SetupRuns) -> Measured:
        pairs = e.paired(f"batch/{depth}", f"none/{depth}")
        effects = {s: 100 * (train_accuracy(b) - train_accuracy(n)) for s, (b, n) in pairs}
        return Measured(effects, depths_reached(e))

    comparison = f"training accuracy at depth {depth}, batch - none, rate tuned for it"
    return Effect(PAIRED_T, POINTS, comparison, measure)


TRAINABLE = "Batch norm makes deeper networks trainable"
CAPTION = "Final training accuracy against depth."
STUDY = study(
    __doc__,
    "depth",
    "Depth",
    setups={"quick": (RELU, SIGMOID), "standard": (RELU_MNIST, SIGMOID_MNIST), "full": (CIFAR,)},
    claims=(
        Claim("C6a", TRAINABLE, RELU.name, fits_better(32), sesoi=10.0, looks=(12,)),
        Claim("C6b", TRAINABLE, SIGMOID.name, deeper, sesoi=0.5, looks=(12,)),
        Claim("C6a", TRAINABLE, CIFAR.name, fits_better(110), sesoi=10.0, looks=(12,)),
    ),
    figures=(
        Figure("levels", RELU.name, CAPTION, key="train_set_accuracy"),
        Figure("levels", SIGMOID.name, CAPTION, key="train_set_accuracy"),
    ),
)
