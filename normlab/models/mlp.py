"""A multi-layer perceptron."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.norms.builder import Layers

SCALED = ("skipinit",)
SHORTCUTS = ("identity", *SCALED)


class MLP(nn.Module):
    """dense - norm - act (placement pre) or dense - act - norm (post), repeated, and a dense head.

    `shortcut` none: f(x) alone. Others act around each layer that keeps its width: x + f(x)
    (identity) or x + a f(x) (skipinit, arXiv:2002.10444; the scalar `branch_scale_i` a = 0 at
    first).

    Shapes: x [N, D], mask [N] (True: a real example) -> logits [N, classes]. Every dense layer has
    its bias in every arm.
    """

    layers: Layers
    widths: tuple[int, ...]
    classes: int
    kernel_init: Initializer
    head_init: Initializer = glorot
    placement: str = "pre"
    shortcut: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        dense, norm, act = self.layers.dense, self.layers.norm, self.layers.act
        mask = None if mask is None else mask[:, None]
        for i, width in enumerate(self.widths, 1):
            y = dense(width, kernel_init=self.kernel_init, name=f"dense_{i}")(x, train=train)
            if self.placement == "pre":
                y = act(name=f"act_{i}")(norm(name=f"norm_{i}")(y, train=train, mask=mask))
            else:
                y = norm(name=f"norm_{i}")(act(name=f"act_{i}")(y), train=train, mask=mask)
            x = self.joined(i, x, y) if y.shape == x.shape else y
        return self.layers.head(self.classes, kernel_init=self.head_init, name="head")(x)

    def joined(self, i: int, x: jax.Array, y: jax.Array) -> jax.Array:
        """Return layer i's output y, with its input x added as `shortcut` says."""
        if self.shortcut in SCALED:
            scale: Any = self.param(f"branch_scale_{i}", nn.initializers.zeros, ())
            y = scale.astype(y.dtype) * y
        return x + y if self.shortcut in SHORTCUTS else y
