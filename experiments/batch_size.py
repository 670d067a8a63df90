"""Does batch normalization fail at small batches, and do layer and group norm help?

Fair test: The batch of a gradient step and the number of examples that share statistics are two
things. The first contrasts fix the gradient's batch at 64 and change only how many examples share
statistics. The last ones really train with batches of 4 (MLP) or 2 (CNN), where layer and group
norm must show what they repair. Every arm and level has its own best rate, decayed to 0 by a cosine
and chosen again by the reporting seeds. Where the batch changes during training the rate is
constant.
Source: arXiv:1803.08494, figure 1 and table 3; arXiv:2105.07576, table 2 and figure 6
Expect: several points at 4 examples in an MLP, little in a CNN, where a channel still sees 2 x H x
W values. Layer and group norm better than batch norm at a batch of 4
Refuted if: the 99 % interval lies below 1 point (n = 12 to 24; where the batch changes n = 24). For
statistics over 2 examples on Fashion-MNIST: below 0.5 points
Cost: quick: about 3 minutes on 2 cores; standard: about 8 minutes
"""

from dataclasses import replace

from normlab.studies.effects import Claim, error_difference, interaction, looks
from normlab.studies.protocols import WINDOW
from normlab.studies.setup import Arm, FollowUp, Setup, norm_arms, statistics_arms
from normlab.studies.study import Figure, study

CONSTANT = {"train.steps": 300, "train.eval_every": 100}
FIXED = CONSTANT | {"optim.schedule": "cosine"}
# Runs are scored in batches of 64, which every number of examples here divides.
OWN_STATISTICS = {"eval.batch_statistics": True, "eval.batch": 64}
ON_MNIST = {"data.name": "mnist"}

MLP = Setup(
    name="stats-batch-mlp",
    title="ReLU MLP 3x100, 8x8 digits, batch 64",
    base="digits_mlp",
    settings=FIXED | OWN_STATISTICS,
    arms=statistics_arms(2, 4, 16, 64, primary=(4, 64)) + norm_arms("layer", "group"),
    protocol=WINDOW,
)
CNN = MLP.on(
    "digits_cnn",
    "ReLU CNN 16-32-64, 8x8 digits, batch 64",
    name="stats-batch-cnn",
    arms=statistics_arms(2, 4, 16, 64, primary=(2, 64)) + norm_arms("group"),
)
SMALL = MLP.on(
    "digits_mlp",
    "ReLU MLP 3x100, 8x8 digits, batch 4",
    name="small-batch-mlp",
    settings=FIXED | {"data.batch": 4, "train.steps": 4800, "train.eval_every": 1600},
    arms=norm_arms("none", "batch", "layer", "group", primary=("batch", "layer", "group")),
)
SWITCHED = {norm: f"{norm}, batch 4 from step 150 on" for norm in ("none", "batch")}
SMALL_LATER = {
    "train.steps": 150 + 150 * 64 // 4,
    "train.late_batch": 4,
    "train.late_from": 150,
    "train.eval_every": 150,
}
SWITCH = MLP.on(
    "digits_mlp",
    "ReLU MLP 3x100, 8x8 digits, 19,200 examples",
    name="switched-batch-mlp",
    settings=CONSTANT,
    arms=norm_arms(*SWITCHED, primary=tuple(SWITCHED)),
    follows=tuple(
        FollowUp(new, norm, norm, settings=SMALL_LATER) for norm, new in SWITCHED.items()
    ),
)

MNIST = replace(
    MLP,
    title="ReLU MLP 3x100, MNIST, batch 64",
    settings=MLP.settings | ON_MNIST | {"train.steps": 600},
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST, batch 64",
    settings=CNN.settings | {"train.steps": 600, "train.eval_every": 200, "model.stride": 2},
)
SMALL_MNIST = replace(
    SMALL, title="ReLU MLP 3x100, MNIST, batch 4", settings=SMALL.settings | ON_MNIST
)
SWITCH_MNIST = replace(
    SWITCH, title="ReLU MLP 3x100, MNIST, 19,200 examples", settings=CONSTANT | ON_MNIST
)


def trained_arms(batch: int, steps: int, norms: dict[str, str]) -> tuple[Arm, ...]:
    """Return arms that really train with this batch: name -> scheme."""
    shared = {"data.batch": batch, "train.steps": steps}
    return tuple(
        Arm(name, {"norm.name": norm, **shared}, is_primary=True, group=f"batch {batch}")
        for name, norm in norms.items()
    )


SMALL_FASHION = Setup(
    name="small-batch-cnn",
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST, batch 2, 6,000 examples",
    base="fashion_cnn",
    settings={"model.stride": 2, "train.eval_every": 1000, "optim.schedule": "cosine"},
    arms=trained_arms(2, 3000, {n: n for n in ("none", "batch", "layer", "group", "instance")})
    + trained_arms(64, 94, {"none/64": "none", "batch/64": "batch"}),
    protocol=WINDOW,
)
CIFAR = CNN.on(
    "cifar10_resnet",
    "ResNet-20, CIFAR-10, 4,000 steps, batch 64",
    settings=OWN_STATISTICS | {"train.steps": 4000, "data.batch": 64, "optim.schedule": "cosine"},
    arms=statistics_arms(2, 4, 16, 64, primary=(2, 64)),
)

NORMS = ("layer", "group", "instance")
BETTER = {norm: error_difference("batch", norm) for norm in NORMS}
FAILS = "Batch norm fails at small batches"
CHANGES = "Batch norm fails when the batch size changes during training"
REPAIRS = {norm: f"{norm.capitalize()} norm repairs batch norm at small batches" for norm in NORMS}
LOST_BY_4, LOST_BY_2 = (error_difference(f"batch/{n}", "batch/64") for n in (4, 2))
SWITCHING = interaction(
    *(SWITCHED["batch"], "batch", SWITCHED["none"], "none"),
    "(test error, batch 64 then 4 - batch 64 throughout) of batch - the same of none",
)
ERROR = "Test error against the number of examples that share statistics; batch 64, {}."
BY_PROFILE = {"quick": 1.0, "standard": 0.5, "full": 0.5}
STUDY = study(
    __doc__,
    "batch_size",
    "Small batches",
    setups={
        "quick": (MLP, CNN, SMALL, SWITCH),
        "standard": (MNIST, FASHION, SMALL_MNIST, SWITCH_MNIST, SMALL_FASHION),
        "full": (CIFAR,),
    },
    claims=(
        Claim("C8a", FAILS, MLP.name, LOST_BY_4, 1.0, looks(12, 24)),
        Claim("C8b", FAILS, CNN.name, LOST_BY_2, BY_PROFILE, looks(12, 24)),
        Claim("C8c", CHANGES, SWITCH.name, SWITCHING, 1.0, looks(24, 24)),
        *(
            Claim(f"C10a-{n}", REPAIRS[n], SMALL.name, BETTER[n], 1.0, looks(12, 24))
            for n in ("layer", "group")
        ),
        *(
            Claim(f"C10b-{n}", REPAIRS[n], SMALL_FASHION.name, BETTER[n], 1.0, looks(12, 24))
            for n in NORMS
        ),
    ),
    figures=(
        Figure("levels", MLP.name, ERROR.format("MLP")),
        Figure("levels", CNN.name, ERROR.format("CNN")),
    ),
)
