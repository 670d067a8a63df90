"""The whole path learns what can be learned, and nothing where the labels were permuted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_runs import small, train

from normlab import data
from normlab.training.population import Outcome

SEEDS = (0, 1, 2)
CHANCE = 0.1
CONFIG = {
    "train.steps": 400,
    "data.batch": 64,
    "model.widths": (256,),
    "norm.name": "batch",
    "train.eval_every": 100,
    "eval.curve_examples": 1000,
    "eval.stats_examples": 512,
    "eval.batch": 100,
    "host.width": len(SEEDS),
    "host.chunk": 100,
}


def permute_labels(dataset: data.Dataset) -> data.Dataset:
    """The same images, each with the label of another."""
    labels = np.random.default_rng(0).permutation(dataset.labels)
    return dataclasses.replace(dataset, labels=labels)


def outcomes(dataset: data.Dataset) -> list[Outcome]:
    changes = CONFIG | {"data.name": dataset.name}
    return train([small(changes, seed=s) for s in SEEDS], dataset)[0]


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("digits")


def test_true_labels_are_learned(dataset):
    for outcome in outcomes(dataset):
        assert outcome.final["test_accuracy"] > 0.9
        assert outcome.final["running_test_accuracy"] > 0.9
        assert outcome.final["validation_accuracy"] > 0.9


def test_permuted_labels_are_learned_by_heart_and_stay_at_chance(dataset):
    """A leak between the splits would show here: the training labels are fitted, no other."""
    sizes = {"validation": data.DATASETS[dataset.name].validation}
    sizes["test"] = data.DATASETS[dataset.name].test
    for outcome in outcomes(permute_labels(dataset)):
        assert outcome.curve[-1]["train_loss"] < 0.8
        for split, examples in sizes.items():
            bound = 4.5 * np.sqrt(CHANCE * (1 - CHANCE) / examples)
            for mode in ("", "running_"):
                assert abs(outcome.final[f"{mode}{split}_accuracy"] - CHANCE) < bound
