"""Does batch norm regularise, is it the noise of the batch, and does it not memorise?

Fair test: At equal steps the slower arm looks regularised, because it has fitted less. So the arms
are compared where each first reaches the same training loss, every arm at its own best rate. The
loss is measured on the training images in evaluation mode. The noise is varied alone: the
gradient's batch stays at 128, only the number of examples that share statistics changes.
Source: arXiv:1502.03167, section 3.4; arXiv:1906.03548 (ghost batches regularise); arXiv:1803.08494
(group norm: less training error, more test error than batch norm)
Expect: less test error at the same fit; more noise (16 examples instead of 128), less still
Refuted if: the 99 % interval lies below 1 point (standard: 0.5; n = 24). For the noise: below 0.5
points (n = 24 to 48). For the memorising: below 5 points of the replaced labels (n = 24 to 48)
Cost: quick: about 2 minutes on 2 cores; standard: about 8 minutes

A run that never reaches the fit has failed, and a rate at which runs fail is not eligible. The arms
without norm and with batch norm count with the mean of their two best rates. The levels of noise
count with rates that the reporting seeds choose again. The memorising arms are compared where 90 %
of the true labels are learned. Seeds in which a run never learns as many are not measured. In the
standard profile the noise and the memorising are tested on an MLP too.
"""

import math
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.effects import Claim, Measured, effect, error_difference, looks
from normlab.studies.intervals import PAIRED_T
from normlab.studies.metrics import share_learned
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import WINDOW, Tuning
from normlab.studies.setup import OFTEN, PAIR, Setup, norm_arms, statistics_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import POINTS

FIT = {"train.stop_at_loss": 0.01, "train.steps": 6000, **OFTEN}
FEW = {"data.train_examples": 200, "data.validation_examples": 200, "eval.train_examples": 200}
SOME = {"data.train_examples": 2000, "eval.train_examples": 1000, "eval.curve_examples": 200}
ON_MNIST = {"data.name": "mnist", "eval.train_examples": 1000, "eval.curve_examples": 200}
LEARNED = 0.90

FITTED = Setup(
    name="matched-fit",
    title="ReLU MLP 3x100, 200 of the 8x8 digits, at training loss 0.01",
    base="digits_mlp",
    settings=FIT | FEW,
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(reported="two"),
)


NOISE = replace(
    FITTED,
    name="batch-noise",
    title="ReLU MLP 3x100, 200 of the 8x8 digits, batch 128, at training loss 0.01",
    settings=FIT | FEW | {"data.batch": 128},
    protocol=WINDOW,
    arms=statistics_arms(128, 16, 64, 32, 8, primary=(16, 128)) + norm_arms("group"),
)
MEMORY = Setup(
    name="memorising",
    title="ReLU MLP 3x100, 8x8 digits, 30 % of the training labels replaced",
    base="digits_mlp",
    settings={"data.label_noise": 0.3, "eval.train_examples": 897, "train.steps": 1500, **OFTEN},
    arms=FITTED.arms,
    protocol=Tuning(),
)
FASHION = FITTED.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, 2,000 images of Fashion-MNIST, at training loss 0.01",
    settings=FIT | SOME | {"model.stride": 2},
)
NOISE_MNIST = NOISE.on(
    "digits_mlp",
    "ReLU MLP 3x100, 2,000 images of MNIST, batch 128, at training loss 0.01",
    settings=FIT | SOME | ON_MNIST | {"data.batch": 128},
)
MEMORY_MNIST = MEMORY.on(
    "digits_mlp",
    "ReLU MLP 3x100, 1,000 images of MNIST, 30 % of the training labels replaced",
    settings=MEMORY.settings | ON_MNIST | {"data.train_examples": 1000},
)
CIFAR = FITTED.on(
    "cifar10_resnet",
    "ResNet-20, 5,000 images of CIFAR-10, at training loss 0.01",
    settings=FIT
    | {"data.train_examples": 5000, "eval.train_examples": 1000, "data.augment": "none"},
    arms=norm_arms(*PAIR, "group", primary=PAIR),
)


def points_learned(run: Record) -> float:
    """Return the share of the replaced labels learned where 90 % of the others are, in points; NaN
    where these are never learned."""
    return 100 * share_learned(run, LEARNED)


@effect(
    PAIRED_T,
    POINTS,
    "share of the replaced labels learned where 90 % of the others are, none - batch",
)
def memorised(e: SetupRuns) -> Measured:
    pairs = {s: [points_learned(run) for run in runs] for s, runs in e.paired(*PAIR)}
    missed = sum(math.isnan(v) for values in pairs.values() for v in values)
    return Measured(
        {s: none - batch for s, (none, batch) in pairs.items()},
        f"{missed} runs never learned 90 % of the true labels" if missed else "",
    )


AT_THE_FIT = error_difference(
    *PAIR, "test error of none - batch where training loss first is at most 0.01"
)
BY_NOISE = error_difference(
    *("batch/128", "batch/16"), "test error with statistics over 128 - over 16, at the same fit"
)
BY_PROFILE = {"quick": 1.0, "standard": 0.5, "full": 0.5}
NOISE_CLAIM = "It is the noise of the batch that regularises"
MEMORY_CLAIM = "Batch norm keeps a network from memorising noise"
LOSS = "Loss on the training images, evaluation mode, until 0.01."
ERROR = "Test error at the same fit against the examples that share statistics."
SHARE = "Share of the replaced labels that the network predicts."
STUDY = study(
    __doc__,
    "regularization",
    "Regularisation",
    setups={
        "quick": (FITTED, NOISE, MEMORY),
        "standard": (FASHION, NOISE_MNIST, MEMORY_MNIST),
        "full": (CIFAR,),
    },
    claims=(
        Claim("C4a", "Batch norm regularises", FITTED.name, AT_THE_FIT, BY_PROFILE, looks(24, 24)),
        Claim("C4b", NOISE_CLAIM, NOISE.name, BY_NOISE, 0.5, looks(24, 48)),
        Claim("C4c", MEMORY_CLAIM, MEMORY.name, memorised, 5.0, looks(24, 48)),
    ),
    figures=(
        Figure("probe", FITTED.name, LOSS, key="train_set_loss"),
        Figure("levels", NOISE.name, ERROR),
        Figure("probe", MEMORY.name, SHARE, key="replaced_accuracy"),
    ),
)
