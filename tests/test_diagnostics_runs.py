"""Diagnostics of a whole run against NumPy and plain gradients.

They check which images, labels, statistics, next step, rate and noise the diagnostics see.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import small, train

from normlab import data
from normlab.diagnostics.table import DIAGNOSTICS
from normlab.training.augment import augment_key
from normlab.training.batches import MemberBatches, noisy_labels
from normlab.training.diagnose import make_diagnostics
from normlab.training.population import Population
from normlab.training.program import Resident
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

SEED, STEPS, EVERY, BATCH, IMAGES = 3, 9, 3, 32, 64
RATE, MOMENTUM, DECAY, NOISE, EPSILON = 0.1, 0.8, 0.05, 0.3, 1e-5
LAYERS = ("dense_1", "dense_2", "head")
Params = dict[str, dict[str, Any]]


class Moment(NamedTuple):
    """A run after one of its steps, and the row that its diagnostics wrote then."""

    step: int
    params: Params
    trace: Params
    statistics: Params
    row: dict[str, float]

    @property
    def rate(self) -> float:
        """That of the step just taken, on half a cosine."""
        return RATE * (1 + np.cos(np.pi * (self.step - 1) / STEPS)) / 2


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("synthetic")


def below(arrays: dict[str, np.ndarray], prefix: str) -> Params:
    """Return the arrays of the only member, by module and leaf."""
    tree: Params = {}
    for path, values in arrays.items():
        if path.startswith(prefix):
            module, leaf = path.removeprefix(prefix).split("/")
            tree.setdefault(module, {})[leaf] = np.float64(values[0])
    return tree


@pytest.fixture(scope="module")
def moments(dataset) -> list[Moment]:
    config = small(
        {"norm.name": "batch", "norm.epsilon": EPSILON, "optim.schedule": "cosine", "seed": SEED},
        optim__lr=RATE,
        optim__momentum=MOMENTUM,
        optim__weight_decay=DECAY,
        data__label_noise=NOISE,
        data__batch=BATCH,
        eval__stats_examples=IMAGES,
        eval__probes="rotation+moments+statistics",
        train__steps=STEPS,
        train__eval_every=EVERY,
        host__chunk=EVERY,
    )
    population, found = Population([config], dataset), []

    def note(progress) -> None:
        arrays = progress.snapshot().arrays
        params, trace, statistics = (
            below(arrays, part) for part in ("params/", "opt_state/1/trace/", "batch_stats/")
        )
        found.append(Moment(progress.step, params, trace, statistics, progress.rows[0][-1]))

    population.train(note)
    assert [m.step for m in found] == [3, 6, 9]
    return found


def pixels(dataset: data.Dataset, rows: np.ndarray) -> np.ndarray:
    return dataset.images[rows] / 255


def forward(params: Params, x: Any, given: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return the logits, and of each norm its mean, its variance and what it makes of its input.

    It uses its own statistics or those `given`.
    """
    seen = {}
    for layer in LAYERS:
        x = x @ params[layer]["kernel"] + params[layer]["bias"]
        if layer != "head":
            norm = layer.replace("dense", "norm")
            mean, var = given[norm][:2] if given else (x.mean(0), x.var(0))
            hat = (x - mean) / (var + EPSILON) ** 0.5
            seen[norm] = mean, var, hat
            x = hat * params[norm]["scale"] + params[norm]["bias"]
            x = x * (x > 0)
    return x, seen


@jax.jit
def gradient(params: Params, x: Any, y: Any) -> Params:
    def loss(params: Params) -> Any:
        return -jax.nn.log_softmax(forward(params, x)[0])[jnp.arange(len(y)), y].mean()

    return jax.grad(loss)(params)


def test_the_next_step_follows_rate_momentum_decay_and_the_labels_that_are_trained_on(
    dataset, moments
):
    """On the first training images, whose labels are noisy where the run's are."""
    rows = dataset.split(SEED).train
    labels, _ = noisy_labels(dataset.labels, rows, SEED, NOISE, dataset.classes)
    x, y = pixels(dataset, rows[:BATCH]), labels[rows[:BATCH]]
    assert (y != dataset.labels[rows[:BATCH]]).any()
    for moment in moments:
        grads = gradient(moment.params, np.float32(x), y)
        for layer in LAYERS:
            old, trace = moment.params[layer]["kernel"], moment.trace[layer]["kernel"]
            slope = np.float64(grads[layer]["kernel"]) + DECAY * old
            new = old - moment.rate * (slope + MOMENTUM * trace)
            square = (old**2).sum()
            angle = np.arccos((old * new).sum() / np.sqrt(square * (new**2).sum()))
            assert moment.row[f"rotation.angle.{layer}"] == pytest.approx(angle, rel=1e-3)
            rate = moment.row[f"rotation.effective_rate.{layer}"]
            assert rate == pytest.approx(moment.rate / square, rel=1e-4)


def test_running_statistics_are_compared_with_those_of_training_images(dataset, moments):
    rows = dataset.split(SEED).train[:IMAGES]
    for moment in moments:
        _, seen = forward(moment.params, pixels(dataset, rows))
        for norm, (mean, var, _) in seen.items():
            running = moment.statistics[norm]
            gap = np.abs(running["mean"] + running["mean_lo"] - mean) / np.sqrt(var + 1e-5)
            ratio = np.abs(np.log((running["var"] + 1e-5) / (var + 1e-5)))
            found = (moment.row[f"statistics.{kind}.{norm}"] for kind in ("mean", "var"))
            for value, expected in zip(found, (gap, ratio), strict=True):
                assert value == pytest.approx(expected.mean(), rel=1e-3)


def test_moments_in_evaluation_are_those_of_test_images_by_statistics_of_training_images(
    dataset, moments
):
    """Training images would all be near, and so would the test images by their own statistics."""
    split = dataset.split(SEED)
    for moment in moments:
        _, exact = forward(moment.params, pixels(dataset, split.train[:IMAGES]))
        _, seen = forward(moment.params, pixels(dataset, split.test[:IMAGES]), exact)
        hat = np.concatenate([seen[norm][2] for norm in ("norm_1", "norm_2")], axis=1)
        far = np.maximum(np.abs(hat.mean(0)), np.abs(hat.std(0) - 1))
        low, high = ((far <= limit).mean() for limit in (0.0999, 0.1001))
        assert low - 1e-6 <= moment.row["moments.evaluation"] <= high + 1e-6
        assert 0 < high < 1


def test_every_step_and_every_diagnosis_has_noise_of_its_own(dataset):
    """At rate 0 with a single training image, nothing but the noise can change."""
    config = small(
        {"norm.noise": 1.0, "optim.lr": 0.0, "train.steps": 5, "train.eval_every": 1},
        data__train_examples=1,
        data__batch=1,
        eval__probes="activations",
    )
    (outcome,), _ = train([config], dataset)
    for name in ("train_loss", "activations.mean.norm_1", "activations.mean.norm_2"):
        values = np.sort([row[name] for row in outcome.curve])
        assert np.diff(values).min() > 1e-5, name
    assert len({row["loss"] for row in outcome.curve}) == 1


class Listener:
    """In the place of a network; it notes the keys that it is given."""

    def __init__(self):
        self.keys: list[Any] = []

    def init(self, key, x, train):
        self.keys.append(key)
        return {"params": {"head": {"kernel": jnp.zeros((x.shape[-1], 10))}}}

    def apply(self, variables, x, train, mutable, rngs):
        self.keys.append(rngs["noise"])
        return x @ variables["params"]["head"]["kernel"], {}


def test_no_two_draws_of_two_runs_share_a_key(dataset, monkeypatch):
    """Weights, and at every step augmentation, the noise of training and that of diagnostics."""
    net: Any = Listener()
    config = small(eval__probes="rank", data__batch=2, eval__stats_examples=2)
    monkeypatch.setitem(DIAGNOSTICS, "rank", lambda inputs: net.keys.append(inputs.key) or {})
    observe = make_diagnostics(config, net, None).observe
    images = Resident(jnp.asarray(dataset.images), (64,))
    for seed in (0, 1):
        hyper, batches = hyper_of(config | {"seed": seed}), MemberBatches(config, dataset)
        batch = Batch(jnp.zeros((2, 64)), jnp.zeros(2, int), jnp.ones(()))
        state = init_state(net, "sgd", hyper, batch.x)
        for _ in range(3):
            net.keys.append(augment_key(state.key, state.step))
            state, _ = make_train_step(net, "sgd", hyper)(state, batch)
            observe(state, hyper, 1.0, images, batches.chunk(0, 1))
    drawn = [jax.random.key_data(key).tobytes() for key in net.keys]
    assert len(set(drawn)) == len(drawn) == 2 * (1 + 3 * 3)
