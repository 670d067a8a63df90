"""A multi-layer perceptron."""

from __future__ import annotations

import jax
from flax import linen as nn

from normlab.models.activations import glorot
from normlab.norms.kernels import Initializer
from normlab.norms.layers import Layers


class MLP(nn.Module):
    """dense - norm - act (placement pre) or dense - act - norm (post), repeated, and a dense head.

    Shapes: x [N, D], mask [N] (True: a real example) -> logits [N, classes]. Every dense layer has
    its bias in every arm.
    """

    layers: Layers
    widths: tuple[int, ...]
    classes: int
    kernel_init: Initializer
    placement: str = "pre"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        dense, norm, act = self.layers.dense, self.layers.norm, self.layers.act
        mask = None if mask is None else mask[:, None]
        for i, width in enumerate(self.widths, 1):
            x = dense(width, kernel_init=self.kernel_init, name=f"dense_{i}")(x)
            if self.placement == "pre":
                x = act(name=f"act_{i}")(norm(name=f"norm_{i}")(x, train=train, mask=mask))
            else:
                x = norm(name=f"norm_{i}")(act(name=f"act_{i}")(x), train=train, mask=mask)
        return self.layers.head(self.classes, kernel_init=glorot, name="head")(x)
