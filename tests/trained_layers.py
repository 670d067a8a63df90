"""One training step of a layer, for the tests of schemes with running statistics."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

MUTABLE = ["batch_stats", "norm_state"]


def draw(shape, loc=0.0, std=1.0, seed=0) -> np.ndarray:
    return (loc + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@functools.cache
def training(norm):
    """(params, state, x, mask) -> output, gradients to params and x, new state; compiled once for
    each layer, shape and kind of mask."""

    def run(params, state, x, mask):
        def value(params, x):
            full = {"params": params, **state}
            y, moved = norm.apply(full, x, train=True, mask=mask, mutable=MUTABLE)
            return jnp.sum(draw(x.shape, seed=9) * y), (y, moved)

        slopes, (y, moved) = jax.grad(value, (0, 1), has_aux=True)(params, x)
        return y, slopes, moved

    return jax.jit(run)


def outputs(norm, variables, x, mask=None):
    state = {k: v for k, v in variables.items() if k != "params"}
    return training(norm)(variables["params"], state, x, mask)
