"""An external norm: layer norm with the largest deviation in place of the standard deviation."""

import jax
import jax.numpy as jnp
import numpy as np

from normlab.norms import Norm, Scheme, finish
from normlab.statistics.axes import refuse_degenerate


class PeakNorm(Scheme):
    """y = scale * (x - mean) / sqrt(peak^2 / (2 ln n) + epsilon) + bias, over each example.

    peak = max |x - mean| over n values. For large n and normal x, peak / sqrt(2 ln n) is near the
    standard deviation. No square is summed.
    Shapes: x [N, ..., C] -> the same; parameters [C]. State: none.
    Raises ValueError where an example has one value.
    Source: arXiv:1803.01814. Deviation: theirs is over N, H, W, this one over H, W, C.
    """

    epsilon: float = 1e-5

    def respond(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        axes = tuple(range(1, x.ndim))
        refuse_degenerate("PeakNorm", x.shape, axes)
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        valid = jnp.full(x.shape, True) if mask is None else mask
        n = jnp.maximum(valid.sum(axes, keepdims=True), 1).astype(y.dtype)
        mean = (jnp.where(valid, y, 0) / n).sum(axes, keepdims=True)
        y = jnp.where(valid, y - mean, 0)
        peak = jnp.abs(y).max(axes, keepdims=True, initial=0)
        spread = peak / jnp.sqrt(2 * jnp.log(jnp.maximum(n, 2)))
        return finish(self, y / jnp.hypot(spread, self.epsilon**0.5))


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
