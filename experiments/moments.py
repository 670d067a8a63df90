"""Where in a network do channels have mean 0 and standard deviation 1?

Fair test: The sentence is about four different things: the normalized values, the layer's output,
what the next layer receives, and the same in use. Each is measured after training, as the share of
channels with |mean| <= 0.1 and |std - 1| <= 0.1.
Source: articles, about "the outputs"; arXiv:1502.03167, section 3, about the normalized values,
before scale and bias, over the batch
Expect: true of the normalized values in training, where it is arithmetic (std = sqrt(v / (v +
epsilon))); false after scale and bias and after a ReLU
Refuted if: the 99 % interval of the share lies below 95 %; supported if it lies above (n = 12)
Cost: quick: seconds; standard: about a minute
"""

import math

from normlab.studies.effects import Claim, Effect
from normlab.studies.intervals import AT_LEAST
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import Unit

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
    protocol=Tuning(metric="error"),
    screening_seeds=3,
    report_settings={"eval.probes": "moments+health+statistics"},
)
CNN = MLP.on("digits_cnn", "ReLU CNN 16-32-64, 8x8 digits", name="moments-cnn", arms=MLP.arms)
MNIST = MLP.on(
    "digits_mlp",
    "ReLU MLP 3x100, MNIST",
    settings=MLP.settings | {"data.name": "mnist", "train.steps": 600},
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    settings={"train.steps": 600, "train.eval_every": 100, "model.stride": 2},
)


def share_of_channels(place: str) -> Effect:
    """The share of the channels with mean 0 and standard deviation 1 after training."""

    def measure(e: SetupRuns) -> dict[int, float]:
        runs = sorted(e.runs_of("batch").items())
        key = f"moments.{place}"
        return {s: run.curve[-1][key] if run.curve else math.nan for s, run in runs}

    comparison = "share of channels with |mean| <= 0.1 and |std - 1| <= 0.1, after training"
    words = "share of channels with mean 0 and standard deviation 1, both within 0.1"
    unit = Unit("share of channels", is_proportion=True)
    return Effect(AT_LEAST, unit, comparison, measure, words=words)


CAPTION = "Share of channels with mean 0 and standard deviation 1 after scale and bias."
STUDY = study(
    __doc__,
    "moments",
    "Mean 0, standard deviation 1",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION)},
    claims=tuple(
        Claim(
            f"C12-{net}-{place}",
            f"Batch norm's outputs have mean 0 and standard deviation 1: {where}",
            f"moments-{net}",
            share_of_channels(place),
            sesoi=0.95,
            looks=(12,),
        )
        for place, where in PLACES.items()
        for net in ("mlp", "cnn")
    ),
    figures=(Figure("probe", CNN.name, CAPTION, key="moments.scaled"),),
)
