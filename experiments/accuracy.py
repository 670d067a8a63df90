"""Does batch normalization end at a better accuracy?

Question: after the same number of steps, each arm at its own best rate, whose test error is lower?
Source: arXiv:1502.03167, section 4.2 (72.2 to 72.7 % at the same rate); arXiv:1806.02375 (most of
the gain is the rate that it permits); arXiv:1803.08494 (group 0.5 points, layer 1.7 behind batch).
Expect: a lower test error with batch norm, by more than 1 point (0.3 on Fashion-MNIST).
Refuted if: the effect is below that (paired t, n = 20; 12 on Fashion-MNIST).
Cost: quick about 2 minutes on 2 cores; standard about 8 minutes.
Fashion-MNIST: the first convolution has stride 2, for a quarter of the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.effects import error_row
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Figure, Setup, Study, Tuning, norm_arms

DELTAS = {"quick": 1.0, "standard": 0.3, "full": 0.3}
SEEDS = {"quick": 20, "standard": 12, "full": 12}
PAIR = ("none", "batch")
OTHERS = ("affine", "layer", "layer_channels", "group", "instance", "rms")

CNN = Setup(
    name="accuracy-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits, 600 steps, cosine",
    base="digits_cnn",
    settings={"train.steps": 600, "train.eval_every": 50, "optim.schedule": "cosine"},
    arms=norm_arms(*PAIR, *OTHERS, primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=SEEDS["quick"],
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST, 2,000 steps, cosine",
    base="fashion_cnn",
    settings={
        "train.steps": 2000,
        "train.eval_every": 200,
        "optim.schedule": "cosine",
        "model.stride": 2,
    },
    arms=norm_arms(*PAIR, primary=PAIR),
    seeds=SEEDS["standard"],
)
CIFAR = replace(
    CNN,
    title="ResNet-20, CIFAR-10, 8,000 steps, cosine",
    base="cifar10_resnet",
    settings={"train.steps": 8000, "optim.schedule": "cosine"},
    arms=norm_arms("none", "batch", "group", "layer", "instance", primary=PAIR),
    seeds=SEEDS["full"],
)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C11: e = test error of none - of batch, in points."""
    return [
        error_row(
            evidence[CNN.name],
            "none",
            "batch",
            id="C11",
            claim="C11",
            sentence="Batch norm ends at a better accuracy",
            sesoi=DELTAS[profile],
            n=SEEDS[profile],
        )
    ]


STUDY = Study(
    name="accuracy",
    title="Final accuracy",
    question="Does batch norm end at a better accuracy than no norm, and than the other norms?",
    fair_test=(
        "Every arm has its own best rate, decayed to 0 by a cosine over the same number of steps: "
        "a constant rate would leave each arm at the noise of its rate."
    ),
    source="arXiv:1502.03167, section 4.2; arXiv:1806.02375; arXiv:1803.08494, table 1",
    expect="a lower test error with batch norm",
    refuted_if="the effect is below 1 point (Fashion-MNIST: 0.3)",
    cost="quick: about 2 minutes on 2 cores; standard: about 8 minutes",
    setups={"quick": (CNN,), "standard": (FASHION,), "full": (CIFAR,)},
    claims=claims,
    figures=(Figure("curves", CNN.name, "Validation accuracy of each arm at its own best rate."),),
)
