"""How a run's statistics are used: in evaluation, under noise, and with other averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_runs import small, train

from normlab import data


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("synthetic")


def run(dataset, **settings) -> tuple[dict[str, float], Any]:
    outcomes, states = train([small({"norm.name": "batch"}, **settings)], dataset)
    return outcomes[0].final, states


def test_evaluation_with_the_statistics_of_the_scored_batch(dataset):
    """It depends on the size of the batch, the other modes do not, and padding has no part in it:
    one batch of a whole split is mostly padding."""
    few, many, whole = (
        run(dataset, eval__batch_statistics=True, eval__batch=size)[0] for size in (2, 50, 3000)
    )
    assert {"batch_test_accuracy", "running_test_accuracy", "test_accuracy"} <= set(few)
    for name in ("test_loss", "running_test_loss"):
        assert few[name] == pytest.approx(many[name], rel=1e-4)
        assert many[name] == pytest.approx(whole[name], rel=1e-4)
    assert few["batch_test_loss"] > 1.05 * many["batch_test_loss"]
    assert whole["batch_test_loss"] == pytest.approx(many["batch_test_loss"], rel=0.1)


def test_without_it_nothing_is_added(dataset):
    assert not any(name.startswith("batch_") for name in run(dataset)[0])


@pytest.mark.parametrize("average", ["debiased", "cumulative"])
def test_other_averages_count_their_updates_and_change_only_what_evaluation_sees(dataset, average):
    plain, states = run(dataset)
    other, moved = run(dataset, norm__average=average)
    assert plain["test_loss"] == other["test_loss"]
    assert plain["running_test_loss"] != other["running_test_loss"]
    counts = [leaf for leaf in np.asarray(moved.norm_state["norm_1"]["count"])]
    assert counts == [20] and not states.norm_state


def test_noise_changes_training_and_is_a_function_of_the_seed(dataset):
    plain, once, again = (
        run(dataset, norm__noise=strength)[0]["test_loss"] for strength in (0.0, 1.0, 1.0)
    )
    assert once == again != plain
    other = run(dataset, norm__noise=1.0, norm__name="none")[0]["test_loss"]
    assert other != run(dataset, norm__name="none")[0]["test_loss"]
