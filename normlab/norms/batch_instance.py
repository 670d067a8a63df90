"""Batch-instance normalization: a learned gate per channel between batch and instance norm."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from normlab.norms.plain import affine, name_of, parameter, refuse_one_value
from normlab.norms.running import RunningNorm
from normlab.statistics.averages import normalize_by
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import per_channel
from normlab.statistics.normalize import normalize, scale_and_shift


class BatchInstanceNorm(RunningNorm):
    """y = scale * (rho * x_batch + (1 - rho) * x_instance) + bias, x normalized over N, H, W and
    over H, W; rho in [0, 1] per channel.

    A dense input [N, C] has no instance statistics: batch norm, without rho.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias`, `rho` [C], rho starting at 1.
    State: RunningNorm's, options too, of the batch statistics. Evaluation uses the running ones,
    and the instance statistics of its own input.
    Raises ValueError where BatchNorm does, and where an instance has one value.
    Source: arXiv:1805.07925, section 3. Deviation: rho is clipped where it is used, and its
    gradient is that at the clipped value, which brings a rho outside [0, 1] back. The paper clips
    the parameter after every update.

    >>> import jax
    >>> layer = BatchInstanceNorm()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 2, 2, 3)), train=True)
    >>> variables["params"]["rho"].tolist()
    [1.0, 1.0, 1.0]
    """

    def parameters(self, x):
        space, channels = axes_of(("H", "W"), x.ndim), x.shape[-1]
        if not space:
            if self.has_variable("params", "rho"):
                raise ValueError(
                    f"{name_of(self)}: an input of shape {x.shape} has no space to average over, "
                    "that of initializing had; write an image or a sequence as x[None]"
                )
            return *affine(self, channels), None
        self.refuse_one_image(x.ndim)
        refuse_one_value(self, x.shape, space)
        rho = parameter(self, "rho", 1, channels)
        clipped = jnp.clip(lax.stop_gradient(rho), 0, 1) + (rho - lax.stop_gradient(rho))
        return *affine(self, channels), clipped

    def gate(self, x_batch, x, mask, first, parameters):
        """Return y; the axes of space begin at `first`."""
        scale, bias, rho = parameters
        if rho is None:
            return scale_and_shift(x_batch, scale, bias)
        space = tuple(range(first, x.ndim - 1))
        x_instance, _ = normalize(x, space, epsilon=self.epsilon, mask=mask)
        rho = per_channel(rho, x.ndim)
        return scale_and_shift(rho * x_batch + (1 - rho) * x_instance, scale, bias)

    def from_batch(self, x, axes, running, parameters, **options):
        x_batch, batch = normalize(x, axes, epsilon=self.epsilon, **options)
        return self.gate(x_batch, x, options["mask"], 2, parameters), batch

    def from_running(self, x, mask, running, parameters):
        return self.gate(normalize_by(x, running, self.epsilon), x, mask, 1, parameters)
