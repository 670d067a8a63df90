"""The loops over sequences train the same networks as normlab does."""

from __future__ import annotations

import functools
import importlib
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sequences
from benchmarks.loops import normlab_loop, worker
from benchmarks.loops.network import CLASSES, Job
from benchmarks.loops.sequence import NETWORKS, features_and_lengths
from benchmarks.training import check_losses
from normlab.models.build import build_model
from normlab.models.table import rnn_fields
from normlab.settings import defaults
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

LISTED = {n.name: n for n in NETWORKS}
T, STEPS = 6, 3


@functools.cache
def job_and_losses(name: str) -> tuple[Job, list[float]]:
    """A small network, and the losses of normlab's own step, which a population is equal to."""
    job = sequences.make_job(replace(LISTED[name], shape=(T, 4, 1), batch=8, widths=(5,)))
    config = normlab_loop.config_of(job.network)
    net, hyper = build_model(config, CLASSES, "lax"), hyper_of(config)
    step: Any = jax.jit(make_train_step(net, "momentum", hyper))
    x = jnp.asarray(job.images / np.float32(255)).reshape(-1, T, 4)
    state = jax.jit(lambda x: init_state(net, "momentum", hyper, x))(x[:2])
    losses = []
    for rows in job.rows[:STEPS]:
        state, loss = step(state, Batch(x[rows], jnp.asarray(job.labels[rows]), jnp.ones(())))
        losses.append(float(loss))
    return job, losses


@pytest.mark.parametrize("name", ["gru32", "lstm100", "gru32-batch", "lstm100-batch-padded"])
@pytest.mark.parametrize(
    "library", ["flax", pytest.param("torch", marks=pytest.mark.peers("torch"))]
)
def test_every_loop_trains_the_same_network(library, name):
    forms = sequences.forms_of(LISTED[name], [library])
    assert bool(forms) == (library == "torch" or "batch" not in name)
    job, right = job_and_losses(name)
    assert right[0] != pytest.approx(right[1], rel=1e-3)
    for _, form in forms:
        module = importlib.import_module(f"benchmarks.loops.{library}_sequence_loop")
        loop = module.Loop(job, form)
        for _ in range(2):  # it begins again
            losses = {"normlab": right, form or library: loop.losses(STEPS)}
            check_losses(name, losses, sequences.AGREEMENT)


def test_the_loops_that_can_train_a_network():
    forms = [form for _, form in sequences.forms_of(LISTED["gru32"], ["flax", "torch"])]
    assert forms == ["", "padded", "packed", "cell", "unbound cell"]
    assert ("flax", "plain") in sequences.forms_of(LISTED["lstm100"], ["flax"])


def test_lengths_lie_between_half_and_all_steps():
    features, lengths = features_and_lengths(job_and_losses("gru32")[0])
    assert set(lengths) == {3, 4, 5, 6} and features.max() == 1
    assert not features[np.arange(T) >= lengths[:, None]].any()


def test_only_the_processor_s_time_is_counted():
    assert worker.spend(type("Loop", (), {"run": staticmethod(time.sleep)}), 1) < 0.5


def test_only_schemes_with_statistics_get_the_mask_of_padding():
    masked = {n: rnn_fields(defaults() | {"norm.name": n})["is_masked"] for n in ("none", "layer")}
    assert masked == {"none": False, "layer": True}
