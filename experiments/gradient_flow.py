"""Does batch norm keep gradients from vanishing or exploding, and make them steadier?

Fair test: Gradients are those with respect to activations: a gradient with respect to a weight also
grows where the weight is small. Every arm trains at its own best rate. Slopes are measured during
training, because what a network does at initialisation may be gone after one step.
Steadiness is compared at the same training loss and for steps of the same relative length:
otherwise the faster arm looks smoother.
Source: arXiv:1502.03167, section 3.3; arXiv:1805.11604, section 3 (gradient predictiveness, about
two orders of magnitude early); against it arXiv:1902.08129 (batch norm itself makes gradients
explode: 1.21 times per ReLU layer at initialisation)
Expect: a flatter slope with sigmoids. With ReLU He's initialisation is flat already and batch norm
adds 0.08 decades per layer. Steadier, by less than reported once loss and relative step are matched
Refuted if: the 99 % interval lies below 0.05 decades per layer (n = 12), for steadiness below 0.3
decades (n = 24 to 48)
Cost: quick: under a minute on 2 cores; standard: about 4 minutes
"""

import math
import statistics
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.effects import Claim, Measured, at_matched_losses, effect, looks
from normlab.studies.intervals import PAIRED_T
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import OFTEN, PAIR, Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import DECADES, Unit

STEPS = (1, 3, 10, 30, 100)
DEEP = {"model.widths": (100,), "model.depth": 10, "train.eval_every": 300}

SIGMOID = Setup(
    name="gradient-flow-sigmoid",
    title="sigmoid MLP 10x100, 8x8 digits",
    base="digits_mlp",
    settings=DEEP | {"model.act": "sigmoid"},
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(metric="error"),
    report_settings=OFTEN | {"eval.probes": "gradients+rank"},
)
RELU = replace(
    SIGMOID,
    name="gradient-flow-relu",
    title="ReLU MLP 10x100, 8x8 digits",
    settings=DEEP | {"model.act": "relu"},
)
CNN = Setup(
    name="gradient-steadiness",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, **OFTEN},
    arms=norm_arms("none", "batch", "layer_channels", "group", primary=PAIR),
    protocol=Tuning(metric="steps"),
    target=0.95,
    report_settings={"eval.probes": "landscape"},
)
ON_MNIST = {"data.name": "mnist"}
SIGMOID_MNIST = SIGMOID.on(
    "digits_mlp", "sigmoid MLP 10x100, MNIST", settings=SIGMOID.settings | ON_MNIST
)
RELU_MNIST = RELU.on("digits_mlp", "ReLU MLP 10x100, MNIST", settings=RELU.settings | ON_MNIST)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    settings={"train.steps": 2000, "model.stride": 2, **OFTEN},
    target=0.85,
    report_settings={"eval.probes": "landscape", "train.steps": 1000},
)


def steepness(run: Record) -> float:
    """Return the median over STEPS of the absolute slope of log10 |dL/dh| per layer.

    Of each step it is the slope at the evaluation nearest to it, also in a run that diverged. NaN
    for a run that diverged before its first evaluation.
    """
    if not run.curve:
        return math.nan
    rows = [min(run.curve, key=lambda r: abs(r["step"] - at)) for at in STEPS]
    return statistics.median(abs(row["gradients.slope"]) for row in rows)


@effect(
    PAIRED_T,
    Unit("decades per layer"),
    "|slope of log10 |dL/dh| over layers 2 to 9|, none - batch, median over steps 1, 3, 10, 30, "
    "100",
    "change of the gradients from layer to layer, without - with batch norm",
)
def flatter(e: SetupRuns) -> dict[int, float]:
    return {s: steepness(none) - steepness(batch) for s, (none, batch) in e.paired(*PAIR)}


@effect(
    PAIRED_T,
    DECADES,
    "log10 of |g(w) - g(w - s)| / |g(w)|, |s| = 1 % of |w|, none - batch, at those of the training "
    "losses 1.0, 0.5, 0.2 that both reach",
    "change of the gradient along a small step, without / with batch norm",
)
def steadier(e: SetupRuns) -> Measured:
    found, frozen = (
        at_matched_losses(e, *PAIR, f"landscape.{key}", lambda v: math.log10(max(v, 1e-12)))
        for key in ("relative", "relative_frozen")
    )
    known = [value for value in frozen.values() if math.isfinite(value)]
    mean = f"{statistics.fmean(known):+.2f} decades" if known else "no data"
    return Measured(found, f"with batch statistics frozen: {mean} (mean, exploratory)")


KEEPS = "Batch norm keeps gradients from vanishing or exploding"
SMOOTHER = "Batch norm makes gradients smoother and more consistent"
NORM = "Norm of the gradient with respect to what each layer receives."
CHANGE = "Relative change of the gradient after a step of 1 % of the weights' norm."
STUDY = study(
    __doc__,
    "gradient_flow",
    "Gradient flow",
    setups={"quick": (SIGMOID, RELU, CNN), "standard": (SIGMOID_MNIST, RELU_MNIST, FASHION)},
    claims=(
        Claim("C3a", KEEPS, SIGMOID.name, flatter, sesoi=0.05, looks=(12,)),
        Claim("C3b", KEEPS, RELU.name, flatter, sesoi=0.05, looks=(12,)),
        Claim("C3c", SMOOTHER, CNN.name, steadier, sesoi=0.3, looks=looks(24, 48)),
    ),
    figures=(
        Figure("layers", SIGMOID.name, NORM, key="gradients.input"),
        Figure("layers", RELU.name, NORM, key="gradients.input"),
        Figure("probe", CNN.name, CHANGE, key="landscape.relative"),
    ),
)
