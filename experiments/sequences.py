"""Is batch normalization unsuited to sequences whose lengths vary?

Fair test: The rows of an image are resampled to 12 steps, or to a number from 4 to 20 that belongs
to the image. So a length cuts nothing away. Each arm is trained on both. What it loses by the
lengths is compared with what no norm loses, because such lengths are harder by themselves. Natural
lengths have no fixed one to compare with: there batch norm is compared with no norm. Every arm has
its own best rate, decayed to 0 by a cosine and chosen again by the reporting seeds. On digits,
scales start at 0.1 where both products have batch norm (its source), else at 1. On MNIST they start
at 0.1 or 1, as is better in tuning. A screening arm has statistics of at least 8 sequences at late
steps. If few sequences are the cause, that one loses nothing. Statistics leave out what is behind
the end of a sequence. They are re-estimated for each step before an evaluation. Longer sequences:
The networks of 4 to 20 steps read the test images once more, at 21 to 28 steps. Padding: Sequences
have 4 to 40 steps, and short ones are more frequent. Transformers: An encoder with Adam reads the
same sequences of 4 to 20 steps. Its batch norm has statistics over all tokens that are valid. Long
sequences: A reproduction reads MNIST pixel by pixel, in one random order, at the one rate of its
source.
Source: arXiv:1607.06450, abstract; arXiv:1603.09025 (statistics of each step, padding in them);
arXiv:1510.01378 (of the whole sequence, on the products with the input); arXiv:2003.07845
(transformers)
Expect: several points lost by statistics of each step, whose late steps have few sequences, and
more than 3 beyond the lengths of training. Nothing lost by those of the whole sequence, by padding,
or at natural lengths
Refuted if: the 99 % interval lies below 1.5 points; beyond the lengths of training 3, for padding 1
(n = 12 to 48)
Cost: quick: about 10 minutes on 2 cores, predicted. 13 were measured, with 705 instead of 192
runs of the first search and 55 more of screening; standard: not timed. Full: for an accelerator. On
one core a run takes 28 hours with batch norm and 18 without, predicted from single steps
"""

from dataclasses import replace

from normlab.settings import Config
from normlab.studies.effects import Claim, Effect, error_difference, interaction, looks
from normlab.studies.metrics import growth
from normlab.studies.protocols import WINDOW, Tuning
from normlab.studies.setup import Arm, Setup, norm_arms
from normlab.studies.study import Figure, study

SMALL_SCALE = {"init.norm_scale": 0.1}
BY_SEQUENCE = {"norm.name": "batch", "norm.time": "sequence", "model.normed": "input"}
BATCH = {"norm.name": "batch"}
RATES = (-1.5, -1.0, -0.5, 0.0)
"""log10 of the first rates that are tried: three around the usual best ones and one above. The grid
grows where that is not enough."""
TUNED = replace(WINDOW, exponents=RATES)
WITH_SCALE = replace(TUNED, also=(("init.norm_scale", (0.1, 1.0)),))


def both(line: str, settings: Config, *primary: int) -> tuple[Arm, ...]:
    """Return an arm at lengths that are all 12 and one at lengths from 4 to 20, which is also
    tested at 21 to 28."""
    return tuple(
        Arm(
            f"{line}/{spread}",
            settings | {"data.length_spread": spread, "eval.long": spread},
            is_primary=spread in primary,
            level=spread,
            line=line,
            group=f"spread {spread}",
        )
        for spread in (0, 8)
    )


DIGITS = Setup(
    name="lengths-gru",
    title="GRU 32, 8x8 digits, batch 16",
    base="digits_rnn",
    settings={"data.length": 12, "optim.schedule": "cosine"},
    arms=both("none", {"norm.name": "none"}, 0, 8)
    + both("batch each step", BATCH | SMALL_SCALE, 0, 8)
    + both("batch whole sequence", BY_SEQUENCE, 0, 8)
    + both("layer", {"norm.name": "layer"}, 8)[1:]
    + both("batch each step least 8", BATCH | SMALL_SCALE | {"norm.least": 8})[1:],
    protocol=TUNED,
)
BEYOND = replace(
    DIGITS,
    name="lengths-beyond",
    title="GRU 32, 8x8 digits, lengths 4 to 20, batch 16",
    arms=tuple(a for a in DIGITS.arms if a.name in ("none/8", "batch each step/8")),
)
OFTEN_SHORT = {"data.length": 22, "data.length_spread": 18, "data.length_law": "log"}
PADDED = Setup(
    name="lengths-padding",
    title="GRU 32, 8x8 digits, lengths 4 to 40, batch 16",
    base="digits_rnn",
    settings={"optim.schedule": "cosine", **OFTEN_SHORT},
    arms=(
        Arm("masked", BY_SEQUENCE, is_primary=True),
        Arm("unmasked", BY_SEQUENCE | {"norm.masked": False}, is_primary=True),
    ),
    protocol=TUNED,
)
ON_MNIST = {
    **{"data.name": "mnist", "model.widths": (64,)},
    **{"train.steps": 1000, "train.eval_every": 500},
}


def free_scale(setup: Setup) -> Setup:
    """Return a setup in which no arm has a start of the scale: it is tuned with the rate."""
    arms = (
        replace(arm, settings={n: v for n, v in arm.settings.items() if n not in SMALL_SCALE})
        for arm in setup.arms
    )
    return replace(setup, arms=tuple(arms), protocol=WITH_SCALE)


MNIST, BEYOND_MNIST, PADDED_MNIST = (
    replace(
        setup,
        title=setup.title.replace("GRU 32, 8x8 digits", "GRU 64, MNIST"),
        settings=setup.settings | ON_MNIST,
    )
    for setup in (free_scale(DIGITS), free_scale(BEYOND), PADDED)
)

TOKENS = {"norm.name": "batch", "norm.time": "sequence"}
ENCODER = Setup(
    name="lengths-encoder",
    title="encoder 32, 2 blocks, 8x8 digits, lengths 4 to 20, batch 16",
    base="digits_encoder",
    settings={"data.length": 12, "data.length_spread": 8, "optim.schedule": "cosine"},
    arms=(
        *norm_arms("layer", primary=("layer",)),
        Arm("batch all tokens", TOKENS, is_primary=True),
        *norm_arms("none"),
    ),
    protocol=replace(WINDOW, exponents=(-3.0, -2.5, -2.0, -1.5)),
)
ENCODER_MNIST = replace(
    ENCODER,
    title="encoder 32, 2 blocks, MNIST, lengths 4 to 20, batch 16",
    settings=ENCODER.settings
    | {"data.name": "mnist", "train.steps": 1000, "train.eval_every": 500},
)

VOWELS = Setup(
    name="lengths-natural",
    title="GRU 32, Japanese Vowels, lengths 7 to 29, batch 16",
    base="digits_rnn",
    settings={"data.name": "japanese_vowels", "optim.schedule": "cosine"},
    arms=(
        *norm_arms("none", primary=("none",)),
        Arm("batch each step", BATCH | SMALL_SCALE, is_primary=True),
        Arm("batch whole sequence", BY_SEQUENCE, is_primary=True),
    ),
    protocol=TUNED,
)
COLUMNS = replace(
    free_scale(VOWELS),
    title="GRU 64, columns of MNIST without blank borders, batch 16",
    settings={"optim.schedule": "cosine", "data.length_law": "natural"} | ON_MNIST,
)
PIXELS = Setup(
    name="lengths-pixels",
    title="LSTM 100, MNIST pixel by pixel in one random order, 784 steps, batch 64",
    base="permuted_mnist_lstm",
    arms=norm_arms("none", "batch", primary=("none", "batch")),
    protocol=Tuning((-3.0,), seeds=(1000,), extensions=0),
)
"""A reproduction of arXiv:1603.09025, section 5.1. Deviations: The optimiser is Adam, not RMSprop
with momentum. Gradients are not clipped. The kernels of the state are orthogonal. In the authors'
code one of the four is the identity. The cell of the LSTM has no norm, and the first state no
noise. The last parameters are tested, not those that are best on validation. There are 55,000
training images, not 50,000. The order of the pixels is another one. The authors' code draws its
places with replacement, and therefore never reads some pixels."""


def by_lengths(line: str) -> Effect:
    """Return what a line loses by the lengths, more than no norm."""
    return interaction(
        *(f"{line}/8", f"{line}/0", "none/8", "none/0"),
        "(test error, lengths 4 to 20 - all 12) - the same of none",
    )


UNSUITED = "Batch norm is unsuited to sequences whose lengths vary"
NATURAL = "Batch norm is unsuited to sequences of natural lengths"
LONG = "Batch norm is unsuited to long sequences"
BEYOND_TRAINING = "Batch norm fails beyond the lengths of training"
SPOILED = "Padding spoils the statistics of batch norm"
IN_TRANSFORMERS = error_difference("batch all tokens", "layer")
REPAIRED = error_difference("batch each step/8", "layer/8")
LONGER = error_difference(
    *("batch each step/8", "none/8"),
    "(test error, lengths 21 to 28 - 4 to 20) of batch each step - the same of none",
    growth,
)
ERROR = "Test error against the spread of the lengths, 12 -/+ 0 and 12 -/+ 8."
STUDY = study(
    __doc__,
    "sequences",
    "Sequences",
    setups={
        "quick": (DIGITS, BEYOND, PADDED, ENCODER, VOWELS),
        "standard": (MNIST, BEYOND_MNIST, PADDED_MNIST, ENCODER_MNIST, COLUMNS),
        "full": (PIXELS,),
    },
    claims=(
        Claim(
            *("C9a", f"{UNSUITED} (statistics of each step)", DIGITS.name),
            *(by_lengths("batch each step"), 1.5, looks(12, 48)),
        ),
        Claim(
            *("C9b", f"{NATURAL} (statistics of each step)", VOWELS.name),
            *(error_difference("batch each step", "none"), 1.5, looks(12, 48)),
        ),
        Claim(
            *("C9c", f"{UNSUITED} (statistics of the whole sequence)", DIGITS.name),
            *(by_lengths("batch whole sequence"), 1.5, looks(12, 48)),
        ),
        Claim(
            *("C9d", f"{NATURAL} (statistics of the whole sequence)", VOWELS.name),
            *(error_difference("batch whole sequence", "none"), 1.5, looks(12, 48)),
        ),
        Claim(
            *("C9e", f"{BEYOND_TRAINING} (statistics of each step)", BEYOND.name),
            *(LONGER, 3.0, looks(12, 48)),
        ),
        Claim(
            *("C9f", f"{SPOILED} (of the whole sequence)", PADDED.name),
            *(error_difference("unmasked", "masked"), 1.0, looks(12, 48)),
        ),
        Claim(
            *("C9g", "Batch norm is unsuited to transformers", ENCODER.name),
            *(IN_TRANSFORMERS, 1.5, looks(12, 48)),
        ),
        Claim(
            *("C9h", f"{LONG} (statistics of each step)", PIXELS.name),
            *(error_difference("batch", "none"), 1.5, looks(12, 12)),
        ),
        Claim(
            *("C10c", "Layer norm repairs batch norm in recurrent networks", DIGITS.name),
            *(REPAIRED, 1.5, looks(12, 48)),
        ),
    ),
    figures=(Figure("levels", DIGITS.name, ERROR),),
)
