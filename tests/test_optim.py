"""Optimisers against optax's own, weight decay on kernels only, shapes of the learning rate."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from normlab.settings import SETTINGS
from normlab.training.optim import direction, rate_shape

LR, MOMENTUM = 0.05, 0.8
IS_KERNEL = {
    "dense_1": {"kernel": True, "bias": False},
    "norm_1": {"scale": False, "bias": False},
    "head": {"kernel": True, "bias": False},
}
SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": (3,)}


def draw(seed: int) -> dict:
    generator = np.random.default_rng(seed)
    return {
        module: {
            leaf: generator.standard_normal(SHAPES[leaf]).astype(np.float32) for leaf in leaves
        }
        for module, leaves in IS_KERNEL.items()
    }


def peer(name: str, weight_decay: float) -> optax.GradientTransformation:
    """The same optimiser as optax spells it."""
    if name == "adamw":
        return optax.adamw(LR, b1=MOMENTUM, weight_decay=weight_decay, mask=IS_KERNEL)
    main = {
        "sgd": optax.sgd(LR),
        "momentum": optax.sgd(LR, momentum=MOMENTUM),
        "adam": optax.adam(LR, b1=MOMENTUM),
    }[name]
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=IS_KERNEL), main)


def ours(params, grads, name, momentum, weight_decay):
    transform = direction(name, momentum, weight_decay)
    state = transform.init(params)
    for grad in grads:
        updates, state = transform.update(grad, state, params)
        params = jax.tree.map(lambda p, u: p - LR * u, params, updates)
    return params


NAMES = SETTINGS["optim.name"].choices


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "adam_keras"])
def test_five_steps_are_those_of_optax(name, weight_decay):
    params, grads = draw(0), [draw(seed) for seed in range(1, 6)]
    found = jax.jit(ours, static_argnums=2)(params, grads, name, MOMENTUM, weight_decay)
    transform = peer(name, weight_decay)
    state, expected = transform.init(params), params
    for grad in grads:
        updates, state = transform.update(grad, state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("name", NAMES)
def test_only_kernels_decay(name):
    params = draw(0)
    nothing = jax.tree.map(np.zeros_like, params)
    found = ours(params, [nothing] * 3, name, MOMENTUM, 0.3)
    for module, leaves in IS_KERNEL.items():
        for leaf, decays in leaves.items():
            before, after = params[module][leaf], np.asarray(found[module][leaf])
            if decays:
                assert np.all(np.abs(after) < np.abs(before))
            else:
                np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    ("schedule", "warmup", "steps", "expected"),
    [
        ("constant", 0, 4, [1, 1, 1, 1]),
        ("constant", 2, 5, [0.5, 1, 1, 1, 1]),
        ("cosine", 0, 4, [1, 0.853553, 0.5, 0.146447]),
        ("cosine", 2, 6, [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
        ("step", 0, 8, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("step", 2, 8, [0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("step", 5, 8, [0.2, 0.4, 0.6, 0.8, 1, 0.1, 0.01, 0.01]),
        ("step_three", 0, 10, [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 1e-3]),
        ("step_three", 2, 10, [0.5, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 1e-3]),
    ],
)
def test_shape_of_the_rate(schedule, warmup, steps, expected):
    found = rate_shape(schedule, warmup, steps)
    assert (found.dtype, found.shape) == (np.float32, (steps,))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
