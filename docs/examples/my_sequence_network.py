"""A network of your own for sequences: two convolutions over time, each with a norm."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.linear import Initializer
from normlab.models.row import Model
from normlab.models.time import TimeNorm, count_sequences, ends
from normlab.norms.builder import Layers


class TemporalConv(nn.Module):
    """Twice: each step with its two neighbours, dense - norm - act. Then the mean over steps."""

    layers: Layers
    classes: int
    kernel_init: Initializer
    head_init: Initializer
    time: str
    is_masked: bool
    widths: tuple[int, ...] = (16,)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        x, valid, counted = ends(x, mask, self.is_masked)  # [T, N, D]
        places = count_sequences(self, valid, train)
        for i in range(2):
            wider = jnp.pad(x, ((1, 1), (0, 0), (0, 0)))
            near = jnp.concatenate([wider[:-2], x, wider[2:]], -1)
            dense = self.layers.dense(
                self.widths[0], kernel_init=self.kernel_init, name=f"dense_{i}"
            )
            norm = TimeNorm(self.layers, self.time, train, name=f"norm_{i}")
            y = norm(dense(near, train=train), counted, places)
            x = jnp.where(valid, self.layers.act(name=f"act_{i}")(y), 0)
        head = self.layers.head(self.classes, kernel_init=self.head_init, name="head")
        return head(x.sum(0) / valid.sum(0))


MODELS = {
    "my_sequence_network": Model(
        title="two convolutions over time",
        module=TemporalConv,
        options=("widths", "act"),
        is_convolutional=False,
        has_time=True,
        kinds=("images", "sequences"),
    ),
}
