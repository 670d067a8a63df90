"""Does layer norm train a sigmoid network in fewer steps, and does it end with less error?

Fair test: Both networks get their own best learning rate. Other seeds choose it than those that are
compared. The runs of a seed share split, initial weights and order of the data.
Source: arXiv:1607.06450, section 6
Expect: fewer steps by at least 0.32 octaves (1.25 times), and half a point less test error
Refuted if: the 99 % interval lies below that (n = 12)
Cost: about a minute on 2 cores
"""

from normlab.studies.effects import Claim, effect, speedup
from normlab.studies.intervals import PAIRED_T
from normlab.studies.metrics import error_points
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import POINTS

ARMS = ("none", "layer")
NET = Setup(
    name="my-mlp",
    title="sigmoid MLP 2x64, 8x8 digits",
    base="digits_mlp",
    settings={
        "model.act": "sigmoid",
        "model.widths": (64, 64),
        "train.steps": 400,
        "train.eval_every": 5,
    },
    arms=norm_arms(*ARMS, primary=ARMS),
    protocol=Tuning(exponents=(-1.0, -0.5, 0.0, 0.5), metric="steps", seeds=(1000, 1001, 1002)),
    target=0.9,
)


@effect(PAIRED_T, POINTS, "test error, none - layer", "less test error with layer norm")
def less_error(runs: SetupRuns) -> dict[int, float]:
    """Return seed -> effect; above 0 favours the claim."""
    pairs = runs.paired(*ARMS)
    return {seed: error_points(none) - error_points(layer) for seed, (none, layer) in pairs}


STEPS, ERROR = "Layer norm needs fewer steps", "Layer norm ends with less error"
STUDY = study(
    __doc__,
    "my_study",
    "Layer norm in a sigmoid network",
    setups={"quick": (NET,)},
    claims=(
        Claim("M1", STEPS, NET.name, speedup(*ARMS), sesoi=0.32, looks=(12,)),
        Claim("M2", ERROR, NET.name, less_error, sesoi=0.5, looks=(12,)),
    ),
    figures=(Figure("curves", NET.name, "Validation accuracy, each network at its best rate."),),
)
