"""Does batch normalization converge in fewer steps?

Question: how many times fewer steps to a fixed accuracy, each arm at its own best rate.
Source: arXiv:1502.03167, sections 4.1 and 4.2 (31.0 to 13.3 million steps at the same rate, 2.3x).
Expect: fewer steps with batch norm; log2 ratio above 0.32 octaves (1.25x).
Refuted if: the effect is below 0.32 octaves (Wilcoxon signed-rank, one-sided, n = 12).
Cost: quick about 2 minutes on 2 cores; standard about 40 minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from normlab.lab.evidence import SetupEvidence
from normlab.lab.measures import log_octaves, steps_to_target
from normlab.lab.study import HALF_DECADES, Figure, Follow, Setup, Study, Tuning, norm_arms
from normlab.lab.verdicts import Row

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
        Follow("batch at none's rate", arm="batch", rate_of="none", is_secondary=True),
        Follow(
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
    target=0.95,
)
MNIST_ACCURACY = replace(
    MNIST,
    name="final-accuracy-mlp",
    title="the same network, rates tuned for its accuracy after 10,000 steps",
    arms=norm_arms("none", "batch", primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=5,
    follows=(),
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, Fashion-MNIST",
    base="fashion_cnn",
    settings={"train.steps": 1000, **TIMED},
    target=0.85,
)


def claims(evidence: Mapping[str, SetupEvidence], profile: str) -> list[Row]:
    """C1a, C1b: e = log2(T_none / T_batch), T the steps to the target on validation."""
    rows = []
    for row_id, setup in (("C1a", "convergence-mlp"), ("C1b", "convergence-cnn")):
        e = evidence[setup]
        none, batch = e.runs_of("none"), e.runs_of("batch")
        target = e.setup.target
        rows.append(
            Row(
                id=row_id,
                claim="C1",
                sentence="Batch norm converges in fewer steps",
                contrast=f"log2(T none / T batch) to {100 * target:.0f} %, each at its best rate",
                scope=e.setup.title,
                effects={
                    s: log_octaves(
                        steps_to_target(none[s], target), steps_to_target(batch[s], target)
                    )
                    for s in sorted(none.keys() & batch.keys())
                },
                unit="octaves",
                delta=DELTA,
                n=N,
                test="wilcoxon",
                setup=setup,
            )
        )
    return rows


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
    cost="quick: about 2 minutes on 2 cores; standard: about 40 minutes",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION, MNIST_ACCURACY)},
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
