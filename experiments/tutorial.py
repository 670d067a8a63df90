"""Does the network of the tutorials train as in Keras, and does batch normalization help it?

Question: 784 - dense 64 - batch norm - ReLU - dense 10, Adam at 1e-3, 10 epochs of batches of 32:
the same losses as Keras, and a better test accuracy than without the norm?
Source: the articles; Keras 3's defaults.
Expect: losses equal to 1e-4 over 100 steps; 0.2 points of accuracy.
Refuted if: a loss differs by more (3 initial draws); the effect is below 0.2 points (paired t,
n = 10).
Cost: quick seconds on the digits; standard about 3 minutes on 2 cores.
The rate is the article's and not tuned. The comparison with Keras is a benchmark of its own
(`python scripts/bench.py --suite=tutorial`, needs Keras); its record is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from normlab.studies.decisions import Contrast
from normlab.studies.effects import error_row
from normlab.studies.hypothesis_tests import MAX_ERROR
from normlab.studies.planning import StudyRuns
from normlab.studies.study import Figure, Setup, Study, Tuning, norm_arms
from normlab.studies.units import NATS

N, DELTA, DRAWS, PARITY = 10, 0.2, 3, 1e-4
PAIR = ("none", "batch")
TIMED = {"train.eval_every": 1, "train.eval_growth": 1.1}

DIGITS = Setup(
    name="tutorial-mlp",
    title="MLP 64-64-10, 8x8 digits, 10 epochs of Adam, batch 32",
    base="tutorial",
    settings={"data.name": "digits", "train.steps": 10 * (897 // 32), **TIMED},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning((-3.0,), 0.5, "steps", extensions=0),
    seeds=N,
    target=0.95,
)
MNIST = replace(DIGITS, title="MLP 784-64-10, MNIST, 10 epochs of Adam, batch 32", settings=TIMED)


def claims(evidence: StudyRuns, profile: str) -> list[Contrast]:
    """C14a: largest difference from Keras's losses; C14b: test error, none - batch."""
    found, remark = parity_of(evidence.measured.get("tutorial", {}))
    parity = Contrast(
        id="C14a",
        claim="C14",
        sentence="The tutorial's network trains as it does in Keras",
        comparison="largest difference of the training loss over 100 steps, same initial weights "
        "and batches",
        scope="MLP 784-64-10, MNIST, batch 32",
        effects=found,
        unit=NATS,
        sesoi=PARITY,
        n=DRAWS,
        test=MAX_ERROR,
        setup=DIGITS.name,
        remark=remark,
    )
    helps = error_row(
        evidence[DIGITS.name],
        "none",
        "batch",
        id="C14b",
        claim="C14",
        sentence="Batch norm improves the tutorial's network",
        comparison="test error without - with batch norm, Adam at 1e-3, 10 epochs",
        sesoi=DELTA,
        n=N,
    )
    return [parity, helps]


def parity_of(record: Mapping[str, Any]) -> tuple[dict[int, float], str]:
    """Return seed -> largest difference of either network's losses, and what Keras's own runs say
    of it: the same batches with their examples in reverse order differ in rounding alone."""
    judged = [run for run in record.get("runs", []) if run["is_judged"]]
    found: dict[int, float] = {}
    for run in judged:
        told = run["largest_difference"]["normlab_keras"]
        found[run["seed"]] = max(told, found.get(run["seed"], 0.0))
    if not judged:
        return {}, ""
    own = max(run["largest_difference"]["keras_keras_reversed"] for run in judged)
    return found, (
        f"Keras itself, its batches' examples in reverse order, departs from Keras by up to "
        f"{own:.1e}: a ReLU's input of 4e-8 that rounds to either side of 0; "
        f"{record['further_runs']}"
    )


STUDY = Study(
    name="tutorial",
    title="The tutorial's network",
    question="Does the network of the tutorials train as in Keras, and does batch norm help it?",
    fair_test=(
        "As the article has it: one hidden layer, Adam at its default rate, 10 epochs, nothing "
        "tuned. What the norm does for it at tuned rates is the question of the other studies."
    ),
    source="tutorials; Keras 3",
    expect="equal losses; a slightly better accuracy",
    refuted_if="a loss differs by more than 1e-4; the effect is below 0.2 points",
    cost="quick: seconds on 2 cores; standard: about 3 minutes",
    setups={"quick": (DIGITS,), "standard": (MNIST,)},
    claims=claims,
    measured=("tutorial",),
    figures=(Figure("curves", DIGITS.name, "Validation accuracy with and without the norm."),),
)
