"""Which norm is to be taken, for which purpose?

Fair test: Every scheme that can run in a network is an arm with its own learning rate. Few steps to
a target and a high rate that still trains are asked of each. The error is compared with batches of
64, and with small ones. All schemes of a setup share split, data order and, as far as they have the
same parameters, initial weights. In networks with time only the error is compared. A GRU has norms
on its products with the input, a vision transformer before its branches. Norms over the batch have
statistics over all steps there. In the standard profile the batches of 4 are asked twice, with
seeds that share nothing.
Source: the papers of the schemes, such as arXiv:1502.03167 and arXiv:1803.08494, each with its own
comparison; docs/norms.md lists them
Expect: batch norm and its relatives with batches of 64, group and layer norm with small ones
Refuted if: nothing is tested. An equal of the best is less than delta behind it, with 95 %
confidence for all schemes together (n = 12). Delta is 0.32 octaves of steps, 0.3 decades of rate,
1 point of error (standard: 0.5)
Cost: quick: about 90 minutes on 2 cores under other work; standard: not measured, above 4 hours
"""

from dataclasses import replace

from normlab.data import DATASETS, Row
from normlab.models.table import MODELS
from normlab.settings import Config
from normlab.studies.protocols import ADAM_WINDOW, WINDOW, Edges, Tuning
from normlab.studies.ranking import ERROR, SPEED, TOLERANCE, Ranking
from normlab.studies.setup import FIRST_SEED, OFTEN, Setup, all_norms
from normlab.studies.study import Study, study

FIXED = {"train.eval_every": 100, "optim.schedule": "cosine"}
SPED = Tuning(metric="steps", seeds=(1000, 1001, 1002))
HALVES = tuple(e / 2 for e in range(-4, 2))
GRID = Tuning((-2.0, -1.5, -1.0, -0.5, 0.0), seeds=(1000, 1001))
ADAM_GRID = replace(GRID, exponents=(-3.5, -3.0, -2.5, -2.0, -1.5))
DOZEN = ("none", "batch", "batch_renorm", "layer", "instance", "group", "rms", "frn", "evonorm_s0")
DOZEN += ("dynamic_tanh", "weight_norm", "scaled_standardize")
"""Schemes for images and sequences of your own: with all of them their networks take too long."""
PURPOSES = {"steps": SPEED, "rate": TOLERANCE, "error": ERROR, "small": ERROR}


def setups(net: str, title: str, base: str, shared: Config, **by_purpose: Config) -> dict:
    """Return purpose -> setup of one network; `by_purpose` are the settings of each."""
    protocols = {"steps": SPED, "rate": Edges(HALVES), "error": WINDOW, "small": WINDOW}
    found = {}
    for purpose, own in by_purpose.items():
        settings = shared | own
        found[purpose] = Setup(
            f"which-{net}-{purpose}",
            title,
            base,
            all_norms(base, settings),
            protocols[purpose],
            settings,
        )
    return found


MLP = setups(
    "mlp",
    "MLP 3x100, 8x8 digits",
    "digits_mlp",
    {},
    steps={"model.act": "sigmoid", "train.steps": 1500, **OFTEN},
    rate={"train.steps": 300, "train.eval_every": 100},
    error=FIXED | {"train.steps": 300},
    small=FIXED | {"train.steps": 2400, "data.batch": 4},
)
CNN = setups(
    "cnn",
    "ReLU CNN 16-32-64, 8x8 digits",
    "digits_cnn",
    {},
    steps={"train.steps": 300, **OFTEN},
    rate={"train.steps": 300, "train.eval_every": 100},
    error=FIXED | {"train.steps": 300},
    small=FIXED | {"train.steps": 2400, "data.batch": 2},
)
CNN["steps"] = replace(CNN["steps"], target=0.95)
MNIST = setups(
    "mlp",
    "MLP 3x100, MNIST",
    "digits_mlp",
    {"data.name": "mnist"},
    steps={"model.act": "sigmoid", "train.steps": 1500, **OFTEN},
    rate={"train.steps": 300, "train.eval_every": 100},
    error=FIXED | {"train.steps": 600},
    small=FIXED | {"train.steps": 2400, "data.batch": 4},
)
FASHION = setups(
    "cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    "fashion_cnn",
    {"model.stride": 2},
    steps={"train.steps": 1000, **OFTEN},
    rate={"train.steps": 300, "train.eval_every": 100},
    error=FIXED | {"train.steps": 600},
    small=FIXED | {"train.steps": 2400, "data.batch": 2},
)
FASHION["steps"] = replace(FASHION["steps"], target=0.80)
AGAIN = replace(
    MNIST["small"],
    name="which-mlp-again",
    title="MLP 3x100, MNIST, other seeds",
    protocol=replace(WINDOW, seeds=(1003, 1004, 1005)),
    first_seed=FIRST_SEED + 1000,
)


def over_time(net: str, title: str, base: str, protocol: Tuning, settings: Config) -> Setup:
    """Return the setup of a network with time, where the error alone is compared."""
    settings = settings | {"norm.time": "sequence", "optim.schedule": "cosine"}
    arms = all_norms(base, settings)
    return Setup(f"which-{net}-error", title, base, arms, protocol, settings)


GRU = {"data.length": 12, "data.length_spread": 8, "model.normed": "input"}
ON_MNIST = {"data.name": "mnist", "train.steps": 1000, "train.eval_every": 500}
TIME, TIME_MNIST = (
    (
        over_time("gru", f"GRU {size}, {name}, lengths 4 to 20", "digits_rnn", WINDOW, GRU | gru),
        over_time("vit", f"ViT 32, 2 blocks, {name}", "digits_encoder", ADAM_WINDOW, vit),
    )
    for name, size, gru, vit in (
        ("8x8 digits", 32, {}, {"data.patch": 2}),
        ("MNIST", 64, ON_MNIST | {"model.widths": (64,)}, ON_MNIST | {"data.patch": 7}),
    )
)
SESOI = {
    "steps": 0.32,
    "rate": 0.3,
    "error": {"quick": 1.0, "standard": 0.5},
    "small": {"quick": 1.0, "standard": 0.5},
}


def own_networks(row: Row, model: str) -> list[tuple[str, str, Config]]:
    """Return title, base and settings of each network that is asked about data of your own."""
    side = min(row.shape[:2])
    sized = {"model.stride": 1 if side < 16 else 2 if side < 64 else 4}
    small = ("MLP 3x100", "digits_mlp", {}), ("ReLU CNN 16-32-64", "digits_cnn", sized)
    timed: Config = {"norm.time": "sequence"}
    if model:
        has_time, is_cnn = MODELS[model].has_time, MODELS[model].is_convolutional and side >= 4
        _, base, settings = ("", "digits_rnn", timed) if has_time else small[is_cnn]
        return [(MODELS[model].title, base, settings | {"model.name": model})]
    if row.kind == "sequences":
        gru = timed | {"model.normed": "input"}
        return [
            ("GRU 32", "digits_rnn", gru),
            ("transformer 32, 2 blocks", "digits_encoder", timed),
        ]
    return [small[side >= 4]]  # an image that is left after two pools


def on_data(name: str, model: str = "") -> Study:
    """Return the study on data of your own: the test error alone, with batches of 64 and of 4. Of
    sequences, which have many steps, 16 take the place of 64.

    `model` names a network of your own, or none.
    """
    row, own = DATASETS[name], []
    most = 16 if row.kind == "sequences" else 64
    large = min(most, 2 ** (row.train.bit_length() - 1))
    for i, (title, base, settings) in enumerate(own_networks(row, model)):
        for purpose, steps, batch in (("error", 300, large), ("small", 1200, 4))[: 2 - i]:
            given = settings | {"data.name": name, "optim.schedule": "cosine", "data.batch": batch}
            given |= {"train.steps": steps, "train.eval_every": steps // 3}
            arms = all_norms(base, given)
            if base != "digits_mlp":
                arms = tuple(arm for arm in arms if arm.name in DOZEN)
            end = "transformer" if i else purpose
            protocol = ADAM_GRID if i else GRID
            own.append(Setup(f"which-own-{end}", title, base, arms, protocol, given))
    return replace(
        STUDY,
        fair_test="Every scheme that can run in the network is an arm with its own learning rate; "
        "of a CNN and networks with time those of a list of twelve. "
        "All share split, data order and, as far as they have the same parameters, initial "
        "weights.",
        cost="digits or less data: about 5 minutes of processor time",
        setups={"quick": tuple(own)},
        rankings=tuple(Ranking(ERROR, setup.name, 1.0) for setup in own),
        on_data=None,
    )


STUDY = study(
    __doc__,
    "which_norm",
    "Which norm",
    setups={
        "quick": (*MLP.values(), *CNN.values(), *TIME),
        "standard": (*MNIST.values(), *FASHION.values(), AGAIN, *TIME_MNIST),
    },
    claims=(),
    rankings=(
        *(
            Ranking(purpose, f"which-{net}-{name}", SESOI[name])
            for name, purpose in PURPOSES.items()
            for net in ("mlp", "cnn")
        ),
        *(Ranking(ERROR, setup.name, SESOI["error"]) for setup in TIME),
        Ranking(ERROR, AGAIN.name, SESOI["small"]),
    ),
    on_data=on_data,
)
