"""Does batch normalization fail at small batches, and do layer and group norm repair it?

Question: what do statistics over few examples cost, and which norms do better at a batch of 4?
Source: arXiv:1803.08494, figure 1 and table 3; arXiv:2105.07576, table 2 and figure 6.
Expect: several points at 4 examples in an MLP; little in a CNN, where a channel still sees
2 x H x W values; layer and group norm better than batch norm at a batch of 4.
Refuted if: the effect is below 1 point, 0.5 on Fashion-MNIST (paired t, n = 12, 8 for batches of
2); C10a is testable only if C8a holds, C10b if batch norm loses 0.5 points more than no norm.
Cost: quick about 3 minutes on 2 cores; standard about 8 minutes.
Fashion-MNIST: the first convolution has stride 2, for a quarter of the cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace

from normlab.studies.decisions import Contrast
from normlab.studies.effects import error_row
from normlab.studies.hypothesis_tests import PAIRED_T
from normlab.studies.metrics import error_points
from normlab.studies.planning import SetupRuns
from normlab.studies.study import (
    HALF_DECADES,
    Arm,
    Figure,
    FollowUp,
    Setup,
    Study,
    Tuning,
    norm_arms,
)
from normlab.studies.units import POINTS

N, N_CONV, DELTA, CONV_DELTA = 12, 8, 1.0, 0.5
FIXED = {"train.steps": 300, "train.eval_every": 100}


OWN_STATISTICS = {"eval.batch_statistics": True, "eval.batch": 64}
"""Scored in batches of 64, of which every number of examples here is a divisor."""


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
    report_settings=OWN_STATISTICS,
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
    report_settings={},
)


def switched(norm: str) -> str:
    return f"{norm}, batch 4 from step 150 on"


SWITCH = replace(
    MLP,
    name="switched-batch-mlp",
    title="ReLU MLP 3x100, 8x8 digits, 19,200 examples",
    arms=norm_arms("none", "batch", primary=("none", "batch")),
    report_settings={},
    follows=tuple(
        FollowUp(
            switched(norm),
            arm=norm,
            rate_of=norm,
            settings={
                "train.steps": 150 + 150 * 64 // 4,
                "train.late_batch": 4,
                "train.late_from": 150,
                "train.eval_every": 150,
            },
        )
        for norm in ("none", "batch")
    ),
)
MNIST = replace(
    MLP,
    title="ReLU MLP 3x100, MNIST, batch 64",
    settings={"data.name": "mnist", **FIXED, "train.steps": 600},
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST, batch 64",
    base="fashion_cnn",
    settings={"train.steps": 600, "train.eval_every": 200, "model.stride": 2},
    arms=stats_arms((2, 64), ()),
)
SMALL_MNIST = replace(
    SMALL,
    title="ReLU MLP 3x100, MNIST, batch 4",
    settings={"data.name": "mnist", **SMALL.settings},
)


SWITCH_MNIST = replace(
    SWITCH,
    title="ReLU MLP 3x100, MNIST, 19,200 examples",
    settings={"data.name": "mnist", **FIXED},
)
SMALL_FASHION = Setup(
    name="small-batch-cnn",
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST, batch 2, 6,000 examples",
    base="fashion_cnn",
    settings={"model.stride": 2, "train.eval_every": 1000},
    arms=(
        *(
            Arm(
                norm,
                {"norm.name": norm, "data.batch": 2, "train.steps": 3000},
                is_primary=True,
                group="batch 2",
            )
            for norm in ("none", "batch", "layer", "group", "instance")
        ),
        *(
            Arm(
                f"{norm}/64",
                {"norm.name": norm, "data.batch": 64, "train.steps": 94},
                is_primary=True,
                group="batch 64",
            )
            for norm in ("none", "batch")
        ),
    ),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N_CONV,
)
CIFAR = replace(
    CNN,
    title="ResNet-20, CIFAR-10, 4,000 steps, batch 64",
    base="cifar10_resnet",
    settings={"train.steps": 4000, "data.batch": 64},
    arms=stats_arms((2, 64), (4, 16)),
)


def interaction(e: SetupRuns, a: str, b: str, c: str, d: str) -> dict[int, float]:
    """Return seed -> (error a - error b) - (error c - error d), test errors in points."""
    runs = [e.follows.get(name) or e.runs_of(name) for name in (a, b, c, d)]
    seeds = set.intersection(*(set(r) for r in runs))
    errors = {s: [error_points(r[s]) for r in runs] for s in sorted(seeds)}
    return {s: v[0] - v[1] - (v[2] - v[3]) for s, v in errors.items()}


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C8a, C8b: few examples against 64; C8c: a batch that changes; C10: batch against others."""
    if profile == "full":
        return [fails_row(evidence["stats-batch-cnn"], "C8b", 2, 0.5)]
    rows = [
        fails_row(evidence["stats-batch-mlp"], "C8a", 4, DELTA),
        fails_row(evidence["stats-batch-cnn"], "C8b", 2, DELTA if profile == "quick" else 0.5),
        switch_row(evidence[SWITCH.name]),
    ]
    for better in ("layer", "group"):
        rows.append(repair_row(evidence[SMALL.name], "C10a", better, DELTA, N, prerequisite="C8a"))
    if SMALL_FASHION.name in evidence:
        e = evidence[SMALL_FASHION.name]
        gap = interaction(e, "batch", "batch/64", "none", "none/64")
        for better in ("layer", "group", "instance"):
            rows.append(repair_row(e, "C10b", better, CONV_DELTA, N_CONV, unmet=gate_of(gap)))
    return rows


def fails_row(e: SetupRuns, row_id: str, few: int, delta: float) -> Contrast:
    return error_row(
        e,
        f"batch/{few}",
        "batch/64",
        id=row_id,
        claim="C8",
        sentence="Batch norm fails at small batches",
        sesoi=delta,
        n=N,
    )


def switch_row(e: SetupRuns) -> Contrast:
    """C8c: what a batch that falls from 64 to 4 halfway costs with batch norm, beyond none's."""
    return Contrast(
        id="C8c",
        claim="C8",
        sentence="Batch norm fails when the batch size changes during training",
        comparison="(test error, batch 64 then 4 - batch 64 throughout) of batch - the same of none",  # noqa: E501
        scope=e.setup.title,
        effects=interaction(e, switched("batch"), "batch", switched("none"), "none"),
        unit=POINTS,
        sesoi=DELTA,
        n=N,
        test=PAIRED_T,
        setup=e.setup.name,
    )


def repair_row(
    e: SetupRuns, row_id: str, better: str, delta: float, n: int, **gates: str
) -> Contrast:
    return error_row(
        e,
        "batch",
        better,
        id=f"{row_id}-{better}",
        claim="C10",
        sentence=f"{better.capitalize()} norm repairs batch norm at small batches",
        sesoi=delta,
        n=n,
        **gates,
    )


def gate_of(gap: Mapping[int, float]) -> str:
    """Return why there is nothing to repair, empty where batch norm loses more than none does."""
    loss = statistics.fmean(gap.values()) if gap else 0.0
    if not gap or loss > CONV_DELTA:
        return ""
    return (
        f"its gate fails: from batches of 64 to 2 batch norm loses {loss:.2f} points more than no "
        f"norm, {CONV_DELTA} are needed"
    )


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
    cost="quick: about 3 minutes on 2 cores; standard: about 8 minutes",
    setups={
        "quick": (MLP, CNN, SMALL, SWITCH),
        "standard": (MNIST, FASHION, SMALL_MNIST, SWITCH_MNIST, SMALL_FASHION),
        "full": (CIFAR,),
    },
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
