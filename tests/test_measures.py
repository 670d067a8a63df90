"""What one run says: steps to a target, largest rates, failures, fits; numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from normlab.runs.record import Record
from normlab.settings import defaults
from normlab.studies.effects import at_matched_losses
from normlab.studies.metrics import (
    accuracy,
    at_train_loss,
    error_points,
    is_failed,
    largest_rate,
    log_octaves,
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


@pytest.mark.parametrize("final", [{"status": "diverged"}, {"validation_accuracy": 0.49}])
def test_a_failed_run_never_reaches_its_target(final):
    assert steps_to_target(record(CURVE, **final), 0.2) == INF


@pytest.mark.parametrize("target, steps", [(0.4, 40), (0.6, INF)])
def test_steps_to_target_of_running_averages(target, steps):
    assert steps_to_target(trained(CURVE), target, "running_") == pytest.approx(steps)


@pytest.mark.parametrize(
    "slow, fast, octaves",
    [(80, 20, 2), (20, 80, -2), (5, 5, 0), (INF, 3, INF), (3, INF, -INF), (INF, INF, 0)],
)
def test_log_octaves(slow, fast, octaves):
    assert log_octaves(slow, fast) == octaves


@pytest.mark.parametrize(
    "passed, top",
    [
        ("1110", 2),
        ("0110", 2),
        ("1111", 3),
        ("0000", -INF),
        ("11011", 1),  # of two runs of equal length the lower one
        ("10111", 4),  # one bad rate does not hide a longer run above it
        ("1101", 1),
        ("", -INF),
    ],
)
def test_largest_rate(passed, top):
    rates = {float(i): letter == "1" for i, letter in enumerate(passed)}
    assert largest_rate(rates) == top
    assert largest_rate(dict(reversed(rates.items()))) == top


@pytest.mark.parametrize(
    "status, final, failed",
    [
        ("trained", {"validation_accuracy": 0.5}, False),
        ("trained", {"validation_accuracy": 0.4999}, True),
        ("trained", {}, True),
        ("diverged", {}, True),
        ("diverged", {"validation_accuracy": 0.99}, True),
    ],
)
def test_is_failed(status, final, failed):
    assert is_failed(record(status=status, **final)) is failed


def test_errors_of_a_failed_run_are_those_of_chance():
    good = record(validation_accuracy=0.9, test_accuracy=0.97, running_test_accuracy=0.5)
    assert accuracy(good, "test") == 0.97 and accuracy(good, "validation") == 0.9
    assert error_points(good) == pytest.approx(3) and error_points(good, mode="running_") == 50
    for bad in (record(status="diverged"), record(validation_accuracy=0.4, test_accuracy=0.97)):
        assert error_points(bad) == pytest.approx(90)
        assert accuracy(bad, "validation") == pytest.approx(0.1)


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
    assert found == {0: pytest.approx(10.0 - 40.0)}  # at 1.0 alone; seed 1 of a reaches none


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
    one = run([{"train_set_loss": 1.0}, {"train_set_loss": last}], train__stop_at_loss=0.01)
    assert is_failed(one) == failed
    assert not is_failed(replace(one, config=defaults()))
    assert is_failed(replace(one, curve=[]))
