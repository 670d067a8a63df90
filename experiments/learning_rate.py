"""Does batch normalization tolerate higher learning rates?

Question: how much larger is the largest rate that still trains, and is it free of failures?
Source: arXiv:1502.03167, section 3.3; arXiv:1806.02375, figure 1 (ResNet-110, CIFAR-10).
Expect: at least twice the rate (0.3 decades); "without the risk of divergence" is too strong.
Refuted if: the effect is below 0.3 decades (Wilcoxon signed-rank, n = 12 MLP, 8 CNN); the second
sentence if more than 5 % of the runs at 10 x the largest rate of none fail (Clopper-Pearson).
Cost: quick about 4 minutes on 2 cores; standard about 6 minutes.
Fashion-MNIST: the first convolution has stride 2, for a quarter of the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import PROPORTION, SIGNED_RANK
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.study import Figure, FollowUp, Setup, Study, Sweep, norm_arms
from normlab.studies.units import DECADES, FAILED

N_MLP, N_CNN, N_RISK = 12, 8, 80
DELTA, RISK = 0.3, 0.05
PAIR = ("none", "batch")
TENFOLD = "batch at 10 x none's largest rate"


def quarter_decades(low: float, high: float) -> tuple[float, ...]:
    return tuple(e / 4 for e in range(round(4 * low), round(4 * high) + 1))


MLP = Setup(
    name="learning-rate-mlp",
    title="ReLU MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"train.steps": 300, "train.eval_every": 100},
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=Sweep(quarter_decades(-2, 2), 0.25, screening_stride=2),
    seeds=N_MLP,
    target=0.90,
    follows=(FollowUp(TENFOLD, arm="batch", rate_of="none", factor=10, seeds=N_RISK),),
)
CNN = replace(
    MLP,
    name="learning-rate-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
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
    protocol=Sweep(quarter_decades(-1.5, 1.5), 0.25, screening_stride=2),
    seeds=N_CNN,
)
MNIST = replace(
    MLP,
    title="sigmoid MLP 784-100-100-100-10, MNIST, batch 60",
    base="mnist_mlp",
    settings={"train.steps": 300, "train.eval_every": 100, "train.eval_growth": 1.0},
    arms=norm_arms(*PAIR, primary=PAIR),
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    base="fashion_cnn",
    settings=CNN.settings | {"model.stride": 2},
    arms=norm_arms(*PAIR, primary=PAIR),
    target=0.80,
)
CIFAR = replace(
    CNN,
    title="ResNet-20, CIFAR-10, 1,000 steps",
    base="cifar10_resnet",
    settings={"train.steps": 1000, "optim.schedule": "constant", "train.eval_every": 500},
    arms=norm_arms(*PAIR, "group", primary=PAIR),
    target=0.50,
)


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C2: e = log10(lr_max batch / lr_max none); C2r: share of failed runs at 10 x lr_max none."""
    rows = []
    for net, n in (("mlp", N_MLP), ("cnn", N_CNN)):
        if f"learning-rate-{net}" not in evidence:
            continue
        e = evidence[f"learning-rate-{net}"]
        common = {"claim": "C2", "scope": e.setup.title, "setup": e.setup.name}
        none, batch = (e.largest_rates(a) if a in e.best else {} for a in ("none", "batch"))
        rows.append(
            Contrast(
                id=f"C2-{net}",
                sentence="Batch norm tolerates higher learning rates",
                comparison=f"log10 of the largest rate that reaches {100 * e.setup.target:.0f} % in "  # noqa: E501
                "300 steps, batch - none",
                effects={s: decades(batch[s], none[s]) for s in none.keys() & batch.keys()},
                unit=DECADES,
                sesoi=DELTA,
                n=n,
                test=SIGNED_RANK,
                **common,
            )
        )
        risky = e.follows.get(TENFOLD, {})
        rows.append(
            Contrast(
                id=f"C2r-{net}",
                sentence="... without the risk of divergence",
                comparison="share of failed batch norm runs at 10 x the median largest rate of none",  # noqa: E501
                effects={s: float(is_failed(r)) for s, r in risky.items()},
                unit=FAILED,
                sesoi=RISK,
                n=N_RISK,
                test=PROPORTION,
                **common,
            )
        )
    return rows


def decades(batch: float, none: float) -> float:
    """Return batch - none of two exponents; equal ones tie, also when no rate trains at all."""
    return 0.0 if batch == none else batch - none


STUDY = Study(
    name="learning_rate",
    title="Learning-rate tolerance",
    question="Does batch normalization tolerate higher learning rates, and without any risk?",
    fair_test=(
        "Every rate of a quarter-decade grid is tried with every seed in both arms. A rate is "
        "tolerated when the run ends at or above the target; the largest tolerated rate is the top "
        "of the unbroken run of such rates. A network that stays finite at chance has failed too: "
        "counting only non-finite runs misses almost every failure."
    ),
    source="arXiv:1502.03167, section 3.3; arXiv:1806.02375, figure 1",
    expect="at least twice the rate (0.3 decades)",
    refuted_if="the effect is below 0.3 decades; for the risk: more than 5 % fail",
    cost="quick: about 4 minutes on 2 cores; standard: about 6 minutes",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION), "full": (CIFAR,)},
    claims=claims,
    figures=(
        Figure("rates", "learning-rate-mlp", "Final validation accuracy against learning rate."),
        Figure("rates", "learning-rate-cnn", "Final validation accuracy against learning rate."),
    ),
)
