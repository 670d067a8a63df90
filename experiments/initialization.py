"""Does batch normalization free a network from its initialisation?

Question: over how many initial scales does a network train, its rate tuned at each, and how bad is
the unlucky end of its initial draws?
Source: arXiv:1502.03167, section 3.3 (invariance to the scale of the weights); arXiv:1901.09321.
Expect: all seven gains from 4^-3 to 4^3 with batch norm, fewer without.
Refuted if: less than one factor of 4 is gained (Wilcoxon, n = 12); the 90th percentile of the final
training loss falls by less than 0.3 decades (paired bootstrap over 30 draws).
Cost: quick about 3 minutes on 2 cores; standard about 4 minutes.
The gain multiplies hidden kernels only. With batch norm, gain and rate can be traded exactly
(lr x gain^2), so one fixed rate would test the rate; it is tuned for every arm and gain. A
diverged run counts with the loss of chance, ln 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import QUANTILE, SIGNED_RANK
from normlab.studies.planning import SetupRuns
from normlab.studies.study import HALF_DECADES, Arm, Figure, Setup, Study, Tuning
from normlab.studies.units import DECADES, Unit

N, DRAWS, DELTA, TAIL_DELTA = 12, 30, 1.0, 0.3
GAINS = tuple(4.0**k for k in range(-3, 4))
LUCK = (1.0, 0.25)
PAIR = ("none", "batch")


def gain_arms(*gains: float) -> tuple[Arm, ...]:
    """Return none and batch at each gain, tuned in pairs."""
    return tuple(
        Arm(
            name_of(norm, gain),
            {"norm.name": norm, "init.gain": gain},
            is_primary=True,
            level=gain,
            line=norm,
            group=f"gain {gain:g}",
        )
        for gain in gains
        for norm in PAIR
    )


def name_of(norm: str, gain: float) -> str:
    return f"{norm}/{gain:g}"


SCALES = Setup(
    name="initial-scale",
    title="ReLU MLP 8x64, 8x8 digits",
    base="digits_mlp",
    settings={"model.widths": (64,), "model.depth": 8, "train.eval_every": 100},
    arms=gain_arms(*GAINS),
    protocol=Tuning(HALF_DECADES, 0.5, "error"),
    seeds=N,
)
DRAWN = replace(
    SCALES,
    name="initial-draws",
    title="ReLU MLP 8x64, 8x8 digits, one data order, 30 initial draws",
    arms=gain_arms(*LUCK),
    seeds=DRAWS,
    seed_setting="init.seed",
)
SCALES_MNIST = replace(
    SCALES,
    title="ReLU MLP 8x64, MNIST",
    settings=SCALES.settings | {"data.name": "mnist"},
)
DRAWN_MNIST = replace(
    DRAWN,
    title="ReLU MLP 8x64, MNIST, one data order, 30 initial draws",
    settings=DRAWN.settings | {"data.name": "mnist"},
)


def trained_gains(e: SetupRuns, norm: str) -> dict[int, int]:
    """Return seed -> at how many gains the norm reaches the target."""
    runs = [e.runs_of(name_of(norm, gain)) for gain in GAINS]
    seeds = set.intersection(*(set(r) for r in runs)) if runs else set()
    return {s: sum(e.reaches(r[s]) for r in runs) for s in sorted(seeds)}


def final_loss(run: Record) -> float:
    """Return log10 of the mean training loss over the last 100 steps, at most that of chance."""
    loss = run.curve[-1]["train_loss"] if run.status == "trained" else math.inf
    return math.log10(min(max(loss, 1e-12), math.log(10)))


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C5a: gains that train, batch - none; C5b: 90th percentile of log10 loss, none - batch."""
    e = evidence[SCALES.name]
    none, batch = trained_gains(e, "none"), trained_gains(e, "batch")
    rows = [
        Contrast(
            id="C5a",
            claim="C5",
            sentence="Batch norm makes training less dependent on the initial weights",
            comparison=f"number of the {len(GAINS)} initial gains at which "
            f"{100 * e.setup.target:g} % is reached, batch - none, rate tuned at each",
            scope=e.setup.title,
            effects={s: float(batch[s] - none[s]) for s in none.keys() & batch.keys()},
            unit=Unit("factors of 4"),
            sesoi=DELTA,
            n=N,
            test=SIGNED_RANK,
            setup=e.setup.name,
        )
    ]
    e = evidence[DRAWN.name]
    for gain in LUCK:
        runs = {norm: e.runs_of(name_of(norm, gain)) for norm in PAIR}
        rows.append(
            Contrast(
                id=f"C5b-{gain:g}",
                claim="C5",
                sentence="Batch norm makes it less likely to get stuck at an unlucky start",
                comparison="90th percentile over initial draws of log10 final training loss, "
                f"none - batch, gain {gain:g}",
                scope=e.setup.title,
                effects={
                    s: (final_loss(runs["none"][s]), final_loss(runs["batch"][s]))
                    for s in sorted(runs["none"].keys() & runs["batch"].keys())
                },
                unit=DECADES,
                sesoi=TAIL_DELTA,
                n=DRAWS,
                test=QUANTILE,
                setup=e.setup.name,
            )
        )
    return rows


STUDY = Study(
    name="initialization",
    title="Initialisation",
    question="Does batch norm free a network from the scale and the luck of its initial weights?",
    fair_test=(
        "A scale of the initial weights changes what a rate means, so every arm has its own best "
        "rate at every scale: what is left is dependence on the initialisation. Luck is tested "
        "apart, with 30 draws of the initial weights on one data order."
    ),
    source="arXiv:1502.03167, section 3.3; arXiv:1901.09321",
    expect="all seven gains with batch norm, fewer without; a shorter unlucky tail",
    refuted_if="less than one factor of 4 is gained; the tail falls by less than 0.3 decades",
    cost="quick: about 3 minutes on 2 cores; standard: about 4 minutes",
    setups={"quick": (SCALES, DRAWN), "standard": (SCALES_MNIST, DRAWN_MNIST)},
    claims=claims,
    figures=(Figure("levels", SCALES.name, "Test error against the gain of the initial kernels."),),
)
