"""The loops over sequences train the same networks as normlab does."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import sequences
from benchmarks.loops import normlab_loop
from benchmarks.loops.sequence import NETWORKS, features_and_lengths
from benchmarks.training import check_losses

LISTED = {n.name: n for n in NETWORKS}
STEPS = 3


def test_the_loops_that_can_train_a_network():
    forms = [form for _, form in sequences.forms_of(LISTED["gru32"], ["flax", "torch"])]
    assert forms == ["", "padded", "packed", "cell", "unbound cell"]
    assert ("flax", "plain") in sequences.forms_of(LISTED["lstm100"], ["flax"])
    assert sequences.forms_of(LISTED["gru32-batch"], ["flax"]) == []


@pytest.mark.parametrize(
    ("library", "forms"),
    [
        ("flax", ("", "plain")),
        pytest.param("torch", ("padded", "packed"), marks=pytest.mark.peers("torch")),
        pytest.param("torch", ("cell", "unbound cell"), marks=pytest.mark.peers("torch")),
    ],
)
@pytest.mark.parametrize("name", LISTED)
def test_every_loop_trains_the_same_network(library, forms, name):
    steps = 6
    network = replace(LISTED[name], shape=(steps, 4, 1), batch=8, widths=(5,))
    wanted = [key for key in sequences.forms_of(network, [library]) if key[1] in forms]
    if not wanted:
        return
    job = sequences.make_job(network)
    features, lengths = features_and_lengths(job)
    assert set(lengths) == {3, 4, 5, 6}
    assert not features[np.arange(steps) >= lengths[:, None]].any() and features.max() == 1
    losses = {"normlab": normlab_loop.Loop(job, [0], STEPS).losses(STEPS)}
    assert losses["normlab"][0] != pytest.approx(losses["normlab"][1], rel=1e-3)
    module = importlib.import_module(f"benchmarks.loops.{library}_sequence_loop")
    for _, form in wanted:
        loop = module.Loop(job, form)
        for _ in range(2):  # it begins again
            losses[form] = loop.losses(STEPS)
            check_losses(name, losses, sequences.AGREEMENT)
