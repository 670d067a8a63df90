"""A network of your own: a convolution and three more with shortcuts, each with a norm."""

import jax
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.row import Model
from normlab.norms.builder import Layers


class SmallResidual(nn.Module):
    """conv - norm - act, then x + act(norm(conv(x))) three times, global mean, dense head."""

    layers: Layers
    classes: int
    kernel_init: Initializer
    head_init: Initializer
    widths: tuple[int, ...] = (16,)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        conv, norm, act = self.layers.conv, self.layers.norm, self.layers.act
        mask = None if mask is None else mask[:, None, None, None]
        for i in range(4):
            layer = conv(self.widths[0], kernel_init=self.kernel_init, name=f"conv_{i}")
            y = layer(x, train=train)
            y = act(name=f"act_{i}")(norm(name=f"norm_{i}")(y, train=train, mask=mask))
            x = x + y if i else y
        head = self.layers.head(self.classes, kernel_init=self.head_init, name="head")
        return head(x.mean((1, 2)))


MODELS = {
    "my_network": Model(
        title="small residual CNN",
        module=SmallResidual,
        options=("widths", "act"),
    ),
}
