"""Which norm does a transformer need, and where?

Fair test: A small vision transformer reads the patches of an image. Arms differ in the norm, in
where it is, or in the warm-up of the rate. Every arm has its own best rate for Adam, decayed to 0
by a cosine and chosen again by the reporting seeds. Batch norm has statistics over all tokens,
re-estimated before each evaluation. Where the highest rate is searched the rate is constant. A rate
is tolerated when the run ends within 10 points of the seed's own best accuracy.
Source: arXiv:2002.04745 (before or after the sum, warm-up); arXiv:2502.02732 (on both sides);
arXiv:1910.07467 (RMS norm); arXiv:2503.10622 (dynamic tanh); arXiv:2003.07845 (batch norm)
Expect: a warm-up helps after the sum and not before the branch. RMS norm and dynamic tanh are as
good as layer norm, batch norm is not. Higher rates before the branch, and with norms on both sides
Refuted if: the 99 % interval lies below 1 point (n = 12 to 48). For the rates: below 0.3 decades (n
= 8)
Cost: quick: about 45 minutes on 2 cores; standard: not timed
"""

from dataclasses import replace

from normlab.settings import Config
from normlab.studies.effects import Claim, Effect, decades, effect, error_difference, looks
from normlab.studies.intervals import PAIRED_T
from normlab.studies.protocols import ADAM_RATES, ADAM_WINDOW, Edges
from normlab.studies.setup import Arm, Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import DECADES

PATCHES = {"data.patch": 2, "norm.time": "sequence"}
COSINE = PATCHES | {"optim.schedule": "cosine"}
COMPARED = ("layer", "rms", "dynamic_tanh", "batch")
LAYER = {"norm.name": "layer"}
WARM = {"optim.warmup": 60}


def arms(named: dict[str, Config], *screened: str) -> tuple[Arm, ...]:
    """Return arms by name, all primary but the screened ones."""
    return tuple(Arm(name, s, is_primary=name not in screened) for name, s in named.items())


def placed(placement: str) -> Config:
    return LAYER | {"model.placement": placement}


NORMS = Setup(
    name="vit-norms",
    title="ViT 32, 2 blocks, 8x8 digits, batch 16",
    base="digits_encoder",
    settings=COSINE,
    arms=norm_arms(*COMPARED, "none", "dynamic_erf", primary=COMPARED),
    protocol=ADAM_WINDOW,
)
WARMUP = replace(
    NORMS,
    name="vit-warmup",
    title="ViT 32, 6 blocks, 8x8 digits, batch 16",
    settings=COSINE | {"model.depth": 6},
    arms=arms(
        {
            f"{placement}{words}": placed(placement) | settings
            for placement in ("post", "pre", "peri")
            for words, settings in (("", {}), (" with warm-up", WARM))
        },
        *("peri", "peri with warm-up"),
    ),
)
RATES = replace(
    WARMUP,
    name="vit-rates",
    settings=PATCHES | {"model.depth": 6, "train.steps": 300, "train.eval_every": 100},
    arms=arms({placement: placed(placement) for placement in ("post", "pre", "peri")}),
    protocol=Edges(ADAM_RATES),
    seeds=8,
)


def on_mnist(setup: Setup) -> Setup:
    """Return the setup on MNIST, where a patch has 7 x 7 pixels."""
    settings = {"data.name": "mnist", "data.patch": 7}
    title = setup.title.replace("8x8 digits", "MNIST")
    return replace(setup, title=title, settings=setup.settings | settings)


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
HIGHER = "Norms before the branch tolerate higher rates than norms after the sum"
HIGHEST = "Norms on both sides of the branch tolerate higher rates than before it alone"
STUDY = study(
    __doc__,
    "transformers",
    "Transformers",
    is_extra=True,
    setups={
        "quick": (WARMUP, NORMS, RATES),
        "standard": (on_mnist(WARMUP), on_mnist(NORMS), on_mnist(RATES)),
    },
    claims=(
        Claim("C15a", AFTER, WARMUP.name, needs_warmup("post"), 1.0, looks(12, 48)),
        Claim("C15b", BEFORE, WARMUP.name, needs_warmup("pre"), 1.0, looks(12, 48)),
        Claim("C16a", RMS, NORMS.name, worse("rms"), 1.0, looks(12, 48)),
        Claim("C16b", TANH, NORMS.name, worse("dynamic_tanh"), 1.0, looks(12, 48)),
        Claim("C16c", BATCH, NORMS.name, worse("batch"), 1.0, looks(12, 48)),
        Claim("C17a", HIGHER, RATES.name, tolerates("pre", "post"), 0.3, looks(8, 8)),
        Claim("C17b", HIGHEST, RATES.name, tolerates("peri", "pre"), 0.3, looks(8, 8)),
    ),
    figures=(
        Figure("rates", RATES.name, "Final validation accuracy against Adam's learning rate."),
    ),
)
