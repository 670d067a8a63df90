"""Group normalization: per example, over space and a group of channels."""

from __future__ import annotations

import jax
from flax import linen as nn

from normlab.norms.plain import affine
from normlab.statistics.axes import axes_of, refuse_degenerate
from normlab.statistics.moments import fit_mask, normalize


def count_groups(name: str, channels: int, groups: int, group_size: int = 0) -> int:
    """Return the number of groups; raises ValueError where they do not divide the channels."""
    option, value = ("group_size", group_size) if group_size else ("groups", groups)
    if value < 1 or channels % value:
        legal = [g for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(
            f"{name}: {option} {value} does not divide C = {channels}; use one of {legal}"
        )
    return channels // group_size if group_size else groups


class GroupNorm(nn.Module):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias over H, W and C / G channels per example.

    Shapes: x [N, ..., C] -> the same, seen as [N, ..., G, C / G]; parameters [C].
    State: none; training and evaluation agree. G = 1 is layer norm over H, W, C, G = C instance
    norm. `group_size` > 0 gives C / G instead of G.
    Raises ValueError where G does not divide C, or a statistic would be made of one value.
    Source: arXiv:1803.08494, section 3. Deviation: none.

    >>> x = jax.numpy.arange(8.0).reshape(1, 8)
    >>> y, _ = GroupNorm(groups=4).init_with_output(jax.random.key(0), x)
    >>> y.round(2).tolist()
    [[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]
    """

    groups: int = 4
    group_size: int = 0
    epsilon: float = 1e-5
    allow_degenerate: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        del train
        name, axes = self.name or "GroupNorm", axes_of(("H", "W"), x.ndim)
        groups = count_groups(name, x.shape[-1], self.groups, self.group_size)
        if not self.allow_degenerate:
            refuse_degenerate(name, x.shape, axes, groups)
        scale, bias = affine(self, x.shape[-1])
        mask = fit_mask(mask, x.shape)
        split = x.shape
        if not axes:  # nothing to sum before the channels, so no statistic is kept for each of them
            split, groups = (len(x), groups, x.shape[-1] // groups), 1
        y, _ = normalize(
            x.reshape(split),
            axes,
            groups=groups,
            epsilon=self.epsilon,
            scale=scale.reshape(split[1:]) if not axes else scale,
            bias=bias.reshape(split[1:]) if not axes else bias,
            mask=mask if mask is None else mask.reshape(split),
        )
        return y.reshape(x.shape).astype(x.dtype)
