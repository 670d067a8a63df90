"""Activations and the initial weights that suit them."""

from __future__ import annotations

import jax
from flax import linen as nn

he = nn.initializers.he_normal()
glorot = nn.initializers.glorot_normal()

ACTIVATIONS = {
    "relu": (jax.nn.relu, he),
    "sigmoid": (jax.nn.sigmoid, glorot),
    "tanh": (jax.numpy.tanh, glorot),
}
"""Name -> (function, initializer of the kernels before it): He (arXiv:1502.01852) for relu,
Glorot's variance 2 / (fan_in + fan_out) for the sigmoids."""
