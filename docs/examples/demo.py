"""Does batch normalization reach 90 % in fewer steps? The shortest study that is fair.

Fair test: Both networks get their own best learning rate of four. Other seeds choose it than those
that are compared. The runs of a seed share split, initial weights and order of the data.
Source: arXiv:1502.03167
Expect: fewer steps by at least 0.32 octaves (1.25 times)
Refuted if: the 99 % interval lies below that (n = 6)
Cost: seconds on 2 cores
"""

from normlab.studies.effects import Claim, speedup
from normlab.studies.protocols import Tuning
from normlab.studies.setup import PAIR, Setup, norm_arms
from normlab.studies.study import Figure, study

NET = Setup(
    name="demo-mlp",
    title="sigmoid MLP 2x32, 8x8 digits",
    base="digits_mlp",
    settings={
        "model.act": "sigmoid",
        "model.widths": (32, 32),
        "train.steps": 400,
        "train.eval_every": 4,
    },
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning((-1.0, -0.5, 0.0, 0.5), metric="steps", seeds=(1000,), extensions=0),
    seeds=6,
    grows=False,
)
STUDY = study(
    __doc__,
    "demo",
    "A first verdict",
    setups={"quick": (NET,)},
    claims=(
        Claim(
            "D1",
            "Batch norm converges in fewer steps",
            NET.name,
            speedup(*PAIR),
            sesoi=0.32,
            looks=(6,),
        ),
    ),
    figures=(Figure("curves", NET.name, "Validation accuracy, each network at its best rate."),),
)
