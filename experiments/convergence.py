"""Does batch normalization converge in fewer steps?

Question: how many times fewer steps to a fixed accuracy, each arm at its own best rate.
Source: arXiv:1502.03167, sections 4.1 and 4.2 (31.0 to 13.3 million steps at the same rate, 2.3x).
Expect: fewer steps with batch norm; log2 ratio above 0.32 octaves (1.25x).
Refuted if: the effect is below 0.32 octaves (Wilcoxon signed-rank, one-sided, n = 12).
Cost: quick about 2 minutes on 2 cores; standard about 10 minutes.
Fashion-MNIST: the first convolution has stride 2, for a quarter of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.effects import octaves
from normlab.studies.hypothesis_tests import SIGNED_RANK
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Figure, FollowUp, Setup, Study, Tuning, norm_arms
from normlab.studies.units import OCTAVES

TIMED = {"train.eval_every": 1, "train.eval_growth": 1.1}
N, DELTA = 12, 0.32
PAIR = ("none", "batch")


MLP = Setup(
    name="convergence-mlp",
    title="sigmoid MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"model.act": "sigmoid", "train.steps": 1500, **TIMED},
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "steps"),
    seeds=N,
    target=0.90,
    follows=(
        FollowUp("batch at none's rate", arm="batch", rate_of="none", is_secondary=True),
        FollowUp(
            "batch, momentum 0.99",
            arm="batch",
            rate_of="batch",
            settings={"norm.momentum": 0.99},
            is_secondary=True,
        ),
    ),
)
CNN = replace(
    MLP,
    name="convergence-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, **TIMED},
    arms=norm_arms(
        "none",
        "affine",
        "batch",
        "layer",
        "layer_channels",
        "group",
        "instance",
        "rms",
        primary=PAIR,
    ),
    target=0.95,
)
MNIST = replace(
    MLP,
    title="sigmoid MLP 784-100-100-100-10, MNIST, batch 60",
    base="mnist_mlp",
    settings=TIMED,
    arms=norm_arms(*PAIR, primary=PAIR),
    target=0.95,
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    base="fashion_cnn",
    settings={"train.steps": 1000, "model.stride": 2, **TIMED},
    arms=norm_arms(*PAIR, primary=PAIR),
    target=0.85,
)
CIFAR = replace(
    CNN,
    title="ResNet-20, CIFAR-10",
    base="cifar10_resnet",
    settings={"train.steps": 4000, "optim.schedule": "constant", **TIMED},
    arms=norm_arms(*PAIR, "group", "layer", primary=PAIR),
    target=0.80,
)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C1a, C1b: e = log2(T_none / T_batch), T the steps to the target on validation; C1t: the
    same in seconds of single runs, on the machine that timed their steps."""
    rows, timed = [], []
    for row_id, name in (("C1a", MLP.name), ("C1b", CNN.name)):
        if name not in evidence:
            continue
        e = evidence[name]
        row = Contrast(
            id=row_id,
            claim="C1",
            sentence="Batch norm converges in fewer steps",
            comparison=f"log2(T none / T batch) to {100 * e.setup.target:.0f} %, each at its best "
            "rate",
            scope=e.setup.title,
            effects=octaves(e, "none", "batch"),
            unit=OCTAVES,
            sesoi=DELTA,
            n=N,
            test=SIGNED_RANK,
            setup=name,
        )
        rows.append(row)
        timed.append(in_seconds(row, e))
    return rows + timed


def in_seconds(row: Contrast, e: SetupRuns) -> Contrast:
    """Return the row in seconds: less log2 of what a step with batch norm costs over one without;
    no effects where the steps were not timed."""
    seconds = e.step_seconds
    is_timed = seconds.keys() >= set(PAIR)
    cost = math.log2(seconds["batch"] / seconds["none"]) if is_timed else math.nan
    return replace(
        row,
        id=f"C1t-{row.setup.removeprefix('convergence-')}",
        sentence="Batch norm shortens the training time",
        comparison=f"{row.comparison}, in seconds of single runs",
        effects={s: v - cost for s, v in row.effects.items()} if is_timed else {},
        remark=f"a step with batch norm takes {2**cost:.2f} times as long here" if is_timed else "",
    )


STUDY = Study(
    name="convergence",
    title="Convergence speed",
    question="Does batch normalization reach a given accuracy in fewer steps?",
    fair_test=(
        "Both networks get their own best learning rate, chosen by the same number of trials on "
        "validation with seeds that are not used again. Time is counted in steps to a fixed "
        "validation accuracy, on runs that share split, initial weights and data order seed by "
        "seed. Batch norm is evaluated with statistics re-estimated on 512 training images, "
        "because the delay of a running average alone can turn the answer."
    ),
    source="arXiv:1502.03167, sections 4.1 and 4.2",
    expect="fewer steps with batch norm: an effect above 0.32 octaves (1.25 times)",
    refuted_if="the effect is below 0.32 octaves",
    cost="quick: about 2 minutes on 2 cores; standard: about 10 minutes",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION), "full": (CIFAR,)},
    claims=claims,
    figures=(
        Figure(
            "curves", "convergence-mlp", "Validation accuracy of each arm at its own best rate."
        ),
        Figure(
            "curves", "convergence-cnn", "Validation accuracy of each arm at its own best rate."
        ),
    ),
)
