"""Does batch normalization tolerate higher learning rates, and without any risk?

Fair test: Every rate of a half-decade grid is tried with every seed in both arms. A rate is
tolerated when the run ends within 10 points of the seed's own best accuracy. The highest such rate
is the edge; it is found to a sixteenth of a decade. A network that stays finite at chance has
failed too: counting only non-finite runs misses almost every failure.
Source: arXiv:1502.03167, section 3.3; arXiv:1806.02375, figure 1 (ResNet-110, CIFAR-10)
Expect: at least twice the rate (0.3 decades); "without the risk of divergence" is too strong
Refuted if: the 99 % interval lies below 0.3 decades (n = 12 MLP, 8 CNN). For the risk: more than 5
% of the runs at 30 x the edge of none fail (exact 99 % interval, n = 104). The paper trained at 30
times the rate.
Cost: quick: about 4 minutes on 2 cores; standard: about 6 minutes
"""

from normlab.studies.effects import Claim, Measured, decades, effect
from normlab.studies.intervals import AT_MOST, PAIRED_T
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Edges
from normlab.studies.setup import PAIR, FollowUp, Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import DECADES, FAILED

JUDGED = 30.0
SEEDS = {3.0: 24, 10.0: 24, JUDGED: 104}
RISKS = {factor: f"batch at {factor:g} x the edge of none" for factor in SEEDS}


def half_decades(low: float, high: float) -> Edges:
    return Edges(tuple(e / 2 for e in range(round(2 * low), round(2 * high) + 1)))


MLP = Setup(
    name="learning-rate-mlp",
    title="ReLU MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"train.steps": 300, "train.eval_every": 100},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=half_decades(-2, 1),
    follows=tuple(
        FollowUp(name, "batch", "none", factor, seeds=SEEDS[factor], is_secondary=factor != JUDGED)
        for factor, name in RISKS.items()
    ),
)
CNN = MLP.on(
    "digits_cnn",
    "ReLU CNN 16-32-64, 8x8 digits",
    name="learning-rate-cnn",
    arms=MLP.arms,
    protocol=half_decades(-1.5, 0.5),
    seeds=8,
)
MNIST = MLP.on(
    "mnist_mlp",
    "sigmoid MLP 784-100-100-100-10, MNIST, batch 60",
    settings=MLP.settings | {"train.eval_growth": 1.0},
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    settings=CNN.settings | {"model.stride": 2},
)
CIFAR = CNN.on(
    "cifar10_resnet",
    "ResNet-20, CIFAR-10, 1,000 steps",
    settings={"train.steps": 1000, "optim.schedule": "constant", "train.eval_every": 500},
    arms=norm_arms(*PAIR, "group", primary=PAIR),
)


@effect(
    PAIRED_T,
    DECADES,
    "log10 of the highest rate that ends within 10 points of the own best, batch - none",
    "highest rate that trains, with / without batch norm",
)
def higher(e: SetupRuns) -> Measured:
    return decades(e, *PAIR)


@effect(AT_MOST, FAILED, "share of failed batch norm runs at 30 x the median edge of none")
def risk(e: SetupRuns) -> dict[int, float]:
    return {seed: float(is_failed(run)) for seed, run in e.runs_of(RISKS[JUDGED]).items()}


HIGHER, SAFE = "Batch norm tolerates higher learning rates", "... without the risk of divergence"
CAPTION = "Final validation accuracy against learning rate."
STUDY = study(
    __doc__,
    "learning_rate",
    "Learning-rate tolerance",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION), "full": (CIFAR,)},
    claims=(
        Claim("C2-mlp", HIGHER, MLP.name, higher, sesoi=0.3, looks=(12,)),
        Claim("C2r-mlp", SAFE, MLP.name, risk, sesoi=0.05, looks=(104,), setup_seeds=12),
        Claim("C2-cnn", HIGHER, CNN.name, higher, sesoi=0.3, looks=(8,)),
        Claim("C2r-cnn", SAFE, CNN.name, risk, sesoi=0.05, looks=(104,), setup_seeds=8),
    ),
    figures=(Figure("rates", MLP.name, CAPTION), Figure("rates", CNN.name, CAPTION)),
)
