"""Does batch norm reduce internal covariate shift, and is that why it trains faster?

Fair test: Shift is measured in two ways, as distributions that move and as gradients that turn when
the earlier layers move. Each is measured between the same training losses. Otherwise the faster arm
would be measured later in its training. The causal test adds shift on purpose: noise after batch
norm whose distribution is new at every step.
Source: arXiv:1502.03167, sections 1 and 4.1 (it does); arXiv:1805.11604 (it does not: gradients
turn as much or more, and batch norm with injected shift trains as well)
Expect: more stable distributions, nearly by construction, because two moments of every unit are
pinned. No less turning of gradients. Injected shift costs less than half of the gain
Refuted if: the path is less than 0.5 octaves shorter (99 % interval, n = 12); 1 - cosine is less
than 0.05 smaller (n = 24 to 48). For the noise: it costs less than half of the gain (n = 12)
Cost: quick: about 2 minutes on 2 cores; standard: about 8 minutes

The third contrast has a prerequisite: the noise moves distributions at least as far as no norm
does. A path that does not reach training loss 0.2 extends to the end of the run.
"""

import math
import statistics
from dataclasses import replace

from normlab.runs.record import Record
from normlab.settings import Config
from normlab.studies.effects import Claim, Measured, at_matched_losses, effect, looks, octaves
from normlab.studies.intervals import PAIRED_T
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import OFTEN, PAIR, Arm, FollowUp, Setup, ladder, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import OCTAVES, PLAIN

FOLLOWED = {"train.eval_every": 10, "train.eval_growth": 1.0, "eval.probes": "drift+activations"}
NOISY = Arm("noisy batch", {"norm.name": "batch", "norm.noise": 1.0}, is_primary=True)


def followed(settings: Config) -> tuple[FollowUp, ...]:
    """Return runs of each arm at its own rate, in which distributions are followed."""
    arms = (*PAIR, NOISY.name)
    return tuple(FollowUp(f"{arm}, followed", arm, arm, settings=settings) for arm in arms)


MLP = Setup(
    name="covariate-shift-mlp",
    title="sigmoid MLP 3x100, 8x8 digits",
    base="digits_mlp",
    settings={"model.act": "sigmoid", "train.steps": 1500, **OFTEN},
    arms=(*norm_arms(*PAIR, primary=PAIR), NOISY),
    protocol=Tuning(metric="steps"),
    target=0.90,
    follows=followed(FOLLOWED),
    report_settings={"eval.probes": "shift"},
)
CNN = Setup(
    name="covariate-shift-cnn",
    title="ReLU CNN 16-32-64, 8x8 digits",
    base="digits_cnn",
    settings={"train.steps": 300, **OFTEN},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning(metric="steps"),
    target=0.95,
    report_settings={"eval.probes": "shift"},
)
MNIST = MLP.on(
    "mnist_mlp",
    "sigmoid MLP 784-100-100-100-10, MNIST, batch 60",
    settings=OFTEN | {"train.steps": 4000},
    target=0.90,
    stop_at=0.95,  # as in the study of convergence, whose tuning runs these are
    follows=followed(FOLLOWED | {"train.steps": 3000, "eval.curve_examples": 100}),
)
FASHION = CNN.on(
    "fashion_cnn",
    "ReLU CNN 16-32-64, stride 2, Fashion-MNIST",
    settings={"train.steps": 2000, "model.stride": 2, **OFTEN},
    target=0.85,
    report_settings={"eval.probes": "shift", "train.steps": 1000},
)


def path(run: Record) -> float:
    """Return how far the inputs of the last activation moved, in standard deviations, while the
    training loss fell from 2.0 to 0.2."""
    moved, before = 0.0, math.inf
    for row in run.curve:
        if before <= 2.0 and math.isfinite(row["drift.step"]):
            moved += row["drift.step"]
        before = row["train_loss"]
        if before <= 0.2:
            break
    return moved


def paths(e: SetupRuns, arm: str) -> dict[int, float]:
    return {seed: path(run) for seed, run in e.runs_of(f"{arm}, followed").items()}


@effect(
    PAIRED_T,
    OCTAVES,
    "log2 of the path of the last sigmoid's inputs, none / batch, from training loss 2.0 to 0.2",
    "path of the last layer's inputs during training, without / with batch norm",
)
def shorter_path(e: SetupRuns) -> Measured:
    none, batch = paths(e, "none"), paths(e, "batch")
    pairs = {s: (none[s], batch[s]) for s in sorted(none.keys() & batch.keys())}
    return Measured(
        {s: math.log2(a / b) if min(a, b) > 0 else math.nan for s, (a, b) in pairs.items()},
        "nearly true by construction: two moments of every unit are pinned",
    )


@effect(
    PAIRED_T,
    PLAIN,
    "1 - cos(gradient before, after the earlier layers' update), none - batch, at those of the "
    "training losses 1.0, 0.5, 0.2 that both reach",
    "turning of the gradients when earlier layers move, without - with batch norm",
)
def less_turning(e: SetupRuns) -> dict[int, float]:
    return at_matched_losses(e, *PAIR, "shift.cosine", lambda v: 1 - v)


@effect(
    PAIRED_T,
    OCTAVES,
    "log2(T noisy / T batch) to {target} - half of log2(T none / T batch): more than half lost?",
    "steps that the noise costs, in excess of half of what batch norm gains",
)
def cost_of_noise(e: SetupRuns) -> Measured:
    gain, cost = octaves(e, "none", "batch"), octaves(e, NOISY.name, "batch")
    seeds = sorted(gain.effects.keys() & cost.effects.keys())
    return replace(
        cost,
        words="",
        effects={s: cost.effects[s] - gain.effects[s] / 2 for s in seeds},
        unmet=unmet(e) or ("no norm misses the target" if gain.is_lower_bound else ""),
    )


def unmet(e: SetupRuns) -> str:
    """Return why the noise decides nothing here: it does not bring back the drift. Empty: it
    does."""
    noisy, none = (paths(e, arm).values() for arm in (NOISY.name, "none"))
    if not noisy or not none:
        return "how far distributions move was not measured"
    if statistics.median(noisy) >= statistics.median(none):
        return ""
    return (
        f"with the noise distributions move {statistics.median(noisy):.2f} standard deviations, "
        f"without norm {statistics.median(none):.2f}"
    )


STABLE = "Batch norm keeps the distributions of activations stable"
WHY = "Less shift is why batch norm trains faster"
PERCENTILES = "15th, 50th and 85th percentile of the input of one sigmoid of the last hidden layer."
MOVED = "How far the inputs of the last sigmoids moved in 10 steps."
COSINE = "Cosine of a layer's gradient before and after the earlier layers' update."
REDUCES = "Batch norm reduces internal covariate shift"
STUDY = study(
    __doc__,
    "covariate_shift",
    "Internal covariate shift",
    setups={"quick": (MLP, CNN), "standard": (*ladder(MNIST, 0.85), FASHION)},
    claims=(
        Claim("C7a", STABLE, MLP.name, shorter_path, 0.5, looks=(12,)),
        Claim("C7b-mlp", REDUCES, MLP.name, less_turning, 0.05, looks(24, 48)),
        Claim("C7b-cnn", REDUCES, CNN.name, less_turning, 0.05, looks(24, 48)),
        Claim("C7c", WHY, MLP.name, cost_of_noise, 0.0, looks=(12,)),
        Claim("C7c-85", WHY, f"{MLP.name}-85", cost_of_noise, 0.0, looks=(12,)),
    ),
    figures=(
        Figure("percentiles", MLP.name, PERCENTILES, follows=True),
        Figure("probe", MLP.name, MOVED, key="drift.step", follows=True),
        Figure("probe", CNN.name, COSINE, key="shift.cosine"),
    ),
)
