"""Does batch normalization tolerate higher learning rates, and without any risk?

Fair test: Every rate of a quarter-decade grid is tried with every seed in both arms. A rate is
tolerated when the run ends at or above the target. The largest tolerated rate is the top of the
unbroken run of such rates. A network that stays finite at chance has failed too: counting only
non-finite runs misses almost every failure.
Source: arXiv:1502.03167, section 3.3; arXiv:1806.02375, figure 1 (ResNet-110, CIFAR-10)
Expect: at least twice the rate (0.3 decades); "without the risk of divergence" is too strong
Refuted if: the effect is below 0.3 decades (Wilcoxon signed-rank, n = 12 MLP, 8 CNN). For the risk:
more than 5 % of the runs at 10 x the largest rate of none fail (Clopper-Pearson)
Cost: quick: about 4 minutes on 2 cores; standard: about 6 minutes
"""

from normlab.studies.effects import Claim, effect, subtract
from normlab.studies.hypothesis_tests import PROPORTION, SIGNED_RANK
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.setup import PAIR, FollowUp, Setup, Sweep, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import DECADES, FAILED

TENFOLD = "batch at 10 x none's largest rate"


def quarter_decades(low: float, high: float) -> Sweep:
    exponents = tuple(e / 4 for e in range(round(4 * low), round(4 * high) + 1))
    return Sweep(exponents, 0.25, screening_stride=2)


MLP = Setup(
    name="learning-rate-mlp",
    title="ReLU MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"train.steps": 300, "train.eval_every": 100},
    arms=norm_arms("none", "affine", "batch", "layer", "group", "rms", primary=PAIR),
    protocol=quarter_decades(-2, 2),
    target=0.90,
    follows=(FollowUp(TENFOLD, arm="batch", rate_of="none", factor=10, seeds=80),),
)
CNN_ARMS = ("none", "affine", "batch", "layer", "layer_channels", "group", "instance", "rms")
CNN = MLP.on(
    "digits_cnn",
    "ReLU CNN 16-32-64, 8x8 digits",
    name="learning-rate-cnn",
    arms=norm_arms(*CNN_ARMS, primary=PAIR),
    protocol=quarter_decades(-1.5, 1.5),
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
    target=0.80,
)
CIFAR = CNN.on(
    "cifar10_resnet",
    "ResNet-20, CIFAR-10, 1,000 steps",
    settings={"train.steps": 1000, "optim.schedule": "constant", "train.eval_every": 500},
    arms=norm_arms(*PAIR, "group", primary=PAIR),
    target=0.50,
)


@effect(
    SIGNED_RANK,
    DECADES,
    "log10 of the largest rate that reaches {target} in 300 steps, batch - none",
)
def higher(e: SetupRuns) -> dict[int, float]:
    return subtract(e.largest_rates("batch"), e.largest_rates("none"))


@effect(
    PROPORTION, FAILED, "share of failed batch norm runs at 10 x the median largest rate of none"
)
def risk(e: SetupRuns) -> dict[int, float]:
    return {seed: float(is_failed(run)) for seed, run in e.runs_of(TENFOLD).items()}


HIGHER, SAFE = "Batch norm tolerates higher learning rates", "... without the risk of divergence"
CAPTION = "Final validation accuracy against learning rate."
STUDY = study(
    __doc__,
    "learning_rate",
    "Learning-rate tolerance",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION), "full": (CIFAR,)},
    claims=(
        Claim("C2-mlp", HIGHER, MLP.name, higher, sesoi=0.3, n=12),
        Claim("C2r-mlp", SAFE, MLP.name, risk, sesoi=0.05, n=80),
        Claim("C2-cnn", HIGHER, CNN.name, higher, sesoi=0.3, n=8),
        Claim("C2r-cnn", SAFE, CNN.name, risk, sesoi=0.05, n=80),
    ),
    figures=(Figure("rates", MLP.name, CAPTION), Figure("rates", CNN.name, CAPTION)),
)
