"""Does batch norm regularise, is it the noise of the batch, and does it not memorise?

Fair test: At equal steps the slower arm looks regularised, because it has fitted less. So the arms
are compared where each first reaches the same training loss, every arm at its own best rate. The
loss is measured on the training images in evaluation mode. The noise is varied alone: the
gradient's batch stays at 128, only the number of examples that share statistics changes.
Source: arXiv:1502.03167, section 3.4; arXiv:1906.03548 (ghost batches regularise);
arXiv:1803.08494 (group norm: less training error, more test error than batch norm)
Expect: less test error at the same fit; more noise (16 examples instead of 128), less still
Refuted if: the effect is below 1 point (standard: 0.5), 5 points of the replaced labels (paired t,
n = 20; 12 for memorising)
Cost: quick: about 2 minutes on 2 cores; standard: about 8 minutes

A run that never reaches the fit has failed. The memorising arms are tuned for the share of the true
labels that they learn, because they are compared where 95 % of those are learned. A run that never
learns as many counts as having learned all replaced ones. In the standard profile the noise and the
memorising are tested on an MLP too.
"""

import math
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.effects import Claim, Measured, effect, error_difference
from normlab.studies.hypothesis_tests import PAIRED_T
from normlab.studies.metrics import share_learned
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import OFTEN, PAIR, Setup, Tuning, norm_arms, statistics_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import POINTS

FIT = {"train.stop_at_loss": 0.01, "train.steps": 3000, **OFTEN}
FEW = {"data.train_examples": 200, "data.validation_examples": 200, "eval.train_examples": 200}
SOME = {"data.train_examples": 2000, "eval.train_examples": 1000, "eval.curve_examples": 200}
ON_MNIST = {"data.name": "mnist", "eval.train_examples": 1000, "eval.curve_examples": 200}
LEARNED = 0.95

FITTED = Setup(
    name="matched-fit",
    title="ReLU MLP 3x100, 200 of the 8x8 digits, at training loss 0.01",
    base="digits_mlp",
    settings=FIT | FEW,
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(metric="error"),
    seeds=20,
)


NOISE = replace(
    FITTED,
    name="batch-noise",
    title="ReLU MLP 3x100, 200 of the 8x8 digits, batch 128, at training loss 0.01",
    settings=FIT | FEW | {"data.batch": 128},
    arms=statistics_arms(128, 16, 64, 32, 8, primary=(16, 128)) + norm_arms("group"),
)
MEMORY = Setup(
    name="memorising",
    title="ReLU MLP 3x100, 8x8 digits, 30 % of the training labels replaced",
    base="digits_mlp",
    settings={"data.label_noise": 0.3, "eval.train_examples": 897, "train.steps": 1500, **OFTEN},
    arms=FITTED.arms,
    protocol=Tuning(metric="train_error"),
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
    """Return the share of the replaced labels learned where 95 % of the others are, in points."""
    share = share_learned(run, LEARNED)
    return 100.0 if math.isnan(share) else 100 * share


@effect(
    PAIRED_T,
    POINTS,
    "share of the replaced labels learned where 95 % of the others are, none - batch",
)
def memorised(e: SetupRuns) -> Measured:
    learned = {arm: {s: points_learned(r) for s, r in e.runs_of(arm).items()} for arm in PAIR}
    none, batch = learned["none"], learned["batch"]
    missed = sum(v == 100 for found in learned.values() for v in found.values())
    return Measured(
        {s: none[s] - batch[s] for s in sorted(none.keys() & batch.keys())},
        f"{missed} runs never learned 95 % of the true labels" if missed else "",
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
        Claim("C4a", "Batch norm regularises", FITTED.name, AT_THE_FIT, sesoi=BY_PROFILE, n=20),
        Claim("C4b", NOISE_CLAIM, NOISE.name, BY_NOISE, sesoi=BY_PROFILE, n=20),
        Claim("C4c", MEMORY_CLAIM, MEMORY.name, memorised, sesoi=5.0, n=12),
    ),
    figures=(
        Figure("probe", FITTED.name, LOSS, key="train_set_loss"),
        Figure("levels", NOISE.name, ERROR),
        Figure("probe", MEMORY.name, SHARE, key="replaced_accuracy"),
    ),
)
