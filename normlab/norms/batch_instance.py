"""Batch-instance normalization: a learned gate per channel between batch and instance norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normlab.norms.plain import affine
from normlab.norms.running import RunningNorm
from normlab.statistics.averages import normalize_by
from normlab.statistics.axes import axes_of, refuse_degenerate
from normlab.statistics.moments import fit_mask, normalize


class BatchInstanceNorm(RunningNorm):
    """y = scale * (rho * x_batch + (1 - rho) * x_instance) + bias, x normalized over N, H, W and
    over H, W; rho in [0, 1] per channel.

    A dense input [N, C] has no instance statistics: batch norm, without rho.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias`, `rho` [C], rho starting at 1.
    State: RunningNorm's, options too, of the batch statistics. Evaluation uses the running ones,
    and the instance statistics of its own input.
    Raises ValueError where BatchNorm does, and where an instance has one value.
    Source: arXiv:1805.07925, section 3. Deviation: rho is clipped where it is used, with the
    gradient at the clipped value, which brings a rho outside [0, 1] back; the paper clips the
    parameter after every update.

    >>> layer = BatchInstanceNorm()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 2, 2, 3)), train=True)
    >>> variables["params"]["rho"].tolist()
    [1.0, 1.0, 1.0]
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        mask = fit_mask(mask, x.shape)
        space, channels = axes_of(("H", "W"), x.ndim), x.shape[-1]
        scale, bias = affine(self, channels)
        running, rho = self.running(channels), None
        if space:
            if not self.allow_degenerate:
                refuse_degenerate(self.name or type(self).__name__, x.shape, space)
            rho = self.param("rho", nn.initializers.ones, (channels,))
            rho = jnp.clip(lax.stop_gradient(rho), 0, 1) + (rho - lax.stop_gradient(rho))

        def gate(x_batch, x, mask, lead):
            if rho is None:
                return x_batch * scale + bias
            axes = tuple(range(lead, x.ndim - 1))
            x_instance, _ = normalize(x, axes, epsilon=self.epsilon, mask=mask)
            return (rho * x_batch + (1 - rho) * x_instance) * scale + bias

        def by_batch(x, axes, mask, axis_name):
            over = {"mask": mask, "axis_name": axis_name}
            x_batch, batch = normalize(x, axes, epsilon=self.epsilon, **over)
            return gate(x_batch, x, mask, lead=2), batch

        def by_running(x):
            return gate(normalize_by(x, running, self.epsilon), x, mask, lead=1)

        return self.normalize_by_either(x, mask, train, running, by_batch, by_running)
