"""Does batch norm end at a better accuracy than no norm, and than the other norms?

Fair test: Every arm has its own best rate, decayed to 0 by a cosine over the same number of steps.
A constant rate would leave each arm at the noise of its rate.
Source: arXiv:1502.03167, section 4.2 (72.2 to 72.7 % at the same rate); arXiv:1806.02375 (most of
the gain is the rate that it permits); arXiv:1803.08494, table 1 (group norm 0.5 points, layer norm
1.7 points behind batch norm)
Expect: a lower test error with batch norm, by more than 1 point (0.3 on Fashion-MNIST)
Refuted if: the 99 % interval lies below that (n = 12 to 20)
Cost: quick: about 2 minutes on 2 cores; standard: about 8 minutes
"""

from normlab.studies.effects import Claim, error_difference, looks
from normlab.studies.protocols import Tuning
from normlab.studies.setup import PAIR, Setup, norm_arms
from normlab.studies.study import Figure, study

SESOI = {"quick": 1.0, "standard": 0.3, "full": 0.3}
OTHERS = ("affine", "layer", "layer_channels", "group", "instance", "rms")

CNN = Setup(
    name="accuracy-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits, 600 steps, cosine",
    base="digits_cnn",
    settings={"train.steps": 600, "train.eval_every": 50, "optim.schedule": "cosine"},
    arms=norm_arms(*PAIR, *OTHERS, primary=PAIR),
    protocol=Tuning(metric="error"),
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST, 2,000 steps, cosine",
    settings=CNN.settings | {"train.steps": 2000, "train.eval_every": 200, "model.stride": 2},
)
CIFAR = CNN.on(
    "cifar10_resnet",
    "ResNet-20, CIFAR-10, 8,000 steps, cosine",
    settings={"train.steps": 8000, "optim.schedule": "cosine"},
    arms=norm_arms(*PAIR, "group", "layer", "instance", primary=PAIR),
)

BETTER = "Batch norm ends at a better accuracy"
STUDY = study(
    __doc__,
    "accuracy",
    "Final accuracy",
    setups={"quick": (CNN,), "standard": (FASHION,), "full": (CIFAR,)},
    claims=(
        Claim("C11", BETTER, CNN.name, error_difference(*PAIR), sesoi=SESOI, looks=looks(12, 20)),
    ),
    figures=(Figure("curves", CNN.name, "Validation accuracy of each arm at its own best rate."),),
)
