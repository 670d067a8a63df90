"""What one run says: steps to a target, failures, fits; numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from normlab.runs.record import Record
from normlab.settings import defaults
from normlab.studies.effects import at_matched_losses, octaves, speedup_in_seconds
from normlab.studies.metrics import (
    accuracy,
    at_train_loss,
    error_points,
    is_failed,
    restricted_octaves,
    share_learned,
    steps_to_target,
    train_accuracy,
)
from normlab.studies.planning import SetupRuns

INF = math.inf


def record(curve=(), status="trained", **final) -> Record:
    rows = [{"step": step, "accuracy": a, "running_accuracy": a / 2} for step, a in curve]
    return Record("id", defaults(), status, final, rows)


def trained(curve) -> Record:
    return record(curve, validation_accuracy=0.9)


CURVE = ((10, 0.2), (20, 0.4), (40, 0.8), (80, 0.9))


@pytest.mark.parametrize(
    "curve, target, steps",
    [
        (CURVE, 0.6, math.sqrt(20 * 40)),  # half-way in accuracy: half-way in log step
        (CURVE, 0.5, 20 * 2**0.25),  # a quarter of the way from 20 to 40
        (CURVE, 0.8, 40),  # reached exactly at an evaluation
        (CURVE, 0.9, 80),
        (CURVE, 0.91, INF),
        (CURVE, 0.1, 10),  # above the target already at the first evaluation
        (CURVE, 0.2, 10),
        (((10, 0.5), (20, 0.95), (40, 0.3)), 0.95, 20),  # the first time counts
        (((10, 0.5), (20, 0.3), (40, 0.7)), 0.5, 10),
        ((), 0.5, INF),
        (((10, math.nan), (20, math.nan)), 0.5, INF),
    ],
)
def test_steps_to_target(curve, target, steps):
    assert steps_to_target(trained(curve), target) == pytest.approx(steps, rel=1e-12)


@pytest.mark.parametrize("final", [{"status": "diverged"}, {"validation_accuracy": 0.45}])
def test_a_failed_run_never_reaches_its_target(final):
    assert steps_to_target(record(CURVE, **final), 0.2) == INF


@pytest.mark.parametrize("target, steps", [(0.4, 40), (0.6, INF)])
def test_steps_to_target_of_running_averages(target, steps):
    assert steps_to_target(trained(CURVE), target, "running_") == pytest.approx(steps)


@pytest.mark.parametrize(
    "slow, fast, octaves, is_cut_off",
    [
        (0.9, 0.4, 2.0, False),  # 80 steps over 20
        (0.4, 0.9, -2.0, False),
        (0.91, 0.4, math.log2(300 / 20), True),  # a miss counts with all 300 steps
        (0.4, 0.91, math.log2(20 / 300), False),
        (0.91, 0.92, math.nan, True),  # two misses are no tie
    ],
)
def test_restricted_octaves(slow, fast, octaves, is_cut_off):
    """Runs of one curve, lowered so that they reach the target 0.9 when it reaches another."""

    def reaching(target: float) -> Record:
        lowered = [(step, accuracy - target + 0.9) for step, accuracy in CURVE]
        return record(lowered, validation_accuracy=0.9)

    found = restricted_octaves(reaching(slow), reaching(fast), 0.9)
    assert found == (pytest.approx(octaves, nan_ok=True), is_cut_off)


@pytest.mark.parametrize(
    "seeds, missed, both, is_bound",
    [
        (12, 0, 0, False),
        (12, 1, 0, False),
        (10, 1, 0, False),  # a tenth is allowed
        (12, 2, 0, True),
        (12, 1, 3, True),  # 1 of the 9 seeds that say something
        (4, 0, 4, False),
    ],
)
def test_too_many_misses_of_the_slow_arm_make_a_lower_bound(seeds, missed, both, is_bound):
    """The slow arm needs 80 steps and the fast one 20. Each seed is missed by the slow arm, by both
    or by none."""

    def pair(seed: int) -> tuple[Record, Record]:
        slow = trained(CURVE if seed >= missed + both else CURVE[:3])
        return slow, trained(((10, 0.7), (20, 0.9)) if seed >= both else CURVE[:1])

    e: Any = SimpleNamespace(setup=SimpleNamespace(target=0.9))
    e.paired = lambda slow, fast: ((s, pair(s)) for s in range(seeds))
    found = octaves(e, "none", "batch")
    assert found.is_lower_bound == is_bound and list(found.effects) == list(range(seeds))
    counted = [found.effects[s] for s in range(both, seeds)]
    cut = [math.log2(300 / 20)] * missed
    assert counted == pytest.approx(cut + [2.0] * (seeds - both - missed))
    assert all(math.isnan(found.effects[s]) for s in range(both))
    known = seeds - both
    text = f"arm 'none' missed the target in {missed} of {known} seeds" if missed else ""
    assert found.remark == text
    typical = math.exp((missed * math.log(300) + (known - missed) * math.log(80)) / max(1, known))
    over = "over " if is_bound else ""
    assert found.words == (f"20 instead of {over}{typical:.0f} steps to 90 %" if known else "")


def test_seconds_are_those_of_a_single_run():
    """80 steps of 1 s and 20 steps of 0.5 s."""
    runs = trained(CURVE), trained(((10, 0.7), (20, 0.9)))
    e: Any = SimpleNamespace(setup=SimpleNamespace(target=0.9))
    e.paired = lambda slow, fast: ((s, runs) for s in range(3))
    e.step_seconds = {"none": 1.0, "batch": 0.5}
    found: Any = speedup_in_seconds("none", "batch").measure(e)
    assert found.words == "10 instead of 80 s to 90 %, as a single run"
    assert list(found.effects.values()) == pytest.approx([3.0] * 3)


@pytest.mark.parametrize(
    "provenance, name, limit",
    [
        ({}, "digits", 0.1 + 0.4 * 0.9),
        ({}, "cifar100", 0.01 + 0.4 * 0.99),
        ({"chance": 0.6}, "digits", 0.6 + 0.4 * 0.4),
    ],
)
def test_failure_depends_on_chance(provenance, name, limit):
    """The most frequent class of the data, where the result keeps it; else one of its classes."""
    config = defaults() | {"data.name": name}
    one = replace(record(), config=config, provenance=provenance)
    below, above = (
        replace(one, final={"validation_accuracy": limit + by}) for by in (-0.001, 0.001)
    )
    assert is_failed(below) and not is_failed(above)
    diverged = replace(one, status="diverged")
    assert accuracy(diverged, "test") == pytest.approx((limit - 0.4) / 0.6)


@pytest.mark.parametrize(
    "provenance, loss", [({"chance_loss": 3.3}, 2.97), ({}, 0.9 * math.log(65))]
)
def test_failure_on_text_depends_on_the_loss_of_the_shares_of_its_characters(provenance, loss):
    """Accuracies of 30 to 50 %, which are usual there, decide nothing."""
    config = defaults() | {"data.name": "tiny_shakespeare"}
    one = replace(record(), config=config, provenance=provenance)
    for by, failed in ((-0.001, False), (0.001, True)):
        final = {"validation_loss": loss + by, "validation_accuracy": 0.3}
        assert is_failed(replace(one, final=final)) is failed
    assert is_failed(replace(one, final={"validation_accuracy": 0.9}))
    assert is_failed(replace(one, status="diverged", final={"validation_loss": 1.0}))
    on_digits = replace(one, config=defaults(), final={"validation_loss": 0.1})
    assert is_failed(on_digits)  # there the loss decides nothing


@pytest.mark.parametrize(
    "status, final, failed",
    [
        ("trained", {"validation_accuracy": 0.4601}, False),
        ("trained", {"validation_accuracy": 0.4599}, True),
        ("trained", {}, True),
        ("diverged", {}, True),
        ("diverged", {"validation_accuracy": 0.99}, True),
    ],
)
def test_is_failed(status, final, failed):
    assert is_failed(record(status=status, **final)) is failed


def test_errors_of_a_diverged_run_are_those_of_chance():
    good = record(validation_accuracy=0.9, test_accuracy=0.97, running_test_accuracy=0.5)
    assert accuracy(good, "test") == 0.97 and accuracy(good, "validation") == 0.9
    assert error_points(good) == pytest.approx(3) and error_points(good, mode="running_") == 50
    diverged = record(status="diverged")
    assert error_points(diverged) == pytest.approx(90)
    assert accuracy(diverged, "validation") == pytest.approx(0.1)
    failed = record(validation_accuracy=0.4, test_accuracy=0.3)  # its own error, none imputed
    assert is_failed(failed) and error_points(failed) == pytest.approx(70)


def run(rows: list[dict[str, float]], status: str = "trained", **settings: Any) -> Record:
    config = defaults() | {k.replace("__", "."): v for k, v in settings.items()}
    final = {"validation_accuracy": 0.9, "train_set_accuracy": 0.8}
    return Record("id", config, status, final, rows)


def falling(*pairs: tuple[float, float]) -> Record:
    return run([{"train_loss": loss, "p": p} for loss, p in pairs])


@pytest.mark.parametrize(
    "loss, value",
    [
        (1.0, 5.0),  # half-way between 2 and 1/2 in the logarithm
        (0.5, 6.0),
        (3.0, 4.0),  # below it already at the first evaluation
        (0.1, math.nan),
    ],
)
def test_values_at_a_training_loss(loss, value):
    one = falling((2.0, 4.0), (0.5, 6.0), (0.7, 9.0))
    assert at_train_loss(one, "p", loss) == pytest.approx(value, nan_ok=True)


def test_matched_losses_are_those_that_both_reach():
    runs = {
        "a": {0: falling((1.0, 1.0), (0.5, 2.0)), 1: falling((2.0, 1.0)), 2: falling((0.4, 7.0))},
        "b": {0: falling((1.0, 4.0)), 1: falling((0.1, 5.0))},
    }
    e: Any = SimpleNamespace(runs_of=lambda arm: runs[arm])
    e.paired = lambda *names: SetupRuns.paired(e, *names)
    found = at_matched_losses(e, "a", "b", "p", lambda v: 10 * v)
    assert found[0] == pytest.approx(10.0 - 40.0)  # at 1.0 alone
    assert found.keys() == {0, 1} and math.isnan(found[1])  # seed 1 of a reaches none


def test_share_of_replaced_labels_where_the_others_are_learned():
    rows = [(0.5, 0.1), (0.9, 0.2), (1.0, 0.6), (1.0, 0.9)]
    one = run([{"train_set_accuracy": a, "replaced_accuracy": b} for a, b in rows])
    assert share_learned(one, 0.95) == pytest.approx(0.4)
    assert share_learned(one, 0.5) == 0.1
    assert math.isnan(share_learned(one, 1.01))
    assert math.isnan(share_learned(replace(one, status="diverged"), 0.95))
    assert train_accuracy(one) == 0.8 and train_accuracy(replace(one, status="diverged")) == 0


@pytest.mark.parametrize("last, failed", [(0.01, False), (0.0100000001, False), (0.02, True)])
def test_a_run_that_misses_its_fit_has_failed(last, failed):
    rows = [{"step": 10, "train_set_loss": 1.0}, {"step": 300, "train_set_loss": last}]
    one = run(rows, train__stop_at_loss=0.01)
    assert is_failed(one) == failed
    assert not is_failed(replace(one, config=defaults()))
    assert is_failed(replace(one, curve=[]))


def test_a_fit_with_replaced_labels_is_that_of_all_examples():
    """The program stops on the loss of all labels, kept and replaced. A run that it stopped before
    its last step has reached the fit."""
    last = {"step": 300, "train_set_loss": 0.001, "replaced_loss": 0.1}
    one = run([last], train__stop_at_loss=0.01, data__label_noise=0.3)
    assert is_failed(one)
    assert not is_failed(replace(one, curve=[last | {"replaced_loss": 0.02}]))
    assert not is_failed(replace(one, curve=[last | {"step": 200}]))


def test_a_run_that_ended_at_its_target_has_no_test_error():
    """train.stop_at ends a run after an evaluation on the validation images alone."""
    stopped = record(validation_accuracy=0.95)
    assert math.isnan(error_points(stopped)) and accuracy(stopped, "validation") == 0.95
