"""Does batch normalization regularise, by the noise of its batches, and does it prevent memorising?

Question: at the same fit of the training set, is the test error lower, and is that the noise?
Source: arXiv:1502.03167, section 3.4; arXiv:1906.03548 (ghost batches regularise);
arXiv:1803.08494 (group norm: less training error, more test error than batch norm).
Expect: a lower test error at the same fit; more noise (16 examples instead of 128), lower still.
Refuted if: the effect is below 1 point (0.5 in the standard profile), 5 points of the replaced
labels (paired t, n = 20; 12 for memorising).
Cost: quick about 2 minutes on 2 cores; standard about 8 minutes.
Fit is measured in evaluation mode; a run that never reaches it has failed. The memorising arms are
tuned for the share of the true labels that they learn, since the contrast stands where 95 % of
those are learned (on validation it has no value); a run that never gets there counts as having
learned all replaced ones. Fashion-MNIST: the first convolution has stride 2, for a quarter of the
cost; the noise and the memorising are tested on an MLP there too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.effects import error_row
from normlab.studies.hypothesis_tests import PAIRED_T
from normlab.studies.metrics import share_learned
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Arm, Figure, Setup, Study, Tuning, norm_arms
from normlab.studies.units import POINTS

N, N_MEMORY, MEMORY_DELTA, LEARNED = 20, 12, 5.0, 0.95
PAIR = ("none", "batch")
TIMED = {"train.eval_every": 1, "train.eval_growth": 1.1}
FIT = {"train.stop_at_loss": 0.01, "train.steps": 3000, **TIMED}
FEW = {"data.train_examples": 200, "data.validation_examples": 200, "eval.train_examples": 200}
SOME = {"data.train_examples": 2000, "eval.train_examples": 1000, "eval.curve_examples": 200}

FITTED = Setup(
    name="matched-fit",
    title="ReLU MLP 3x100, 200 of the 8x8 digits, at training loss 0.01",
    base="digits_mlp",
    settings=FIT | FEW,
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N,
)
NOISE = replace(
    FITTED,
    name="batch-noise",
    title="ReLU MLP 3x100, 200 of the 8x8 digits, batch 128, at training loss 0.01",
    settings=FIT | FEW | {"data.batch": 128},
    arms=(
        Arm("batch/128", {"norm.name": "batch"}, is_primary=True, level=128, line="batch norm"),
        *(
            Arm(
                f"batch/{size}",
                {"norm.name": "batch", "norm.stats_batch": size},
                is_primary=size == 16,
                level=size,
                line="batch norm",
            )
            for size in (16, 64, 32, 8)
        ),
        *norm_arms("group"),
    ),
)
MEMORY = Setup(
    name="memorising",
    title="ReLU MLP 3x100, 8x8 digits, 30 % of the training labels replaced",
    base="digits_mlp",
    settings={
        "data.label_noise": 0.3,
        "eval.train_examples": 897,
        "train.steps": 1500,
        **TIMED,
    },
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "train_error"),
    seeds=N_MEMORY,
)
FASHION = replace(
    FITTED,
    title="ReLU CNN 16-32-64, stride 2, 2,000 images of Fashion-MNIST, at training loss 0.01",
    base="fashion_cnn",
    settings=FIT | SOME | {"model.stride": 2},
    arms=norm_arms(*PAIR, primary=PAIR),
)
NOISE_MNIST = replace(
    NOISE,
    title="ReLU MLP 3x100, 2,000 images of MNIST, batch 128, at training loss 0.01",
    settings=FIT | SOME | {"data.name": "mnist", "data.batch": 128},
    arms=tuple(a for a in NOISE.arms if a.is_primary),
)
MEMORY_MNIST = replace(
    MEMORY,
    title="ReLU MLP 3x100, 1,000 images of MNIST, 30 % of the training labels replaced",
    settings=MEMORY.settings
    | {"data.name": "mnist", "data.train_examples": 1000, "eval.train_examples": 1000}
    | {"eval.curve_examples": 200},
    arms=norm_arms(*PAIR, primary=PAIR),
)
CIFAR = replace(
    FITTED,
    title="ResNet-20, 5,000 images of CIFAR-10, at training loss 0.01",
    base="cifar10_resnet",
    settings=FIT
    | {"data.train_examples": 5000, "eval.train_examples": 1000, "data.augment": "none"},
    arms=norm_arms("none", "batch", "group", primary=PAIR),
)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C4a, C4b: test errors at the same fit; C4c: share of the replaced labels learned."""
    delta = 1.0 if profile == "quick" else 0.5
    rows = [
        error_row(
            evidence[FITTED.name],
            "none",
            "batch",
            id="C4a",
            claim="C4",
            sentence="Batch norm regularises",
            comparison="test error of none - batch where training loss first is at most 0.01",
            sesoi=delta,
            n=N,
        )
    ]
    if NOISE.name in evidence:
        rows.append(
            error_row(
                evidence[NOISE.name],
                "batch/128",
                "batch/16",
                id="C4b",
                claim="C4",
                sentence="It is the noise of the batch that regularises",
                comparison="test error with statistics over 128 - over 16, at the same fit",
                sesoi=delta,
                n=N,
            )
        )
    if MEMORY.name in evidence:
        rows.append(memory_row(evidence[MEMORY.name]))
    return rows


def memory_row(e: SetupRuns) -> Contrast:
    shares = {
        arm: {s: percent(share_learned(r, LEARNED)) for s, r in e.runs_of(arm).items()}
        for arm in PAIR
    }
    missed = sum(v == 100 for found in shares.values() for v in found.values())
    return Contrast(
        id="C4c",
        claim="C4",
        sentence="Batch norm keeps a network from memorising noise",
        comparison="share of the replaced labels learned where 95 % of the others are, none - batch",  # noqa: E501
        scope=e.setup.title,
        effects={
            s: shares["none"][s] - shares["batch"][s]
            for s in sorted(shares["none"].keys() & shares["batch"].keys())
        },
        unit=POINTS,
        sesoi=MEMORY_DELTA,
        n=N_MEMORY,
        test=PAIRED_T,
        setup=e.setup.name,
        remark=f"{missed} runs never learned 95 % of the true labels" if missed else "",
    )


def percent(share: float) -> float:
    return 100.0 if math.isnan(share) else 100 * share


STUDY = Study(
    name="regularization",
    title="Regularisation",
    question="Does batch norm regularise, is it the noise of the batch, and does it not memorise?",
    fair_test=(
        "At equal steps the slower arm looks regularised, because it has fitted less. So the arms "
        "are compared where each first reaches the same training loss, measured on the training "
        "images in evaluation mode, every arm at its own best rate. The noise is varied alone: the "
        "gradient's batch stays at 128, only the number of examples that share statistics changes."
    ),
    source="arXiv:1502.03167, section 3.4; arXiv:1906.03548; arXiv:1803.08494",
    expect="less test error at the same fit, more so with fewer examples in the statistics",
    refuted_if="the effect is below 1 point (standard: 0.5), 5 points of the replaced labels",
    cost="quick: about 2 minutes on 2 cores; standard: about 8 minutes",
    setups={
        "quick": (FITTED, NOISE, MEMORY),
        "standard": (FASHION, NOISE_MNIST, MEMORY_MNIST),
        "full": (CIFAR,),
    },
    claims=claims,
    figures=(
        Figure(
            "probe",
            FITTED.name,
            "Loss on the training images, evaluation mode, until 0.01.",
            key="train_set_loss",
        ),
        Figure(
            "levels",
            NOISE.name,
            "Test error at the same fit against the examples that share statistics.",
        ),
        Figure(
            "probe",
            MEMORY.name,
            "Share of the replaced labels that the network predicts.",
            key="replaced_accuracy",
        ),
    ),
)
