"""Is batch normalization unsuited to sequences whose lengths vary?

Fair test: The rows of an image are resampled to 12 steps, or to a number from 4 to 20 that belongs
to the image. So a length cuts nothing away. Each arm is trained on both. What it loses by the
lengths is compared with what no norm loses, because such lengths are harder by themselves. Natural
lengths have no fixed one to compare with: there batch norm is compared with no norm. Every arm has
its own best rate, decayed to 0 by a cosine and chosen again by the reporting seeds. Scales start at
0.1 where both products have batch norm (its source), else at 1. Screening arms show the other
start. Statistics leave out what is behind the end of a sequence. They are re-estimated for each
step before an evaluation. Transformers: An encoder with Adam reads the same sequences of 4 to 20
steps. Its batch norm has statistics over all tokens that are valid.
Source: arXiv:1607.06450, abstract; arXiv:1603.09025 (statistics of each step); arXiv:1510.01378 (of
the whole sequence, on the products with the input); arXiv:2003.07845 (transformers)
Expect: several points lost by statistics of each step, whose late steps have few sequences; nothing
by those of the whole sequence. At natural lengths nothing by either
Refuted if: the 99 % interval lies below 1.5 points (n = 12 to 48)
Cost: quick: about 8 minutes on 2 cores; standard: not timed
"""

from dataclasses import replace

from normlab.settings import Config
from normlab.studies.effects import Claim, Effect, error_difference, interaction, looks
from normlab.studies.protocols import ADAM_WINDOW, WINDOW
from normlab.studies.setup import Arm, Setup, norm_arms
from normlab.studies.study import Figure, study

SMALL_SCALE = {"init.norm_scale": 0.1}
BY_SEQUENCE = {"norm.name": "batch", "norm.time": "sequence", "model.normed": "input"}
BATCH = {"norm.name": "batch"}


def both(line: str, settings: Config, *primary: int) -> tuple[Arm, ...]:
    """Return an arm at lengths that are all 12 and one at lengths from 4 to 20."""
    return tuple(
        Arm(
            f"{line}/{spread}",
            settings | {"data.length_spread": spread},
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
    + both("layer", {"norm.name": "layer"}, 8)
    + both("batch each step scale 1", BATCH)
    + both("batch whole sequence scale 0.1", BY_SEQUENCE | SMALL_SCALE)
    + both("layer scale 0.1", {"norm.name": "layer"} | SMALL_SCALE)
    + both("batch each step unmasked", BATCH | SMALL_SCALE | {"norm.masked": False}),
    protocol=WINDOW,
)
MNIST = replace(
    DIGITS,
    title="GRU 64, MNIST, batch 16",
    settings=DIGITS.settings
    | {"data.name": "mnist", "model.widths": (64,), "train.steps": 1000, "train.eval_every": 500},
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
        *norm_arms("none", "rms"),
        Arm("batch each position", BATCH),
    ),
    protocol=ADAM_WINDOW,
)
ENCODER_MNIST = replace(
    ENCODER,
    title="encoder 32, 2 blocks, MNIST, lengths 4 to 20, batch 16",
    settings=ENCODER.settings
    | {"data.name": "mnist", "train.steps": 1000, "train.eval_every": 500},
)

VOWELS = Setup(
    name="lengths-vowels",
    title="GRU 32, Japanese Vowels, lengths 7 to 29, batch 16",
    base="digits_rnn",
    settings={"data.name": "japanese_vowels", "optim.schedule": "cosine"},
    arms=(
        *norm_arms("none", primary=("none",)),
        Arm("batch each step", BATCH | SMALL_SCALE, is_primary=True),
        Arm("batch whole sequence", BY_SEQUENCE, is_primary=True),
        *norm_arms("layer"),
        Arm("batch each step scale 1", BATCH),
        Arm("batch whole sequence scale 0.1", BY_SEQUENCE | SMALL_SCALE),
    ),
    protocol=WINDOW,
)


def by_lengths(line: str) -> Effect:
    """Return what a line loses by the lengths, more than no norm."""
    return interaction(
        *(f"{line}/8", f"{line}/0", "none/8", "none/0"),
        "(test error, lengths 4 to 20 - all 12) - the same of none",
    )


UNSUITED = "Batch norm is unsuited to sequences whose lengths vary"
NATURAL = "Batch norm is unsuited to sequences of natural lengths"
IN_TRANSFORMERS = error_difference("batch all tokens", "layer")
REPAIRED = error_difference("batch each step/8", "layer/8")
ERROR = "Test error against the spread of the lengths, 12 -/+ 0 and 12 -/+ 8."
STUDY = study(
    __doc__,
    "sequences",
    "Sequences",
    setups={"quick": (DIGITS, ENCODER, VOWELS), "standard": (MNIST, ENCODER_MNIST)},
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
            *("C9g", "Batch norm is unsuited to transformers", ENCODER.name),
            *(IN_TRANSFORMERS, 1.5, looks(12, 48)),
        ),
        Claim(
            *("C10c", "Layer norm repairs batch norm in recurrent networks", DIGITS.name),
            *(REPAIRED, 1.5, looks(12, 48)),
        ),
    ),
    figures=(Figure("levels", DIGITS.name, ERROR),),
)
