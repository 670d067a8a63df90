"""Mean-only batch normalization: centred over the batch, never scaled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normlab.norms.plain import bias_of
from normlab.norms.running import RunningNorm
from normlab.statistics.moments import centre, fit_mask, moments, to_float32

LEAVES = ("mean", "mean_lo")


class MeanOnlyBatchNorm(RunningNorm):
    """y = x - mean + bias, mean over N, H, W per channel; the gradient is g - mean(g).

    Shapes: x [N, ..., C] -> the same; parameter `bias` [C], no `scale`: the kernels before it have
    one (weight normalization), or keep their own.
    State: as in RunningNorm, without the leaf `var`. Options: as in RunningNorm, where epsilon and
    running_var have nothing to act on. Training uses the batch's mean, evaluation the running one.
    Values of x - mean that the dtype of x cannot hold are its largest number.
    Raises ValueError where BatchNorm does.
    Source: arXiv:1602.07868, section 4. Deviation: none; made for weight-normalized kernels, which
    are chosen apart from it.

    >>> layer = MeanOnlyBatchNorm()
    >>> x = jax.numpy.array([[1.0], [3.0]])
    >>> layer.init_with_output(jax.random.key(0), x, train=True)[0].tolist()
    [[-1.0], [1.0]]
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        bias = bias_of(self, x.shape[-1])
        running = self.running(x.shape[-1], LEAVES)
        largest = float(jnp.finfo(x.dtype).max)

        def by_batch(x, axes, **over):
            batch = moments(x, axes, **over)
            shrink = lax.stop_gradient(batch.shrink)  # a constant, whose square underflows
            limit = largest * shrink
            return jnp.clip(centre(x, batch), -limit, limit) / shrink + bias, batch

        def by_running(x):
            centred = (to_float32(x) - running.mean) - running.mean_lo
            return jnp.clip(centred, -largest, largest) + bias

        mask = fit_mask(mask, x.shape)
        return self.normalize_by_either(x, mask, train, running, by_batch, by_running, LEAVES)
