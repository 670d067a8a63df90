"""Group normalization: per example, over space and a group of channels."""

from __future__ import annotations

import jax
from flax import linen as nn

from normlab.axes import axes_of
from normlab.moments import normalize, refuse_degenerate
from normlab.norms.plain import scale_and_bias


class GroupNorm(nn.Module):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias over H, W and C / G channels per example.

    Shapes: x [N, ..., C] -> the same, seen as [N, ..., G, C / G]; parameters [C].
    State: none; training and evaluation agree. G = 1 is layer norm over H, W, C, G = C instance
    norm. Raises ValueError where G does not divide C, or a statistic would be made of one value.
    Source: arXiv:1803.08494, section 3. Deviation: none.

    >>> x = jax.numpy.arange(8.0).reshape(1, 8)
    >>> y, _ = GroupNorm(groups=4).init_with_output(jax.random.key(0), x)
    >>> y.round(2).tolist()
    [[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]
    """

    groups: int = 4
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train
        channels = x.shape[-1]
        if channels % self.groups:
            legal = [g for g in range(1, channels + 1) if channels % g == 0]
            raise ValueError(
                f"{self.name}: groups {self.groups} does not divide C = {channels}; "
                f"use one of {legal}"
            )
        axes = axes_of(("H", "W"), x.ndim)
        refuse_degenerate(self.name or "GroupNorm", x.shape, axes, self.groups)
        y, _ = normalize(x, axes, groups=self.groups, epsilon=self.epsilon, mask=mask)
        return scale_and_bias(self, y).astype(x.dtype)
