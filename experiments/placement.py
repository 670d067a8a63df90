"""Does batch normalization belong before the activation?

Question: which order has the lower test error, conv - norm - ReLU or conv - ReLU - norm?
Source: arXiv:1502.03167, section 3.2 (before); practice since then is divided.
Expect: no difference beyond 1 point (0.3 on Fashion-MNIST).
Refuted if: the effect is below that (paired t, n = 12).
Cost: quick about a minute on 2 cores; standard about 4 minutes.
Instance norm after the activation would stand before the global mean, whose output is then a
constant; it is left out. Fashion-MNIST: the first convolution has stride 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.effects import error_row
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Arm, Figure, Setup, Study, Tuning

N = 12
DELTAS = {"quick": 1.0, "standard": 0.3}


def placed(norm: str, is_primary: bool = False) -> tuple[Arm, ...]:
    return tuple(
        Arm(f"{norm}/{p}", {"norm.name": norm, "model.placement": p}, is_primary=is_primary)
        for p in ("pre", "post")
    )


CNN = Setup(
    name="placement-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, "train.eval_every": 50},
    arms=placed("batch", True) + placed("layer_channels") + placed("group") + placed("rms"),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N,
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    base="fashion_cnn",
    settings={"train.steps": 1000, "train.eval_every": 100, "model.stride": 2},
    arms=placed("batch", True),
)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C13: e = test error with the norm after - before the activation, in points."""
    return [
        error_row(
            evidence[CNN.name],
            "batch/post",
            "batch/pre",
            id="C13",
            claim="C13",
            sentence="Batch norm belongs before the activation",
            comparison="test error with batch norm after - before the activation, best rates",
            sesoi=DELTAS[profile],
            n=N,
        )
    ]


STUDY = Study(
    name="placement",
    title="Placement",
    question="Does batch norm belong before the activation or after it?",
    fair_test="Both orders have the same layers and parameters, and each its own best rate.",
    source="arXiv:1502.03167, section 3.2",
    expect="no difference that matters",
    refuted_if="the effect is below 1 point (Fashion-MNIST: 0.3)",
    cost="quick: about a minute on 2 cores; standard: about 4 minutes",
    setups={"quick": (CNN,), "standard": (FASHION,)},
    claims=claims,
    figures=(Figure("curves", CNN.name, "Validation accuracy of each arm at its own best rate."),),
)
