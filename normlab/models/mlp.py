"""A multi-layer perceptron."""

from __future__ import annotations

import jax
from flax import linen as nn

from normlab.models.activations import glorot
from normlab.norms.kernels import Initializer
from normlab.norms.layers import Layers


class MLP(nn.Module):
    """dense - norm - act (placement pre) or dense - act - norm (post), repeated, and a dense head.

    Shapes: x [N, D] -> logits [N, classes]. Every dense layer has its bias in every arm.
    """

    layers: Layers
    widths: tuple[int, ...]
    classes: int
    kernel_init: Initializer
    placement: str = "pre"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dense, norm, act = self.layers.dense, self.layers.norm, self.layers.act
        for i, width in enumerate(self.widths, 1):
            x = dense(width, kernel_init=self.kernel_init, name=f"dense_{i}")(x)
            if self.placement == "pre":
                x = act(name=f"act_{i}")(norm(name=f"norm_{i}")(x, train=train))
            else:
                x = norm(name=f"norm_{i}")(act(name=f"act_{i}")(x), train=train)
        return dense(self.classes, kernel_init=glorot, name="head")(x)
