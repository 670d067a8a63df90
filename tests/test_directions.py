"""Every claim of the studies favours the arm that its sentence favours: runs by hand, in which one
arm is worse in all respects, and the effect that follows from them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from normlab.runs.record import Record
from normlab.settings import defaults
from normlab.studies.effects import Claim, Measured
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.study import load_study, study_names

LOSSES = (4.0, 2.0, 1.0, 0.5, 0.2, 0.1)
STEPS = (10, 30, 60, 90, 100, 150)
CHANCE = math.log10(math.log(10))


def run(is_good: bool, **changes: Any) -> Record:
    """A good run is 4 times as fast as a bad one, has 5 points less test error, fits its training
    set and learns a fifth of the replaced labels; a bad one fits nothing and learns four fifths."""
    rows = [
        {
            "step": step * (1 if is_good else 4),
            "accuracy": (0.1, 0.2, 0.3, 0.4, 0.9, 0.95)[i],
            "train_loss": loss,
            "train_set_accuracy": (0.1, 0.2, 0.3, 0.4, 0.9, 1.0)[i],
            "replaced_accuracy": 0.2 if is_good else 0.8,
            "gradients.slope": 0.1 if is_good else -0.3,
            "drift.step": (1 if i in (2, 3, 4) else 100) * (1 if is_good else 4),
            "shift.cosine": 0.9 if is_good else 0.6,
            "landscape.relative": 0.1 if is_good else 1.0,
            "landscape.relative_frozen": 1.0,
        }
        for i, (step, loss) in enumerate(zip(STEPS, LOSSES, strict=True))
    ]
    rows.append(rows[-1] | {"train_loss": 0.01 if is_good else 9.0})
    final = {"validation_accuracy": 0.95 if is_good else 0.85}
    final |= {"test_accuracy": 0.95 if is_good else 0.90, "train_set_accuracy": float(is_good)}
    return replace(
        Record("id", defaults() | {"train.steps": 300}, "trained", final, rows), **changes
    )


# claim -> the name of its worse runs, all others being good; the effect; and the effect if those
# runs are good and all others bad. The unit is that of the claim.
DIRECTIONS: dict[str, tuple[str, Any, Any]] = {
    "C1a": ("none", 2.0, -2.0),
    "C1b": ("none", 2.0, -2.0),
    "C1t-mlp": ("none", 2.0 - 0.5, -2.0 - 0.5),
    "C1t-cnn": ("none", 2.0 - 0.5, -2.0 - 0.5),
    "C2-mlp": ("none", 1.0, -1.0),
    "C2-cnn": ("none", 1.0, -1.0),
    "C3a": ("none", 0.2, -0.2),
    "C3b": ("none", 0.2, -0.2),
    "C3c": ("none", 1.0, -1.0),
    "C4a": ("none", 5.0, -5.0),
    "C4b": ("batch/128", 5.0, -5.0),
    "C4c": ("none", 60.0, -60.0),
    "C5a": ("none/", 7.0, -7.0),
    "C5b-1": ("none/", (CHANCE, -2.0), (-2.0, CHANCE)),
    "C5b-0.25": ("none/", (CHANCE, -2.0), (-2.0, CHANCE)),
    "C6a": ("none/", 4.0, -4.0),  # 32 layers against 2, one octave below the smallest
    "C6b": ("none/", 3.0, -3.0),
    "C7a": ("none", 2.0, -2.0),
    "C7b-mlp": ("none", 0.3, -0.3),
    "C7b-cnn": ("none", 0.3, -0.3),
    "C7c": ("noisy batch", 2.0, -2.0),
    "C8a": ("batch/4", 5.0, -5.0),
    "C8b": ("batch/2", 5.0, -5.0),
    "C8c": ("batch, batch 4 from step 150 on", 5.0, -5.0),
    "C10a-layer": ("batch", 5.0, -5.0),
    "C10a-group": ("batch", 5.0, -5.0),
    "C10b-layer": ("batch", 5.0, -5.0),
    "C10b-group": ("batch", 5.0, -5.0),
    "C10b-instance": ("batch", 5.0, -5.0),
    "C11": ("none", 5.0, -5.0),
    "C13": ("batch/post", 5.0, -5.0),
    "C14b": ("none", 5.0, -5.0),
}
CLAIMS: dict[str, tuple[Claim, Any]] = {}
for study in map(load_study, study_names()):
    for setup in (*study.setups["standard"], *study.setups["quick"]):
        CLAIMS |= {c.id: (c, setup) for c in study.claims if c.setup == setup.name}
NO_ARMS = {name for name in CLAIMS if name.startswith(("C12", "C14a", "C2r"))}
CACHE = ConfigCache(needs_data=False)


def measured(name: str, is_good, **changes: Any) -> Measured:
    """Measure a claim on two seeds whose runs are good where `is_good(name of the arm)` holds."""
    claim, setup = CLAIMS[name]
    e = SetupRuns(setup, {}, CACHE)
    e.runs_of = lambda name: {seed: run(is_good(name), **changes) for seed in (0, 1)}
    e.largest_rates = lambda arm: {seed: float(is_good(arm)) for seed in (0, 1)}
    e.step_seconds = {"none": 1.0, "batch": math.sqrt(2)}
    found = claim.effect.measure(e)
    return found if isinstance(found, Measured) else Measured(found)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_claim_favours_what_its_sentence_favours(name):
    worse, effect, reverse = DIRECTIONS[name]

    def is_worse(arm: str) -> bool:
        return arm.removesuffix(", followed") == worse or worse == arm[: arm.find("/") + 1]

    for is_good, expected in ((lambda arm: not is_worse(arm), effect), (is_worse, reverse)):
        effects = measured(name, is_good).effects
        assert effects.keys() == {0, 1}
        for value in effects.values():
            assert value == pytest.approx(expected), name


def test_every_claim_has_a_direction():
    assert DIRECTIONS.keys() | NO_ARMS == CLAIMS.keys()


def test_a_failed_run_at_ten_times_the_rate_is_counted():
    for name in ("C2r-mlp", "C2r-cnn"):
        assert set(measured(name, lambda arm: True).effects.values()) == {0.0}
        assert set(measured(name, lambda arm: True, status="diverged").effects.values()) == {1.0}


def test_what_both_arms_miss_is_a_tie():
    e = SetupRuns(CLAIMS["C2-mlp"][1], {}, CACHE)
    e.largest_rates = lambda arm: {0: -math.inf, 1: -math.inf if arm == "none" else 0.0}
    assert CLAIMS["C2-mlp"][0].effect.measure(e) == {0: 0.0, 1: math.inf}


def test_noise_is_tested_against_half_of_the_gain():
    """No norm is 2 octaves slower here, the noise costs nothing: 0 - 2 / 2."""
    found = measured("C7c", lambda arm: not arm.startswith("none"))
    assert list(found.effects.values()) == pytest.approx([-1.0, -1.0])


def test_prerequisites_of_the_studies_own():
    """Batch norm has to lose more than none does; the noise has to move distributions farther."""
    for lost, is_met in (("batch", True), ("batch none", False), ("none", False)):
        found = measured("C10b-layer", lambda arm, lost=lost: arm not in lost.split())
        assert (found.unmet == "") == is_met, lost
    assert (
        measured("C7c", lambda arm: True).unmet == "its gate fails: batch norm is not faster here"
    )


def test_a_run_that_never_learns_the_true_labels_has_learned_all_false_ones():
    rows = [row | {"train_set_accuracy": 0.9} for row in run(True).curve]
    found = measured("C4c", lambda arm: True, curve=rows)
    assert "4 runs never learned" in found.remark and set(found.effects.values()) == {0.0}
