"""Which norm does a transformer need, and where?

Fair test: A small vision transformer reads the patches of an image. Arms differ in the norm, in
where it is, or in the warm-up of the rate. Every arm has its own best rate for Adam, decayed to 0
by a cosine and chosen again by the reporting seeds. Batch norm has statistics over all tokens,
re-estimated before each evaluation. Where the highest rate is searched the rate is constant. A rate
is tolerated when the run ends within 10 points of the seed's own best accuracy. Text: A small GPT
predicts the next character. Its error is the share of characters that it predicts wrong. There
batch norm has statistics of each position, which show no later token. Depth: It has 2 to 12 blocks.
Source: arXiv:2002.04745 (before or after the sum, warm-up); arXiv:1906.01787 (depth);
arXiv:2502.02732 (on both sides); arXiv:1910.07467 (RMS norm); arXiv:2503.10622 (dynamic tanh);
arXiv:2003.07845 (batch norm)
Expect: a warm-up helps after the sum and not before the branch. RMS norm and dynamic tanh are as
good as layer norm, batch norm is not. Higher rates before the branch, and with norms on both sides.
With more blocks, norms after the sum lose
Refuted if: the 99 % interval lies below 1 point (n = 12 to 48). For the rates: below 0.3 decades (n
= 8)
Cost: quick: about 40 minutes on 2 cores, predicted. 45 were measured, with 420 instead of 216
runs of the first search; standard: not timed
"""

from dataclasses import replace

from normlab.settings import Config
from normlab.studies.effects import (
    Claim,
    Effect,
    decades,
    effect,
    error_difference,
    interaction,
    looks,
)
from normlab.studies.intervals import PAIRED_T
from normlab.studies.protocols import WINDOW, Edges
from normlab.studies.setup import Arm, Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import DECADES

RATES_TRIED = (-3.5, -3.0, -2.5, -2.0)
"""log10 of the first rates that are tried with Adam; the grid grows where they are not enough."""
TUNED = replace(WINDOW, exponents=RATES_TRIED)
EDGES = Edges((-3.5, -3.0, -2.5, -2.0, -1.5))
PATCHES = {"data.patch": 2, "norm.time": "sequence"}
COSINE = PATCHES | {"optim.schedule": "cosine"}
COMPARED = ("layer", "rms", "dynamic_tanh", "batch")
PLACEMENTS = ("post", "pre", "peri")
LAYER = {"norm.name": "layer"}
WARM = {"optim.warmup": 60}


def arms(named: dict[str, Config], is_primary: bool = True) -> tuple[Arm, ...]:
    return tuple(Arm(name, settings, is_primary) for name, settings in named.items())


def placed(placement: str) -> Config:
    return LAYER | {"model.placement": placement}


def warmed(placement: str) -> dict[str, Config]:
    """Return what a placement is without a warm-up and with one, by name."""
    return {placement: placed(placement), f"{placement} with warm-up": placed(placement) | WARM}


NORMS = Setup(
    name="vit-norms",
    title="ViT 32, 2 blocks, 8x8 digits, batch 16",
    base="digits_encoder",
    settings=COSINE,
    arms=norm_arms(*COMPARED, primary=COMPARED),
    protocol=TUNED,
)
WARMUP = replace(
    NORMS,
    name="vit-warmup",
    title="ViT 32, 6 blocks, 8x8 digits, batch 16",
    settings=COSINE | {"model.depth": 6},
    arms=arms(warmed("post") | warmed("pre")),
)
RATES = replace(
    WARMUP,
    name="vit-rates",
    settings=PATCHES | {"model.depth": 6, "train.steps": 300, "train.eval_every": 100},
    arms=arms({placement: placed(placement) for placement in PLACEMENTS}),
    protocol=EDGES,
    seeds=8,
)


def on_mnist(setup: Setup, screened: tuple[Arm, ...] = ()) -> Setup:
    """Return the setup on MNIST, where a patch has 7 x 7 pixels, with further arms."""
    settings = {"data.name": "mnist", "data.patch": 7}
    title = setup.title.replace("8x8 digits", "MNIST")
    arms = setup.arms + screened
    return replace(setup, title=title, settings=setup.settings | settings, arms=arms)


ON_MNIST = (
    on_mnist(WARMUP, arms(warmed("peri"), is_primary=False)),
    on_mnist(NORMS, norm_arms("none", "dynamic_erf")),
    on_mnist(RATES),
)

SHORT = {"model.widths": (32,), "train.steps": 400, "train.eval_every": 400}
TEXT_NORMS = Setup(
    name="gpt-norms",
    title="GPT 32, 2 blocks, Tiny Shakespeare, batch 16",
    base="shakespeare_gpt",
    settings=SHORT,
    arms=norm_arms(*COMPARED, "none", "dynamic_erf", primary=COMPARED),
    protocol=TUNED,
)
TEXT_DEPTH = replace(
    TEXT_NORMS,
    name="gpt-depth",
    title="GPT 32, Tiny Shakespeare, batch 8",
    settings=SHORT | {"data.batch": 8},
    arms=tuple(
        Arm(
            f"{placement}/{depth}",
            placed(placement) | {"model.depth": depth},
            is_primary=placement != "peri" and depth in (2, 12),
            **{"level": depth, "line": placement, "group": f"depth {depth}"},
        )
        for placement in PLACEMENTS
        for depth in (2, 4, 8, 12)
    ),
)
TEXT_RATES = replace(
    TEXT_DEPTH,
    name="gpt-rates",
    title="GPT 32, 4 blocks, Tiny Shakespeare, batch 8",
    settings=SHORT
    | {"data.batch": 8, "model.depth": 4, "optim.schedule": "constant", "optim.warmup": 0}
    | {"train.steps": 200, "train.eval_every": 200},
    arms=RATES.arms + norm_arms("none"),
    protocol=EDGES,
    seeds=8,
)


def worse(norm: str) -> Effect:
    return error_difference(norm, "layer")


def needs_warmup(placement: str) -> Effect:
    return error_difference(placement, f"{placement} with warm-up")


def tolerates(high: str, low: str) -> Effect:
    """Return how much higher a rate the norms of one placement tolerate than those of another."""
    text = f"log10 of the highest rate that ends within 10 points of the own best, {high} - {low}"
    words = f"highest rate that trains, {high} / {low}"
    return effect(PAIRED_T, DECADES, text, words)(lambda e: decades(e, low, high))


AFTER = "Transformers with norms after the sum need a warm-up"
BEFORE = "Transformers with norms before the branch need a warm-up"
RMS = "RMS norm is worse than layer norm in transformers"
TANH = "Dynamic tanh is worse than layer norm in transformers"
BATCH = "Batch norm is worse than layer norm in vision transformers"
BATCH_IN_TEXT = "Batch norm is worse than layer norm in language models"
DEEP = "Deep transformers need norms before the branch"
LOST_BY_DEPTH = interaction(
    *("post/12", "post/2", "pre/12", "pre/2"),
    "(test error, 12 blocks - 2) with norms after the sum - the same before the branch",
)
HIGHER = "Norms before the branch tolerate higher rates than norms after the sum"
HIGHEST = "Norms on both sides of the branch tolerate higher rates than before it alone"
STUDY = study(
    __doc__,
    "transformers",
    "Transformers",
    is_extra=True,
    setups={
        "quick": (WARMUP, NORMS, RATES),
        "standard": (*ON_MNIST, TEXT_NORMS, TEXT_DEPTH, TEXT_RATES),
    },
    claims=(
        Claim("C15a", AFTER, WARMUP.name, needs_warmup("post"), 1.0, looks(12, 48)),
        Claim("C15b", BEFORE, WARMUP.name, needs_warmup("pre"), 1.0, looks(12, 48)),
        Claim("C16a", RMS, NORMS.name, worse("rms"), 1.0, looks(12, 48)),
        Claim("C16b", TANH, NORMS.name, worse("dynamic_tanh"), 1.0, looks(12, 48)),
        Claim("C16c", BATCH, NORMS.name, worse("batch"), 1.0, looks(12, 48)),
        Claim("C16a-text", RMS, TEXT_NORMS.name, worse("rms"), 1.0, looks(12, 48)),
        Claim("C16b-text", TANH, TEXT_NORMS.name, worse("dynamic_tanh"), 1.0, looks(12, 48)),
        Claim("C16d", BATCH_IN_TEXT, TEXT_NORMS.name, worse("batch"), 1.0, looks(12, 48)),
        Claim("C17a", HIGHER, RATES.name, tolerates("pre", "post"), 0.3, looks(8, 8)),
        Claim("C17b", HIGHEST, RATES.name, tolerates("peri", "pre"), 0.3, looks(8, 8)),
        Claim("C17a-text", HIGHER, TEXT_RATES.name, tolerates("pre", "post"), 0.3, looks(8, 8)),
        Claim("C17b-text", HIGHEST, TEXT_RATES.name, tolerates("peri", "pre"), 0.3, looks(8, 8)),
        Claim("C18", DEEP, TEXT_DEPTH.name, LOST_BY_DEPTH, 1.0, looks(12, 48)),
    ),
    figures=(
        Figure("rates", RATES.name, "Final validation accuracy against Adam's learning rate."),
        Figure("levels", TEXT_DEPTH.name, "Error of next characters against the blocks of a GPT."),
    ),
)
