"""Does batch norm belong before the activation or after it?

Fair test: Both orders have the same layers and parameters, and each its own best rate.
Source: arXiv:1502.03167, section 3.2 (before); practice since then is divided
Expect: no difference beyond 1 point (0.3 on Fashion-MNIST)
Refuted if: the 99 % interval lies below that (n = 24)
Cost: quick: about a minute on 2 cores; standard: about 4 minutes

Instance norm after the activation would be followed by the global mean, whose output is then a
constant; it is left out. The rate is decayed to 0 by a cosine, and chosen again by the
reporting seeds.
"""

from normlab.studies.effects import Claim, error_difference
from normlab.studies.protocols import WINDOW
from normlab.studies.setup import Arm, Setup
from normlab.studies.study import Figure, study


def placed(norm: str, is_primary: bool = False) -> tuple[Arm, ...]:
    return tuple(
        Arm(f"{norm}/{place}", {"norm.name": norm, "model.placement": place}, is_primary=is_primary)
        for place in ("pre", "post")
    )


CNN = Setup(
    name="placement-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, "train.eval_every": 50, "optim.schedule": "cosine"},
    arms=placed("batch", True) + placed("layer_channels") + placed("group") + placed("rms"),
    protocol=WINDOW,
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    settings=CNN.settings | {"train.steps": 1000, "train.eval_every": 100, "model.stride": 2},
)

ORDER = error_difference(
    *("batch/post", "batch/pre"),
    "test error with batch norm after - before the activation, best rates",
)
BEFORE = "Batch norm belongs before the activation"
STUDY = study(
    __doc__,
    "placement",
    "Placement",
    setups={"quick": (CNN,), "standard": (FASHION,)},
    claims=(Claim("C13", BEFORE, CNN.name, ORDER, {"quick": 1.0, "standard": 0.3}, looks=(24,)),),
    figures=(Figure("curves", CNN.name, "Validation accuracy of each arm at its own best rate."),),
)
