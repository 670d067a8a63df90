"""Does batch normalization let networks be deeper?

Question: how deep a network without shortcuts still fits its training set in 300 steps?
Source: arXiv:1502.03167, section 1; arXiv:1512.03385 (shortcuts needed all the same); against it
arXiv:1902.08129 (batch norm limits the depth to about 50 layers); arXiv:2002.10444 (skipinit).
Expect: deeper with batch norm, clearly so with sigmoids; with shortcuts skipinit does as well.
Refuted if: the largest depth grows by less than 0.5 octaves (Wilcoxon, n = 12).
Cost: quick about 5 minutes on 2 cores; standard about 7 minutes.
A net that fits at no depth counts as one octave below the smallest. The arms with shortcuts are
screened: they carry no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import SIGNED_RANK
from normlab.studies.metrics import train_accuracy
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Arm, Figure, Setup, Study, Tuning
from normlab.studies.units import OCTAVES

N, DELTA, FITS = 12, 0.5, 0.90
DEEP = (4, 8, 16, 32)
SMOOTH = (4, 8, 16)
PAIR = ("none", "batch")
SMALL_RATES = tuple(e / 2 for e in range(-9, 0))
"""10^-4.5 to 10^-0.5: at depth 32 a network without norm needs rates below 0.003."""


def name_of(norm: str, depth: int) -> str:
    return f"{norm}/{depth}"


def depth_arms(*depths: int) -> tuple[Arm, ...]:
    """Return none and batch at each depth, tuned in pairs."""
    return tuple(
        Arm(
            name_of(norm, depth),
            {"norm.name": norm, "model.depth": depth},
            is_primary=True,
            level=depth,
            line=norm,
            group=f"depth {depth}",
        )
        for depth in depths
        for norm in PAIR
    )


def shortcut_arms(depth: int) -> tuple[Arm, ...]:
    """Return the arms with shortcuts at one depth: none, skipinit and batch norm."""
    kinds = (("none", "identity"), ("none", "skipinit"), ("batch", "identity"))
    return tuple(
        Arm(
            "skipinit" if kind == "skipinit" else f"{norm}+shortcuts",
            {"norm.name": norm, "model.depth": depth, "model.shortcut": kind},
            level=depth,
            line=f"{kind}, {norm}",
        )
        for norm, kind in kinds
    )


RELU = Setup(
    name="depth-relu",
    title="ReLU MLP of width 64, 8x8 digits",
    base="digits_mlp",
    settings={"model.widths": (64,), "eval.train_examples": 897, "train.eval_every": 300},
    arms=depth_arms(*DEEP) + shortcut_arms(32),
    protocol=Tuning(SMALL_RATES, 0.5, "train_error"),
    seeds=N,
)
SIGMOID = replace(
    RELU,
    name="depth-sigmoid",
    title="sigmoid MLP of width 64, 8x8 digits",
    settings=RELU.settings | {"model.act": "sigmoid"},
    arms=depth_arms(*SMOOTH),
    protocol=Tuning(HALF_DECADES, 0.5, "train_error"),
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
    arms=depth_arms(20, 44, 110),
    protocol=Tuning(SMALL_RATES, 0.5, "train_error"),
    seeds=N,
)


def largest_depths(e: SetupRuns, norm: str) -> dict[int, float]:
    """Return seed -> log2 of the largest depth that fits the training set; one octave below the
    smallest where none does."""
    depths = sorted(int(a.level or 0) for a in e.setup.arms if a.name.startswith(f"{norm}/"))
    runs = {depth: e.runs_of(name_of(norm, depth)) for depth in depths}
    seeds = set.intersection(*(set(r) for r in runs.values())) if runs else set()
    out = {}
    for seed in sorted(seeds):
        fitted = [d for d in depths if train_accuracy(runs[d][seed]) >= FITS]
        out[seed] = math.log2(max(fitted, default=depths[0] / 2))
    return out


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C6a, C6b: log2 of the largest depth with training accuracy of 90 %, batch - none."""
    rows = []
    for row_id, setup in (("C6a", RELU.name), ("C6b", SIGMOID.name), ("C6a", CIFAR.name)):
        if setup not in evidence:
            continue
        e = evidence[setup]
        none, batch = largest_depths(e, "none"), largest_depths(e, "batch")
        rows.append(
            Contrast(
                id=row_id,
                claim="C6",
                sentence="Batch norm makes deeper networks trainable",
                comparison="log2 of the largest depth with training accuracy of 90 %, batch - none, "  # noqa: E501
                "rate tuned at each depth",
                scope=e.setup.title,
                effects={s: batch[s] - none[s] for s in sorted(none.keys() & batch.keys())},
                unit=OCTAVES,
                sesoi=DELTA,
                n=N,
                test=SIGNED_RANK,
                setup=setup,
            )
        )
    return rows


STUDY = Study(
    name="depth",
    title="Depth",
    question="How much deeper may a network without shortcuts be with batch norm?",
    fair_test=(
        "Deep networks without a norm need small rates, so the rate is tuned for every arm at "
        "every depth, on a grid that reaches down to 10^-4.5 (ReLU). What counts is that the "
        "training set is fitted; the arms with shortcuts show what the depth limit is made of."
    ),
    source="arXiv:1502.03167, section 1; arXiv:1512.03385; arXiv:1902.08129; arXiv:2002.10444",
    expect="deeper with batch norm, clearly so with sigmoids",
    refuted_if="the largest depth grows by less than 0.5 octaves",
    cost="quick: about 5 minutes on 2 cores; standard: about 7 minutes",
    setups={"quick": (RELU, SIGMOID), "standard": (RELU_MNIST, SIGMOID_MNIST), "full": (CIFAR,)},
    claims=claims,
    figures=(
        Figure(
            "levels",
            RELU.name,
            "Final training accuracy against depth.",
            key="train_set_accuracy",
        ),
        Figure(
            "levels",
            SIGMOID.name,
            "Final training accuracy against depth.",
            key="train_set_accuracy",
        ),
    ),
)
