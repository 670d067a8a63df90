"""Group normalization: per example, over space and a group of channels."""

from __future__ import annotations

from typing import Any

import jax

from normlab.norms.plain import Scheme, affine, name_of, refuse_one_value
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import Mask
from normlab.statistics.normalize import normalize


def count_groups(layer: Any, channels: int) -> int:
    """Return the number of groups of a layer with the fields `groups` and `group_size`; raises
    ValueError where they do not divide the channels."""
    option = "group_size" if layer.group_size else "groups"
    value = layer.group_size or layer.groups
    if value < 1 or channels % value:
        legal = [g for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(
            f"{name_of(layer)}: {option} {value} does not divide C = {channels}; use one of {legal}"
        )
    return channels // value if layer.group_size else value


class GroupNorm(Scheme):
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

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        axes, groups = axes_of(("H", "W"), x.ndim), count_groups(self, x.shape[-1])
        refuse_one_value(self, x.shape, axes, groups)
        scale, bias = affine(self, x.shape[-1])
        split = x.shape
        if not axes:  # nothing to sum before the channels, so no statistic is kept for each of them
            split, groups = (x.shape[0], groups, x.shape[-1] // groups), 1
        y, _ = normalize(
            x.reshape(split),
            axes,
            groups=groups,
            epsilon=self.epsilon,
            scale=scale.reshape(split[1:]) if not axes else scale,
            bias=bias.reshape(split[1:]) if not axes else bias,
            mask=mask if mask is None else mask.reshape(split),
        )
        return y.reshape(x.shape)
