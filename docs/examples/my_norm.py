"""An external norm: layer norm with the largest deviation in place of the standard deviation."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from normlab.norms import Norm


class PeakNorm(nn.Module):
    """y = scale * (x - mean) / sqrt(peak^2 / (2 ln n) + epsilon) + bias, over each example.

    peak = max |x - mean| over n values. For large n and normal x, peak / sqrt(2 ln n) is near the
    standard deviation. No square is summed.
    Shapes: x [N, ..., C] -> the same; parameters [C]. State: none.
    Raises ValueError where an example has one value.
    Source: arXiv:1803.01814. Deviation: theirs is over N, H, W, this one over H, W, C.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train  # training and evaluation agree
        if x[0].size < 2:
            raise ValueError(f"PeakNorm: one value per example in {x.shape}; at least 2 are needed")
        valid = jnp.broadcast_to(True if mask is None else mask, x.shape)
        axes, wide = tuple(range(1, x.ndim)), jnp.promote_types(x.dtype, jnp.float32)
        n = jnp.maximum(valid.sum(axes, keepdims=True), 1).astype(wide)
        y = jnp.where(valid, x, 0).astype(wide)
        y = jnp.where(valid, y - (y / n).sum(axes, keepdims=True), 0)
        peak = jnp.abs(y).max(axes, keepdims=True)
        spread = peak / jnp.sqrt(2 * jnp.log(jnp.maximum(n, 2)))
        y = y / jnp.hypot(spread, self.epsilon**0.5)
        y = y * self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        y = y + self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return jnp.where(valid, y, 0).astype(x.dtype)


def in_float64(x: np.ndarray, epsilon: float) -> np.ndarray:
    """The same in plain NumPy; the module is compared with it."""
    axes = tuple(range(1, x.ndim))
    y = x - x.mean(axes, keepdims=True)
    peak = np.abs(y).max(axes, keepdims=True)
    return y / np.sqrt(peak**2 / (2 * np.log(x[0].size)) + epsilon)


NORMS = {
    "my_norm": Norm(
        title="peak norm",
        family="sample",
        module=PeakNorm,
        over=("H", "W", "C"),
        options=("epsilon",),
        invariant=("shift", "scale"),
        reference=in_float64,
        source="arXiv:1803.01814",
    ),
}
