"""ResNet-50 for images of about 224 pixels, as group norm was measured with it."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.norms.builder import Layers

EXPANSION = 4


class Bottleneck(nn.Module):
    """y = act(shortcut(x) + f(x)), f = 1x1 conv norm act, 3x3 conv norm act, 1x1 conv norm.

    Shapes: x [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), 4 features]; mask
    [N, 1, 1, 1]. The first block of a stage has a 1x1 conv and a norm as its shortcut, the others
    x itself. The scale of the last norm of f is 0 at first (see scale_hidden).
    """

    layers: Layers
    features: int
    stride: int
    has_projection: bool
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        def convolved(x: jax.Array, place: str, width: int, size: int, stride: int, end: str = ""):
            conv = self.layers.conv(
                width, kernel_init=self.kernel_init, size=size, stride=stride, name=f"conv_{place}"
            )
            norm = self.layers.norm(name=f"norm_{place}{end}")
            return norm(conv(x, train=train), train=train, mask=mask)

        wide = EXPANSION * self.features
        y = self.layers.act(name="act_1")(convolved(x, "1", self.features, 1, 1))
        y = self.layers.act(name="act_2")(convolved(y, "2", self.features, 3, self.stride))
        y = convolved(y, "3", wide, 1, 1, "_zero")
        if self.has_projection:
            x = convolved(x, "shortcut", wide, 1, self.stride)
        return self.layers.act(name="act_3")(x + y)


class ResNet50(nn.Module):
    """7x7 conv of stride 2, norm, act, 3x3 max pool of stride 2, stages of blocks, mean, head.

    Shapes: x [N, H, W, C], mask [N] (True: a real example) -> logits [N, classes]. The stages have
    `blocks` bottleneck blocks, (3, 4, 6, 3), of `widths` 64, 128, 256 and 512. The first block of
    every stage but the first halves H and W in its 3x3 convolution ("v1.5").
    Sources: arXiv:1512.03385, table 1. The stride in the 3x3 convolution and the scale that starts
    at 0: arXiv:1706.02677, section 5.1, which arXiv:1803.08494, section 4.1, follows.
    Deviations: convolutions have a bias per channel in every arm: 26,560 more parameters than the
    25,557,032 of ResNet-50 with batch norm and 1,000 classes. The head is drawn by `head_init`, in
    arXiv:1706.02677 with a standard deviation of 0.01.
    """

    layers: Layers
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    classes: int
    kernel_init: Initializer
    head_init: Initializer = glorot

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        mask = None if mask is None else mask[:, None, None, None]
        init = self.kernel_init
        conv = self.layers.conv(
            self.widths[0], kernel_init=init, size=7, stride=2, name="conv_stem"
        )
        x = self.layers.norm(name="norm_stem")(conv(x, train=train), train=train, mask=mask)
        x = self.layers.act(name="act_stem")(x)
        sides: Any = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), (2, 2), sides)
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            for i in range(1, blocks + 1):
                block = Bottleneck(
                    layers=self.layers,
                    features=width,
                    stride=2 if stage > 1 and i == 1 else 1,
                    has_projection=i == 1,
                    kernel_init=init,
                    name=f"stage_{stage}_block_{i}",
                )
                x = block(x, train=train, mask=mask)
        return self.layers.head(self.classes, kernel_init=self.head_init, name="head")(
            x.mean((1, 2))
        )
