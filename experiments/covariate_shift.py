"""Does batch normalization reduce internal covariate shift, and is that why it trains faster?

Question: how far do distributions move, how far do earlier layers turn a layer's gradient, and
what does shift cost that is put in on purpose?
Source: arXiv:1502.03167, sections 1 and 4.1 (it does); arXiv:1805.11604 (it does not: gradients
turn as much or more, and batch norm with injected shift trains as well).
Expect: more stable distributions (nearly by construction: two moments of every unit are pinned); no
less turning of gradients; injected shift costs less than half of the gain.
Refuted if: path less than 0.5 octaves shorter; 1 - cosine less than 0.05 smaller (paired t,
n = 12); injected shift costs less than half of the gain (signed-rank, n = 12).
Cost: quick about 2 minutes on 2 cores; standard about 8 minutes.
Times to a target can be infinite, so the third contrast is decided by the signed-rank test, not t.
Its gates: batch norm is faster here at all (the runs of `convergence`), and the noise really moves
distributions at least as far as no norm does. A path that does not reach training loss 0.2 goes to
the end of the run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

from normlab.runs.record import Record
from normlab.studies.decisions import LEVEL, Contrast
from normlab.studies.effects import at_matched_losses, octaves
from normlab.studies.hypothesis_tests import PAIRED_T, SIGNED_RANK
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
from normlab.studies.units import OCTAVES, PLAIN

N, PATH_DELTA, TURN_DELTA, SPEED_DELTA = 12, 0.5, 0.05, 0.32
LOSSES = (1.0, 0.5, 0.2)
PATH = (2.0, 0.2)
"""Training losses between which distributions are followed."""
TIMED = {"train.eval_every": 1, "train.eval_growth": 1.1}
FOLLOWED = {
    "train.eval_every": 10,
    "train.eval_growth": 1.0,
    "eval.probes": "drift+activations",
}
PAIR = ("none", "batch")
NOISY = Arm("noisy batch", {"norm.name": "batch", "norm.noise": 1.0}, is_primary=True)
ARMS = (*PAIR, NOISY.name)


def drift_of(arm: str) -> str:
    return f"{arm}, followed"


def follows(settings: dict) -> tuple[FollowUp, ...]:
    return tuple(FollowUp(drift_of(a), arm=a, rate_of=a, settings=settings) for a in ARMS)


MLP = Setup(
    name="covariate-shift-mlp",
    title="sigmoid MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"model.act": "sigmoid", "train.steps": 1500, **TIMED},
    arms=(*norm_arms(*PAIR, primary=PAIR), NOISY),
    protocol=Tuning(HALF_DECADES, 0.5, "steps"),
    seeds=N,
    target=0.90,
    follows=follows(FOLLOWED),
    report_settings={"eval.probes": "shift"},
)
CNN = Setup(
    name="covariate-shift-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, **TIMED},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning(HALF_DECADES, 0.5, "steps"),
    seeds=N,
    target=0.95,
    report_settings={"eval.probes": "shift"},
)
MNIST = replace(
    MLP,
    title="sigmoid MLP 784-100-100-100-10, MNIST, batch 60",
    base="mnist_mlp",
    settings=TIMED,
    target=0.95,
    follows=follows(FOLLOWED | {"train.steps": 3000, "eval.curve_examples": 100}),
)
FASHION = replace(
    CNN,
    title="ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    base="fashion_cnn",
    settings={"train.steps": 1000, "model.stride": 2, **TIMED},
    target=0.85,
)


def path(run: Record) -> float:
    """Return how far the inputs of the last activation moved, in standard deviations, while the
    training loss fell from 2.0 to 0.2."""
    high, low = PATH
    moved, before = 0.0, math.inf
    for row in run.curve:
        if before <= high and math.isfinite(row["drift.step"]):
            moved += row["drift.step"]
        before = row["train_loss"]
        if before <= low:
            break
    return moved


def claims(evidence: Mapping[str, SetupRuns], profile: str) -> list[Contrast]:
    """C7a: paths; C7b: turning of gradients; C7c: what injected shift costs."""
    e = evidence[MLP.name]
    paths = {a: {s: path(r) for s, r in e.follows.get(drift_of(a), {}).items()} for a in ARMS}
    none, batch = paths["none"], paths["batch"]
    rows = [
        Contrast(
            id="C7a",
            claim="C7",
            sentence="Batch norm keeps the distributions of activations stable",
            comparison="log2 of the path of the last sigmoid's inputs, none / batch, from training "
            "loss 2.0 to 0.2",
            scope=e.setup.title,
            effects={
                s: math.log2(none[s] / batch[s])
                for s in sorted(none.keys() & batch.keys())
                if min(none[s], batch[s]) > 0
            },
            unit=OCTAVES,
            sesoi=PATH_DELTA,
            n=N,
            test=PAIRED_T,
            setup=e.setup.name,
            remark="nearly true by construction: two moments of every unit are pinned",
        )
    ]
    rows += [
        turning_row(f"C7b-{net}", evidence[s]) for net, s in (("mlp", MLP.name), ("cnn", CNN.name))
    ]
    return [*rows, noise_row(e, paths)]


def turning_row(row_id: str, e: SetupRuns) -> Contrast:
    return Contrast(
        id=row_id,
        claim="C7",
        sentence="Batch norm reduces internal covariate shift",
        comparison="1 - cos(gradient before, after the earlier layers' update), none - batch, at "
        "those of the training losses 1.0, 0.5, 0.2 that both reach",
        scope=e.setup.title,
        effects=at_matched_losses(e, *PAIR, "shift.cosine", LOSSES, lambda v: 1 - v),
        unit=PLAIN,
        sesoi=TURN_DELTA,
        n=N,
        test=PAIRED_T,
        setup=e.setup.name,
    )


def noise_row(e: SetupRuns, paths: Mapping[str, Mapping[int, float]]) -> Contrast:
    """C7c: log2(T_noisy / T_batch) - log2(T_none / T_batch) / 2, with its gates."""
    gain, cost = octaves(e, "none", "batch"), octaves(e, NOISY.name, "batch")
    return Contrast(
        id="C7c",
        claim="C7",
        sentence="Less shift is why batch norm trains faster",
        comparison="log2(T noisy / T batch) - half of log2(T none / T batch): more than half lost?",
        scope=e.setup.title,
        effects={s: difference(cost[s], gain[s] / 2) for s in cost.keys() & gain.keys()},
        unit=OCTAVES,
        sesoi=0.0,
        n=N,
        test=SIGNED_RANK,
        setup=e.setup.name,
        unmet=gate(gain, paths),
    )


def difference(a: float, b: float) -> float:
    return 0.0 if a == b else a - b


def gate(gain: Mapping[int, float], paths: Mapping[str, Mapping[int, float]]) -> str:
    """Return why the noise decides nothing here, empty where it does."""
    if len(gain) < 2 or not all(paths.values()):
        return ""
    if SIGNED_RANK.p_values(list(gain.values()), SPEED_DELTA)[0] >= LEVEL:
        return "its gate fails: batch norm is not faster here"
    noisy, none = (statistics.median(paths[a].values()) for a in (NOISY.name, "none"))
    if noisy < none:
        return (
            f"its gate fails: with the noise distributions move {noisy:.2f} standard deviations, "
            f"without norm {none:.2f}"
        )
    return ""


STUDY = Study(
    name="covariate_shift",
    title="Internal covariate shift",
    question="Does batch norm reduce internal covariate shift, and is that why it trains faster?",
    fair_test=(
        "Shift is looked at in two ways, as distributions that move and as gradients that turn "
        "when the earlier layers move, each between the same training losses, since the faster "
        "arm would else be looked at later in its training. The causal test puts shift in on "
        "purpose: noise after batch norm whose distribution is new at every step."
    ),
    source="arXiv:1502.03167, sections 1 and 4.1; arXiv:1805.11604",
    expect="stabler distributions, no less turning; injected shift costs less than half the gain",
    refuted_if="path less than 0.5 octaves shorter; turning less than 0.05 smaller; less than "
    "half of the gain is lost",
    cost="quick: about 2 minutes on 2 cores; standard: about 8 minutes",
    setups={"quick": (MLP, CNN), "standard": (MNIST, FASHION)},
    claims=claims,
    figures=(
        Figure(
            "percentiles",
            MLP.name,
            "15th, 50th and 85th percentile of the input of one sigmoid of the last hidden layer.",
            follows=True,
        ),
        Figure(
            "probe",
            MLP.name,
            "How far the inputs of the last sigmoids moved in 10 steps.",
            key="drift.step",
            follows=True,
        ),
        Figure(
            "probe",
            CNN.name,
            "Cosine of a layer's gradient before and after the earlier layers' update.",
            key="shift.cosine",
        ),
    ),
)
