"""Does batch normalization keep gradients from vanishing and exploding, and make them steadier?

Question: how fast do gradients grow or shrink from layer to layer, and how far does a gradient
still hold after a small step?
Source: arXiv:1502.03167, section 3.3; arXiv:1805.11604, section 3 (gradient predictiveness, about
two orders of magnitude early); against it arXiv:1902.08129 (batch norm itself makes gradients
explode: 1.21 times per ReLU layer at initialisation).
Expect: a flatter slope with sigmoids; with ReLU He's initialisation is flat already and batch norm
adds 0.08 decades per layer; more predictive gradients, by less than reported once loss and relative
step are matched.
Refuted if: the effect is below 0.05 decades per layer, 0.3 decades (paired t, n = 12).
Cost: quick under a minute on 2 cores; standard about 4 minutes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.decisions import Contrast
from normlab.studies.effects import at_matched_losses
from normlab.studies.hypothesis_tests import PAIRED_T
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Figure, Setup, Study, Tuning, norm_arms
from normlab.studies.units import DECADES, Unit

N, SLOPE_DELTA, STEADY_DELTA = 12, 0.05, 0.3
LOOKS = (1, 3, 10, 30, 100)
LOSSES = (1.0, 0.5, 0.2)
TIMED = {"train.eval_every": 1, "train.eval_growth": 1.1}
PAIR = ("none", "batch")

SIGMOID = Setup(
    name="gradient-flow-sigmoid",
    title="sigmoid MLP 10x100, 8x8 digits",
    base="digits_mlp",
    settings={
        "model.act": "sigmoid",
        "model.widths": (100,),
        "model.depth": 10,
        "train.eval_every": 300,
    },
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N,
    report_settings=TIMED | {"eval.probes": "gradients+rank"},
)
RELU = replace(
    SIGMOID,
    name="gradient-flow-relu",
    title="ReLU MLP 10x100, 8x8 digits",
    settings=SIGMOID.settings | {"model.act": "relu"},
)
CNN = Setup(
    name="gradient-steadiness",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, **TIMED},
    arms=norm_arms("none", "batch", "layer_channels", "group", primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "steps"),
    seeds=N,
    target=0.95,
    report_settings={"eval.probes": "landscape"},
)
ON_MNIST = {"data.name": "mnist"}
SIGMOID_MNIST = replace(
    SIGMOID,
    title="sigmoid MLP 10x100, MNIST",
    settings=SIGMOID.settings | ON_MNIST,
    arms=norm_arms(*PAIR, primary=PAIR),
)
RELU_MNIST = replace(
    RELU,
    title="ReLU MLP 10x100, MNIST",
    settings=RELU.settings | ON_MNIST,
    arms=norm_arms(*PAIR, primary=PAIR),
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    base="fashion_cnn",
    settings={"train.steps": 1000, "model.stride": 2, **TIMED},
    arms=norm_arms(*PAIR, primary=PAIR),
    target=0.85,
)


def steepness(run: Record) -> float:
    """Return the median over LOOKS of the absolute slope of log10 |dL/dh| per layer, at the
    evaluation nearest to each; a run that diverged counts up to there."""
    rows = [min(run.curve, key=lambda r: abs(r["step"] - at)) for at in LOOKS]
    return statistics.median(abs(row["gradients.slope"]) for row in rows)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C3a, C3b: slopes, none - batch; C3c: log10 of the relative change of the gradient."""
    rows = []
    for row_id, name in (("C3a", SIGMOID.name), ("C3b", RELU.name)):
        e = evidence[name]
        none, batch = e.runs_of("none"), e.runs_of("batch")
        rows.append(
            Contrast(
                id=row_id,
                claim="C3",
                sentence="Batch norm keeps gradients from vanishing or exploding",
                comparison="|slope of log10 |dL/dh| over layers 2 to 9|, none - batch, median over "
                "steps 1, 3, 10, 30, 100",
                scope=e.setup.title,
                effects={
                    s: steepness(none[s]) - steepness(batch[s])
                    for s in sorted(none.keys() & batch.keys())
                },
                unit=Unit("decades per layer"),
                sesoi=SLOPE_DELTA,
                n=N,
                test=PAIRED_T,
                setup=name,
            )
        )
    e = evidence[CNN.name]
    found = {key: steadiness(e, f"landscape.{key}") for key in ("relative", "relative_frozen")}
    frozen = found["relative_frozen"].values()
    told = f"{statistics.fmean(frozen):+.2f} decades" if frozen else "no data"
    return [
        *rows,
        Contrast(
            id="C3c",
            claim="C3",
            sentence="Batch norm makes gradients smoother and more consistent",
            comparison="log10 of |g(w) - g(w - s)| / |g(w)|, |s| = 1 % of |w|, none - batch, at "
            "those of the training losses 1.0, 0.5, 0.2 that both reach",
            scope=e.setup.title,
            effects=found["relative"],
            unit=DECADES,
            sesoi=STEADY_DELTA,
            n=N,
            test=PAIRED_T,
            setup=e.setup.name,
            remark=f"with batch statistics frozen: {told} (mean, exploratory)",
        ),
    ]


def steadiness(e: SetupRuns, key: str) -> dict[int, float]:
    return at_matched_losses(e, *PAIR, key, LOSSES, lambda v: math.log10(max(v, 1e-12)))


STUDY = Study(
    name="gradient_flow",
    title="Gradient flow",
    question="Does batch norm keep gradients from vanishing or exploding, and make them steadier?",
    fair_test=(
        "Gradients are those with respect to activations: a gradient with respect to a weight "
        "also grows where the weight is small. Every arm trains at its own best rate, and slopes "
        "are looked at during training, because what a network does at initialisation may be gone "
        "after one step. Steadiness is compared at the same training loss and for steps of the "
        "same relative length: otherwise the faster arm looks smoother."
    ),
    source="arXiv:1502.03167, section 3.3; arXiv:1805.11604, section 3; arXiv:1902.08129",
    expect="flatter with sigmoids; with ReLU steeper than He's initialisation alone; steadier",
    refuted_if="the effect is below 0.05 decades per layer, 0.3 decades for steadiness",
    cost="quick: under a minute on 2 cores; standard: about 4 minutes",
    setups={"quick": (SIGMOID, RELU, CNN), "standard": (SIGMOID_MNIST, RELU_MNIST, FASHION)},
    claims=claims,
    figures=(
        Figure(
            "layers",
            SIGMOID.name,
            "Norm of the gradient with respect to what each layer receives.",
            key="gradients.input",
        ),
        Figure(
            "layers",
            RELU.name,
            "Norm of the gradient with respect to what each layer receives.",
            key="gradients.input",
        ),
        Figure(
            "probe",
            CNN.name,
            "Relative change of the gradient after a step of 1 % of the weights' norm.",
            key="landscape.relative",
        ),
    ),
)
