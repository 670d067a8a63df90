"""Residual networks for small images, and their rivals that need no norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.activations import glorot
from normlab.norms.builder import Layers

BRANCH_SCALES = {"skipinit": 0.0, "fixup": 1.0}
"""Residual -> where the learned scalar starts that multiplies each branch."""
SHORTCUTS = ("identity", *BRANCH_SCALES)
"""Residuals with a shortcut parallel to each branch; any other has only the branch."""


def shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Return x [N, H, W, C] as [N, ceil(H / stride), ceil(W / stride), features], features >= C.

    Every stride-th pixel, zeros as further channels: option A of arXiv:1512.03385, section 4.2,
    which has no parameters.
    """
    padding = (0, features - x.shape[-1])
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), padding))


def scaled(init: Initializer, factor: float) -> Initializer:
    """Return the initializer of `factor` times what `init` draws."""
    return lambda *arguments: factor * init(*arguments)


def scalar(module: nn.Module, name: str, start: float, x: jax.Array) -> jax.Array:
    """Return the scalar parameter `name` of `module` in the type of x."""
    value: Any = module.param(name, nn.initializers.constant(start), (), jnp.float32)
    return value.astype(x.dtype)


def shifted(module: Any, name: str, x: jax.Array) -> jax.Array:
    """Return x + the scalar bias `name` under fixup, x elsewhere."""
    return x + scalar(module, name, 0.0, x) if module.residual == "fixup" else x


class Block(nn.Module):
    """y = act(shortcut(x) + f(x)), f = conv norm act conv norm (order post), or
    y = shortcut(x) + f(x), f = norm act conv norm act conv (order pre).

    Shapes: x [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features]; mask [N, 1, 1, 1].
    `residual` and `branches`, the number of blocks: see ResNet. Parameters of its own: the scalars
    `branch_scale` (skipinit, fixup) and `before_conv_1` ... `before_act_2` (fixup).
    """

    layers: Layers
    features: int
    stride: int
    kernel_init: Initializer
    order: str
    residual: str
    branches: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        def norm(i: int, y: jax.Array) -> jax.Array:
            return self.layers.norm(name=f"norm_{i}")(y, train=train, mask=mask)

        if self.order == "pre":
            y = self.convolve(1, self.activate(1, norm(1, x)), train)
            y = self.convolve(2, self.activate(2, norm(2, y)), train)
            return self.add(x, y)
        y = self.activate(1, norm(1, self.convolve(1, x, train)))
        y = norm(2, self.convolve(2, y, train))
        return self.activate(2, self.add(x, y))

    def convolve(self, i: int, x: jax.Array, train: bool) -> jax.Array:
        init = self.kernel_init
        if self.residual == "fixup":
            init = scaled(init, self.branches**-0.5) if i == 1 else nn.initializers.zeros
        stride = self.stride if i == 1 else 1
        conv = self.layers.conv(self.features, kernel_init=init, stride=stride, name=f"conv_{i}")
        return conv(shifted(self, f"before_conv_{i}", x), train=train)

    def activate(self, i: int, x: jax.Array) -> jax.Array:
        return self.layers.act(name=f"act_{i}")(shifted(self, f"before_act_{i}", x))

    def add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        if self.residual in BRANCH_SCALES:
            y = scalar(self, "branch_scale", BRANCH_SCALES[self.residual], y) * y
        is_plain = self.residual not in SHORTCUTS
        return y if is_plain else shortcut(x, self.features, self.stride) + y


class ResNet(nn.Module):
    """A convolution, `blocks` blocks for each of `widths`, global mean, dense head.

    Shapes: x [N, H, W, C], mask [N] (True: a real example) -> logits [N, classes]. The first block
    of every stage but the first halves H and W. `order` post: norm and act follow the first
    convolution; pre: they follow the last block. Every layer has its bias in every arm.
    `residual` identity: x + f(x). none: f(x) alone, the plain network of the same parameters.
    skipinit: x + a f(x), the scalar a = 0 at first. fixup: the first kernel of each branch is
    multiplied by branches^(-1/2), its second kernel and the head are 0. A scalar bias (0 at first)
    precedes every convolution, every activation and the head. Each branch has a scalar multiplier
    (1 at first).
    Sources: arXiv:1512.03385, section 4.2, with shortcuts of option A; order pre: arXiv:1603.05027;
    skipinit: arXiv:2002.10444; fixup: arXiv:1901.09321, section 3, and its authors' code.
    Deviations: all convolutions have a bias per channel. Order pre: every block keeps its first
    norm and act inside the branch, the first block of all too.
    Fixup: kernels are drawn by fan-in as in the other arms; the authors' code draws by fan-out. The
    shortcut takes x without the scalar before the first convolution; the authors' code adds it
    where the shape changes. Scalars train at the whole rate; in the authors' code at a tenth of it.
    As in that code, the first convolution of the network has no scalar before it. A norm right
    after a kernel of zeros (order post) multiplies its first gradient by 1 / sqrt(epsilon).
    """

    layers: Layers
    widths: tuple[int, ...]
    blocks: int
    classes: int
    kernel_init: Initializer
    head_init: Initializer = glorot
    order: str = "post"
    residual: str = "identity"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        mask = None if mask is None else mask[:, None, None, None]

        def normed(place: str, x: jax.Array) -> jax.Array:
            x = self.layers.norm(name=f"norm_{place}")(x, train=train, mask=mask)
            return self.layers.act(name=f"act_{place}")(shifted(self, f"before_act_{place}", x))

        init = self.kernel_init
        x = self.layers.conv(self.widths[0], kernel_init=init, stride=1, name="conv_stem")(
            x, train=train
        )
        x = normed("stem", x) if self.order == "post" else x
        for stage, width in enumerate(self.widths, 1):
            for i in range(1, self.blocks + 1):
                block = Block(
                    layers=self.layers,
                    features=width,
                    stride=2 if stage > 1 and i == 1 else 1,
                    kernel_init=init,
                    order=self.order,
                    residual=self.residual,
                    branches=len(self.widths) * self.blocks,
                    name=f"stage_{stage}_block_{i}",
                )
                x = block(x, train=train, mask=mask)
        x = normed("last", x) if self.order == "pre" else x
        head_init = nn.initializers.zeros if self.residual == "fixup" else self.head_init
        head = self.layers.head(self.classes, kernel_init=head_init, name="head")
        return head(shifted(self, "before_head", x.mean((1, 2))))
