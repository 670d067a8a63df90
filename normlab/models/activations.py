"""Activations and the initial weights that suit them."""

from __future__ import annotations

import jax
from flax import linen as nn

from normlab.layers.linear import Initializer

he = nn.initializers.he_normal()
glorot = nn.initializers.glorot_normal()

ACTIVATIONS = {
    "relu": (jax.nn.relu, he),
    "sigmoid": (jax.nn.sigmoid, glorot),
    "tanh": (jax.numpy.tanh, glorot),
}
"""Name -> (function, initializer of the kernels before it): He (arXiv:1502.01852) for relu,
Glorot's variance 2 / (fan_in + fan_out) for the sigmoids."""


def kernel_inits(kernel: str, act: str) -> tuple[Initializer, Initializer]:
    """Return the initializers of the hidden kernels before `act` and of the head's.

    kernel auto: what suits the activation, and Glorot's normal; glorot_uniform: for both uniform
    within sqrt(6 / (fan_in + fan_out)), as in Keras.
    """
    if kernel == "glorot_uniform":
        return nn.initializers.glorot_uniform(), nn.initializers.glorot_uniform()
    return ACTIVATIONS[act][1], glorot
