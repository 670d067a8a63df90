"""Does batch normalization reach a given accuracy in fewer steps?

Fair test: Both networks get their own best learning rate, chosen by the same number of trials on
validation. The seeds of these trials are not used again. Time is counted in steps to several
validation accuracies. Each has its own verdict and its own rates. The runs of a seed share split,
initial weights and data order. Batch norm is evaluated with statistics re-estimated on 512 training
images, because the delay of a running average alone can turn the answer.
Source: arXiv:1502.03167, sections 4.1 and 4.2 (31.0 to 13.3 million steps at the same rate, 2.3x)
Expect: fewer steps with batch norm: an effect above 0.32 octaves (1.25 times)
Refuted if: the 99 % interval lies below 0.32 octaves (n = 12 to 48 MLP, 12 to 24 CNN)
Cost: quick: about 2 minutes on 2 cores; standard: about 10 minutes
"""

from normlab.studies.effects import Claim, looks, speedup, speedup_in_seconds
from normlab.studies.protocols import Tuning
from normlab.studies.setup import OFTEN, PAIR, FollowUp, Setup, ladder, norm_arms
from normlab.studies.study import Figure, study

MLP = Setup(
    name="convergence-mlp",
    title="sigmoid MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"model.act": "sigmoid", "train.steps": 1500, **OFTEN},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning(metric="steps"),
    target=0.90,
    follows=(FollowUp("batch at none's rate", "batch", "none", is_secondary=True),),
)
CNN = MLP.on(
    "digits_cnn",
    "ReLU CNN 16-32-64, 8x8 digits",
    name="convergence-cnn",
    settings={"train.steps": 300, **OFTEN},
    arms=MLP.arms,
    target=0.95,
)
MNIST = MLP.on(
    "mnist_mlp",
    "sigmoid MLP 784-100-100-100-10, MNIST, batch 60",
    settings=OFTEN | {"train.steps": 4000},
    target=0.95,
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    settings={"train.steps": 2000, "model.stride": 2, **OFTEN},
    target=0.85,
)
CIFAR = CNN.on(
    "cifar10_resnet",
    "ResNet-20, CIFAR-10",
    settings={"train.steps": 4000, "optim.schedule": "constant", **OFTEN},
    arms=norm_arms(*PAIR, "group", "layer", primary=PAIR),
    target=0.80,
)

FEWER, SHORTER = "Batch norm converges in fewer steps", "Batch norm shortens the training time"
CURVES = "Validation accuracy of each arm at its own best rate."
STUDY = study(
    __doc__,
    "convergence",
    "Convergence speed",
    setups={
        "quick": (*ladder(MLP, 0.8), *ladder(CNN, 0.9)),
        "standard": (*ladder(MNIST, 0.85, 0.9), *ladder(FASHION, 0.75, 0.8)),
        "full": (CIFAR,),
    },
    claims=(
        *(
            Claim(f"C1a{at}", FEWER, MLP.name + at, speedup(*PAIR), 0.32, looks(12, 48))
            for at in ("", "-80", "-85", "-90")
        ),
        *(
            Claim(f"C1b{at}", FEWER, CNN.name + at, speedup(*PAIR), 0.32, looks(12, 24))
            for at in ("", "-75", "-80", "-90")
        ),
        Claim("C1t-mlp", SHORTER, MLP.name, speedup_in_seconds(*PAIR), 0.32, looks(12, 48)),
        Claim("C1t-cnn", SHORTER, CNN.name, speedup_in_seconds(*PAIR), 0.32, looks(12, 24)),
    ),
    figures=(Figure("curves", MLP.name, CURVES), Figure("curves", CNN.name, CURVES)),
)
