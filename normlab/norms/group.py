"""Group normalization: per example, over space and a group of channels."""

from __future__ import annotations

from typing import Any

import jax

from normlab.norms.plain import Scheme, affine, name_of, refuse_one_value
from normlab.statistics.along import Groups, axis_size
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
    channels_along: the axis name along which the channels are split in order. G counts the groups
    of all of them. A group may be larger than a part.
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
    channels_along: Any = None

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        axes = axes_of(("H", "W"), x.ndim)
        groups, along = self.split_groups(x.shape[-1])
        refuse_one_value(self, x.shape, axes, groups, axis_name=along)
        scale, bias = affine(self, x.shape[-1])
        split = x.shape
        if not axes:  # nothing to sum before the channels, so no statistic is kept for each of them
            split, groups = (x.shape[0], groups, x.shape[-1] // groups), 1
            scale, bias = (v if v is None else v.reshape(split[1:]) for v in (scale, bias))
        y, _ = normalize(
            x.reshape(split),
            axes,
            groups=groups,
            epsilon=self.epsilon,
            scale=scale,
            bias=bias,
            mask=mask if mask is None else mask.reshape(split),
            axis_name=along,
        )
        return y.reshape(x.shape)

    def split_groups(self, channels: int) -> tuple[int, Any]:
        """Return the number of groups here, and the axis name of its other parts, if any."""
        if self.channels_along is None:
            return count_groups(self, channels), None
        if self.is_initializing():  # which may happen outside of the axis
            return 1, None
        parts = axis_size(self.channels_along)
        groups = count_groups(self, channels * parts)
        if groups % parts == 0:
            return groups // parts, None
        if parts % groups:
            raise ValueError(
                f"{name_of(self)}: {groups} groups and {parts} parts of the channels along "
                f"{self.channels_along!r}: neither divides the other; use another number of groups"
            )
        each = parts // groups
        members = tuple(tuple(range(g, g + each)) for g in range(0, parts, each))
        return 1, Groups(self.channels_along, members)
