"""Batch renormalization: batch norm that is drawn to its running statistics while it trains."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normlab.norms.plain import name_of
from normlab.norms.running import RunningNorm
from normlab.statistics.averages import Average
from normlab.statistics.moments import Moments, per_channel, std
from normlab.statistics.normalize import normalize, scale_and_shift

START, D_REACHED = 1 / 8, 5 / 8
"""Where in `renorm_steps` the limits begin to open, and where d_max is reached (5000 and 25000 of
the paper's 40000 steps)."""


class BatchRenorm(RunningNorm):
    """y = scale * (x_hat * r + d) + bias, x_hat = (x - mean_B) / std_B with the batch's statistics.

    r = std_B / std is clipped to [1 / r_max, r_max], d = (mean_B - mean) / std to [-d_max, d_max].
    The running mean and std are those before this step's update; every std includes epsilon.
    Neither r nor d carries a gradient. Between the limits y is what evaluation gives. Each group of
    examples (stats_batch) has its own r and d.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C].
    State: RunningNorm's, options too; `count` is always kept. Evaluation as in BatchNorm.
    renorm_steps: T, the updates until the limits are `r_max` and `d_max`. They are 1 and 0 until
    T / 8 and grow linearly: d_max is reached at 5 T / 8, r_max at T. The paper has T = 40000. With
    T = 0 they are open from the first step. With r_max = 1, d_max = 0 it is BatchNorm.
    Raises ValueError for r_max < 1, d_max < 0 or renorm_steps < 0, and where BatchNorm does.
    Source: arXiv:1702.03275, algorithm 1 and section 4.2. Deviation: the running variance is
    averaged, as in batch norm; the paper averages the running std.

    >>> layer = BatchRenorm()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 3)), train=True)
    >>> int(variables["norm_state"]["count"])
    0
    """

    renorm_steps: int = 100
    r_max: float = 3.0
    d_max: float = 5.0

    counts = True

    def limits(self, dtype: Any = jnp.float32) -> tuple[float | jax.Array, float | jax.Array]:
        """Return r_max and d_max at this step, by the number of updates before it."""
        for option, value, low in (
            ("renorm_steps", self.renorm_steps, 0),
            ("r_max", self.r_max, 1),
            ("d_max", self.d_max, 0),
        ):
            if value < low:
                message = f"{option} {value} is below {low}, its least value"
                raise ValueError(f"{name_of(self)}: {message}")
        if not self.renorm_steps:
            return self.r_max, self.d_max
        time = self.updates().astype(dtype) / self.renorm_steps - START
        r, d = (jnp.clip(time / (end - START), 0, 1) for end in (1, D_REACHED))
        return 1 + (self.r_max - 1) * r, self.d_max * d

    def corrections(self, running: Average, batch: Moments) -> tuple[jax.Array, jax.Array]:
        """Return r and d of a batch, in the shape of its moments."""
        r_max, d_max = self.limits(batch.var.dtype)
        mean, mean_lo, var = (per_channel(leaf, batch.var.ndim) for leaf in running)
        inverse = lax.rsqrt(var + self.epsilon)
        r = std(batch, self.epsilon) * inverse
        # as pairs: at a mean of 1e6 the rounded means alone would differ by 0.06
        apart = batch.shift / batch.shrink - mean
        d = (apart + (batch.delta / batch.shrink - mean_lo)) * inverse
        r, d = jnp.clip(r, 1 / r_max, r_max), jnp.clip(d, -d_max, d_max)
        return lax.stop_gradient(r), lax.stop_gradient(d)

    def from_batch(self, x, axes, running, parameters, **options):
        scale, bias = parameters
        hat, batch = normalize(x, axes, epsilon=self.epsilon, **options)
        r, d = self.corrections(running, batch)
        return scale_and_shift(hat * r + d, scale, bias), batch
