"""Are normalized outputs of mean 0 and standard deviation 1?

Question: which share of channels has |mean| <= 0.1 and |std - 1| <= 0.1, and where?
Source: the articles, of "the outputs"; arXiv:1502.03167, section 3, says it of the normalized
values, before scale and bias, over the batch.
Expect: true of the normalized values in training, where it is arithmetic (std = sqrt(v / (v +
epsilon))); not after scale and bias, nor of what the next layer receives, after a ReLU.
Supported if at least 95 % of the channels are, refuted if at most half (n = 3).
Cost: seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import THRESHOLDS
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Figure, Setup, Study, Tuning, norm_arms
from normlab.studies.units import Unit

N = 3
PLACES = {
    "normalized": "normalized values, in training",
    "scaled": "after scale and bias, in training",
    "received": "what the next layer receives, in training",
    "evaluation": "normalized values, in evaluation on test images",
}
MLP = Setup(
    name="moments-mlp",
    title="ReLU MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"train.steps": 300, "train.eval_every": 100},
    arms=norm_arms("batch", "none", "layer", "group", primary=("batch",)),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N,
    screening_seeds=N,
    report_settings={"eval.probes": "moments+health+statistics"},
)
CNN = replace(MLP, name="moments-cnn", title="ReLU CNN 16-32-64, 8x8 digits", base="digits_cnn")
MNIST = replace(
    MLP,
    title="ReLU MLP 3x100, MNIST",
    settings=MLP.settings | {"data.name": "mnist", "train.steps": 600},
    arms=norm_arms("batch", primary=("batch",)),
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    base="fashion_cnn",
    settings={"train.steps": 600, "train.eval_every": 100, "model.stride": 2},
    arms=norm_arms("batch", primary=("batch",)),
)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C12: share of the channels with mean 0 and standard deviation 1 after training, by place."""
    return [
        Contrast(
            id=f"C12-{e.setup.name.removeprefix('moments-')}-{place}",
            claim="C12",
            sentence=f"Batch norm's outputs have mean 0 and standard deviation 1: {told}",
            comparison="share of channels with |mean| <= 0.1 and |std - 1| <= 0.1, after training",
            scope=e.setup.title,
            effects={
                s: run.curve[-1][f"moments.{place}"]
                for s, run in sorted(e.runs_of("batch").items())
            },
            unit=Unit("share of channels", is_proportion=True),
            sesoi=THRESHOLDS.limits[1],
            n=N,
            test=THRESHOLDS,
            setup=e.setup.name,
        )
        for place, told in PLACES.items()
        for e in evidence.values()
    ]


STUDY = Study(
    name="moments",
    title="Mean 0, standard deviation 1",
    question="Where in a network do channels have mean 0 and standard deviation 1?",
    fair_test=(
        "The sentence is about four different things: the normalized values, the layer's output, "
        "what the next layer receives, and the same in use. Each is measured after training."
    ),
    source="arXiv:1502.03167, section 3",
    expect="true of normalized values in training, false after scale and bias and after a ReLU",
    refuted_if="at most half of the channels are; supported if at least 95 % are",
    cost="seconds; standard: about a minute",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION)},
    claims=claims,
    figures=(
        Figure(
            "probe",
            CNN.name,
            "Share of channels with mean 0 and standard deviation 1 after scale and bias.",
            key="moments.scaled",
        ),
    ),
)
