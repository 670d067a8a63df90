"""What the claims about fits and matched losses read from curves, and the tests that go with them;
numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normlab.report.model import explained
from normlab.runs.record import Record
from normlab.settings import defaults
from normlab.studies.decisions import Contrast, decide
from normlab.studies.effects import at_matched_losses
from normlab.studies.hypothesis_tests import (
    MAX_ERROR,
    PAIRED_T,
    PROPORTION,
    QUANTILE,
    THRESHOLDS,
)
from normlab.studies.metrics import at_train_loss, is_failed, share_learned, train_accuracy
from normlab.studies.planning import SetupRuns
from normlab.studies.units import DECADES

ROW = Contrast("A", "C", "s", "c", "net", {}, DECADES, 0.3, 30, QUANTILE)


def record(rows: list[dict[str, float]], status: str = "trained", **settings: Any) -> Record:
    config = defaults() | {k.replace("__", "."): v for k, v in settings.items()}
    final = {"validation_accuracy": 0.9, "train_set_accuracy": 0.8}
    return Record("id", config, status, final, rows)


def falling(*pairs: tuple[float, float]) -> Record:
    return record([{"train_loss": loss, "p": p} for loss, p in pairs])


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
    run = falling((2.0, 4.0), (0.5, 6.0), (0.7, 9.0))
    assert at_train_loss(run, "p", loss) == pytest.approx(value, nan_ok=True)


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
    run = record([{"train_set_accuracy": a, "replaced_accuracy": b} for a, b in rows])
    assert share_learned(run, 0.95) == pytest.approx(0.4)
    assert share_learned(run, 0.5) == 0.1
    assert math.isnan(share_learned(run, 1.01))
    assert math.isnan(share_learned(replace(run, status="diverged"), 0.95))
    assert train_accuracy(run) == 0.8 and train_accuracy(replace(run, status="diverged")) == 0


@pytest.mark.parametrize("last, failed", [(0.01, False), (0.0100000001, False), (0.02, True)])
def test_a_run_that_misses_its_fit_has_failed(last, failed):
    run = record([{"train_set_loss": 1.0}, {"train_set_loss": last}], train__stop_at_loss=0.01)
    assert is_failed(run) == failed
    assert not is_failed(replace(run, config=defaults()))
    assert is_failed(replace(run, curve=[]))


def test_tails_are_compared_by_a_paired_bootstrap():
    rng = np.random.default_rng(1)
    luck = rng.normal(size=30)
    pairs: Any = np.stack([luck + 1.0, luck], axis=1)
    centre, (low, high), _ = QUANTILE.summarize(pairs)
    expected = np.percentile(pairs[:, 0], 90) - np.percentile(pairs[:, 1], 90)
    assert centre == pytest.approx(expected) and low == pytest.approx(1.0) == high
    p_sup, p_ref = QUANTILE.p_values(pairs, 0.3)
    assert p_sup == pytest.approx(1 / 10_001) and p_ref == pytest.approx(1.0)
    alike = np.stack([luck, luck], axis=1)
    assert QUANTILE.p_values(alike, 0.3) == pytest.approx((1.0, 1 / 10_001))
    apart = np.stack([luck, rng.permutation(luck)], axis=1)
    assert min(QUANTILE.p_values(apart, 0.0)) > 0.1
    (verdict,) = decide([replace(ROW, effects=dict(enumerate(map(tuple, apart))))])
    assert verdict.word == "inconclusive" and verdict.n_enough is None
    unlucky = np.stack([luck + 5 * (np.arange(30) % 5 == 0), luck], axis=1)  # a fifth got stuck
    assert QUANTILE.p_values(unlucky, 0.3)[0] < 0.01


@pytest.mark.parametrize(
    "test, values, delta, word",
    [
        (MAX_ERROR, (1e-5, 9e-5, 1e-4), 1e-4, "supported"),
        (MAX_ERROR, (1e-5, 2e-4, 1e-5), 1e-4, "refuted"),
        (THRESHOLDS, (0.97, 0.96, 0.94), 0.95, "supported"),
        (THRESHOLDS, (0.9, 0.9, 0.97), 0.95, "inconclusive"),
        (THRESHOLDS, (0.5, 0.4, 0.6), 0.95, "refuted"),
    ],
)
def test_limits_decide_without_p_values(test, values, delta, word):
    row = replace(ROW, test=test, effects=dict(enumerate(values)), sesoi=delta, n=3)
    (verdict,) = decide([row])
    assert verdict.word == word and verdict.n_enough is None
    (fewer,) = decide([replace(row, n=4)])
    assert fewer.word == "exploratory"


def test_a_gate_of_its_own_takes_a_verdict_back():
    effects = {s: 1.0 + s / 100 for s in range(12)}
    row = replace(ROW, test=PAIRED_T, effects=effects, n=12)
    (open_row,), (closed,) = decide([row]), decide([replace(row, unmet="nothing to repair")])
    assert (open_row.word, closed.word) == ("supported", "not testable here")
    assert closed.notes == ("nothing to repair",)


@pytest.mark.parametrize(
    "is_complete, best, word",
    [
        (True, {"none": -math.inf}, "not testable here"),
        (False, {"none": -math.inf}, "no data"),
        (True, {}, "no data"),
    ],
)
def test_a_row_says_when_what_it_asks_for_cannot_be(is_complete, best, word):
    follow = SimpleNamespace(name="ten times", rate_of="none")
    setup = SimpleNamespace(follows=(follow,))
    e: Any = SimpleNamespace(setup=setup, follows={}, best=best, is_complete=is_complete)
    (verdict,) = decide([replace(ROW, test=PROPORTION, setup="s")])
    found = explained(verdict, {"s": e})
    assert found.word == word and (
        word == "no data" or "none reaches the target at no rate" in found.notes[0]
    )
    assert explained(verdict, {}).word == "no data"
