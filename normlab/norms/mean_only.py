"""Mean-only batch normalization: centred over the batch, never scaled."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from normlab.norms.plain import bias_of
from normlab.norms.running import RunningNorm
from normlab.statistics.averages import centre_by
from normlab.statistics.moments import centre, moments
from normlab.statistics.normalize import scale_and_shift


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

    >>> import jax
    >>> layer = MeanOnlyBatchNorm()
    >>> x = jax.numpy.array([[1.0], [3.0]])
    >>> layer.init_with_output(jax.random.key(0), x, train=True)[0].tolist()
    [[-1.0], [1.0]]
    """

    leaves = ("mean", "mean_lo")

    def parameters(self, x):
        return bias_of(self, x.shape[-1])

    def from_batch(self, x, axes, running, parameters, **options):
        batch = moments(x, axes, **options)
        shrink = lax.stop_gradient(batch.shrink)  # a constant, whose square underflows
        limit = float(jnp.finfo(x.dtype).max) * shrink
        y = jnp.clip(centre(x, batch), -limit, limit) / shrink
        return scale_and_shift(y, None, parameters), batch

    def from_running(self, x, mask, running, parameters):
        limit = float(jnp.finfo(x.dtype).max)
        y = jnp.clip(centre_by(x, running), -limit, limit)
        return scale_and_shift(y, None, parameters)
