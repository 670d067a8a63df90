"""Random crop and flip: which images come out, how often, from which keys, and where they go."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import small, train

from normlab import data
from normlab.models.build import build_model
from normlab.runs.config import ConfigError, identity, resolve, run_id
from normlab.settings import SETTINGS, Config, program_key
from normlab.training.augment import STREAM, augment_key, crop_and_flip
from normlab.training.batches import batch_rows
from normlab.training.population import Outcome
from normlab.training.state import hyper_of, init_state
from normlab.training.step import MUTABLE

CNN = {"model.name": "cnn", "model.widths": (4,)}
CELLS = 9 * 9 * 2
EACH = 100  # expected examples of each legal image
augment: Any = jax.jit(crop_and_flip)


def legal_images(image: np.ndarray) -> np.ndarray:
    """All 162 images [162, H, W, C] that padding by 4, cropping and flipping make of one."""
    height, width, _ = image.shape
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = [padded[i : i + height, j : j + width] for i in range(9) for j in range(9)]
    return np.stack([*crops, *(crop[:, ::-1] for crop in crops)])


def cells_of(y: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Which of the legal images each of y [N, H, W, C] is, to the bit; each must be exactly one."""
    is_equal = np.stack([(y == legal).all((1, 2, 3)) for legal in legal_images(image)])
    assert (is_equal.sum(0) == 1).all()
    return is_equal.argmax(0)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return (
        (np.random.default_rng(0).permutation(9 * 10 * 2) / 255)
        .astype(np.float32)
        .reshape(9, 10, 2)
    )


@pytest.fixture(scope="module")
def draw(image):
    """From a key to the cells of many copies of one image."""
    copies = jnp.broadcast_to(image, (CELLS * EACH, *image.shape))
    return lambda key: cells_of(np.asarray(augment(key, copies)), image)


@pytest.mark.parametrize("shape", [(8, 8, 1), (11, 8, 2), (32, 32, 3)])
def test_every_output_is_a_legal_image_of_its_own_input(shape):
    x = np.random.default_rng(1).integers(0, 256, (40, *shape)).astype(np.float32) / 255
    y = augment(jax.random.key(2), x)
    assert (y.shape, y.dtype) == (x.shape, jnp.float32)
    cells = [cells_of(out[None], before)[0] for out, before in zip(np.asarray(y), x, strict=True)]
    assert len(set(cells)) > 20


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_offsets_and_flips_are_uniform_and_independent(draw, seed):
    """chi^2 over all 162 cells has mean 161 and variance 322."""
    counts = np.bincount(draw(jax.random.key(seed)), minlength=CELLS)
    chi_square = ((counts - EACH) ** 2 / EACH).sum()
    assert abs(chi_square - 161) < 4 * np.sqrt(322)


def test_examples_steps_and_members_draw_independently(draw):
    """Two independent draws agree in 1 of 162 examples."""
    member, other = (jax.random.fold_in(jax.random.key(seed), 1) for seed in (0, 1))
    first, again, step, members = (
        draw(augment_key(k, jnp.int32(i)))
        for k, i in ((member, 0), (member, 0), (member, 1), (other, 0))
    )
    np.testing.assert_array_equal(first, again)
    for a, b in ((first, step), (first, members), (first[1:], first[:-1])):
        assert abs(np.sum(a == b) - EACH) < 4 * np.sqrt(EACH)


def test_members_at_once_are_those_alone():
    x = np.random.default_rng(3).integers(0, 256, (3, 16, 8, 8, 3)).astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(4), 3)
    together = jax.jit(jax.vmap(crop_and_flip))(keys, x)
    for key, images, y in zip(keys, x, together, strict=True):
        np.testing.assert_array_equal(augment(key, images), y)


def test_shifts_and_flips_are_drawn_from_keys_of_their_own(monkeypatch):
    keys = [jax.random.key(0)]

    def noted(function):
        def draw(key, *rest, **options):
            keys.append(key)
            return function(key, *rest, **options)

        return draw

    for name in ("randint", "bernoulli"):
        monkeypatch.setattr(jax.random, name, noted(getattr(jax.random, name)))
    crop_and_flip(keys[0], jnp.zeros((2, 8, 8, 1)))
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == len(keys) == 3


def test_keys_are_none_of_the_noise():
    """The noise of step i takes fold_in(key, i)."""
    high = SETTINGS["train.steps"].high
    assert high is not None and STREAM > high
    key = jax.random.key(0)
    noise = {jax.random.key_data(jax.random.fold_in(key, i)).tobytes() for i in range(50)}
    ours = {jax.random.key_data(augment_key(key, jnp.int32(i))).tobytes() for i in range(50)}
    assert len(noise | ours) == 100


@pytest.fixture(scope="module")
def runs() -> tuple[Config, data.Dataset, Outcome, Outcome]:
    """Three steps at rate 0, without and with augmentation."""
    dataset = data.load("synthetic")
    config = small(CNN, norm__name="batch", optim__lr=0.0, seed=5)
    config |= {"train.steps": 3, "host.chunk": 3, "train.eval_every": 1}
    (plain,), _ = train([config], dataset)
    (augmented,), _ = train([config | {"data.augment": "crop_flip"}], dataset)
    return config, dataset, plain, augmented


def test_training_sees_the_augmented_batch_of_each_step(runs):
    config, dataset, _, augmented = runs
    rows = batch_rows(dataset.split(5), 5, 32, 0, 3)
    x = jnp.asarray(dataset.images[rows].reshape(3, 32, 8, 8, 1).astype(np.float32) / 255)
    net = build_model(config, 10, "patches")
    state = jax.jit(lambda x: init_state(net, "momentum", hyper_of(config), x))(x[0])

    @jax.jit
    def loss_of(x, y, step):
        shifted = crop_and_flip(augment_key(state.key, step), x)
        logits: Any = net.apply(state.variables, shifted, train=True, mutable=MUTABLE)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    losses = [loss_of(x[i], dataset.labels[rows[i]], i) for i in range(3)]
    np.testing.assert_allclose([row["train_loss"] for row in augmented.curve], losses, atol=1e-6)


def test_scored_images_and_those_of_the_statistics_stay_as_they_are(runs):
    """At rate 0 only what the network sees can differ: the training batches, nothing else."""
    _, _, plain, augmented = runs
    pairs = [(plain.final, augmented.final), *zip(plain.curve, augmented.curve, strict=True)]
    for a, b in pairs:
        for name in a:
            sees_training_batches = name == "train_loss" or "running_" in name
            if not sees_training_batches:
                np.testing.assert_allclose(b[name], a[name], rtol=1e-6, err_msg=name)
            elif "loss" in name:
                assert abs(b[name] - a[name]) > 1e-4, name


def test_setting_keeps_old_ids_and_makes_a_program_of_its_own():
    for config, name in (
        ({}, "c0a377a664f14988"),
        (CNN | {"seed": 3, "norm.momentum": 0.9}, "641d5e1e0817d9cd"),
    ):
        resolved = resolve(config).config
        assert resolved["data.augment"] == "none" and "data.augment" not in identity(resolved)
        assert run_id(resolved) == name
    plain = resolve(CNN).config
    augmented = resolve(CNN | {"data.augment": "crop_flip"}).config
    assert run_id(plain) != run_id(augmented) and program_key(plain) != program_key(augmented)


def test_what_has_no_space_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="'mlp' is a network without space; use none") as refusal:
        resolve({"data.augment": "crop_flip"})
    assert "\n" not in str(refusal.value)
    row = dataclasses.replace(data.DATASETS["synthetic"], shape=(7, 9, 1))
    monkeypatch.setitem(data.DATASETS, "synthetic", row)
    with pytest.raises(ConfigError, match="7 x 9 images of synthetic are smaller than 8 x 8"):
        resolve(CNN | {"data.augment": "crop_flip", "data.name": "synthetic"})
