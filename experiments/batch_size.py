"""Does batch normalization fail at small batches, and do layer and group norm repair it?

Question: what do statistics over few examples cost, and which norms do better at a batch of 4?
Source: arXiv:1803.08494, figure 1 and table 3; arXiv:2105.07576, table 2 and figure 6.
Expect: several points at 4 examples in an MLP; little in a CNN, where a channel still sees
2 x H x W values; layer and group norm better than batch norm at a batch of 4.
Refuted if: the effect is below 1 point (paired t, n = 12); C10a is testable only if C8a holds.
Cost: quick about 2 minutes on 2 cores; standard about 30 minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from normlab.lab.evidence import SetupEvidence
from normlab.lab.measures import error_points, is_failed
from normlab.lab.study import HALF_DECADES, Arm, Figure, Setup, Study, Tuning, norm_arms
from normlab.lab.verdicts import Row, accuracy_row

N, DELTA = 12, 1.0
FIXED = {"train.steps": 300, "train.eval_every": 100}


def stats_arms(primary: tuple[int, int], others: tuple[int, ...]) -> tuple[Arm, ...]:
    """Return one arm for each number of examples that share statistics, in batches of 64."""
    return tuple(
        Arm(
            f"batch/{size}",
            {"norm.name": "batch", "norm.stats_batch": size},
            is_primary=size in primary,
            level=size,
            line="batch norm",
        )
        for size in sorted({*primary, *others})
    )


MLP = Setup(
    name="stats-batch-mlp",
    title="ReLU MLP 3x100, 8x8 digits, batch 64",
    base="digits_mlp",
    settings=FIXED,
    arms=stats_arms((4, 64), (2, 8, 16, 32)) + norm_arms("none", "affine", "layer", "group", "rms"),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N,
)
CNN = replace(
    MLP,
    name="stats-batch-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits, batch 64",
    base="digits_cnn",
    arms=stats_arms((2, 64), (4, 16))
    + norm_arms("none", "affine", "layer", "layer_channels", "group", "instance", "rms"),
)
SMALL = replace(
    MLP,
    name="small-batch-mlp",
    title="ReLU MLP 3x100, 8x8 digits, batch 4",
    settings={"data.batch": 4, "train.steps": 4800, "train.eval_every": 1600},
    arms=norm_arms(
        "none", "affine", "batch", "layer", "group", "rms", primary=("batch", "layer", "group")
    ),
)
MNIST = replace(
    MLP,
    title="ReLU MLP 3x100, MNIST, batch 64",
    settings={"data.name": "mnist", **FIXED, "train.steps": 600},
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, Fashion-MNIST, batch 64",
    base="fashion_cnn",
    settings={"train.steps": 600, "train.eval_every": 200},
)
SMALL_MNIST = replace(
    SMALL,
    title="ReLU MLP 3x100, MNIST, batch 4",
    settings={"data.name": "mnist", **SMALL.settings},
)


def contrast(e: SetupEvidence, worse: str, better: str, **facts) -> Row:
    """Return the row with e = test error of `worse` - test error of `better`, in points."""
    runs = {arm: e.runs_of(arm) for arm in (worse, better)}
    errors = {arm: {s: error_points(r) for s, r in runs[arm].items()} for arm in runs}
    return accuracy_row(
        better=errors[better],
        worse=errors[worse],
        failed=lambda s: (is_failed(runs[better][s]), is_failed(runs[worse][s])),
        contrast=f"test error of {worse} - test error of {better}, each at its best rate",
        scope=e.setup.title,
        setup=e.setup.name,
        unit="points",
        n=N,
        **facts,
    )


def claims(evidence: Mapping[str, SetupEvidence], profile: str) -> list[Row]:
    """C8a, C8b: few examples against 64; C10a: batch against layer and group at a batch of 4."""
    fails = "Batch norm fails at small batches"
    conv_delta = DELTA if profile == "quick" else 0.5
    mlp, cnn = evidence["stats-batch-mlp"], evidence["stats-batch-cnn"]
    rows = [
        contrast(mlp, "batch/4", "batch/64", id="C8a", claim="C8", sentence=fails, delta=DELTA),
        contrast(
            cnn, "batch/2", "batch/64", id="C8b", claim="C8", sentence=fails, delta=conv_delta
        ),
    ]
    for better in ("layer", "group"):
        rows.append(
            contrast(
                evidence["small-batch-mlp"],
                "batch",
                better,
                id=f"C10a-{better}",
                claim="C10",
                sentence=f"{better.capitalize()} norm repairs batch norm at small batches",
                delta=DELTA,
                gate="C8a",
            )
        )
    return rows


STUDY = Study(
    name="batch_size",
    title="Small batches",
    question="Does batch normalization fail at small batches, and do layer and group norm help?",
    fair_test=(
        "The batch of a gradient step and the number of examples that share statistics are two "
        "things. The first contrasts fix the gradient's batch at 64 and change only how many "
        "examples share statistics; the last ones really train with batches of 4, where layer and "
        "group norm must show what they repair. Every arm and level has its own best rate."
    ),
    source="arXiv:1803.08494, figure 1 and table 3; arXiv:2105.07576, table 2",
    expect="several points at 4 examples in an MLP, little in a CNN; layer and group norm better",
    refuted_if="the effect is below 1 point; layer and group norm count only if C8a is supported",
    cost="quick: about 2 minutes on 2 cores; standard: about 30 minutes",
    setups={"quick": (MLP, CNN, SMALL), "standard": (MNIST, FASHION, SMALL_MNIST)},
    claims=claims,
    figures=(
        Figure(
            "levels",
            "stats-batch-mlp",
            "Test error against the number of examples that share statistics; batch 64, MLP.",
        ),
        Figure(
            "levels",
            "stats-batch-cnn",
            "Test error against the number of examples that share statistics; batch 64, CNN.",
        ),
    ),
)
