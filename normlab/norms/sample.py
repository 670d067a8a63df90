"""Norms whose statistics never leave one example: layer, instance and RMS normalization."""

from __future__ import annotations

from typing import Any

import jax

from normlab.norms.plain import Scheme, affine, refuse_one_value
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import Mask
from normlab.statistics.normalize import normalize


class SampleNorm(Scheme):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias, mean and var over `over` per example.

    over = H, W, C: layer norm of an image; C: layer norm as in transformers; H, W: instance norm.
    With `centered` False, mean is 0 and var the mean square: y = scale * x / sqrt(E[x^2] + epsilon)
    (RMS norm, which has no bias).
    Shapes: x [N, ..., C] -> the same; parameters [C], or with `per_element` one for each value of
    an example, [..., C]. State: none; training and evaluation agree.
    channels_along: the axis name along which the channels are split; statistics are over all.
    Raises ValueError where a statistic would be made of one value.
    Source: arXiv:1607.06450 (layer), 1607.08022 (instance), 1910.07467 (RMS). Deviations: layer
    norm's scale and bias are per channel unless `per_element` is set; RMS norm adds epsilon.

    >>> x = jax.numpy.array([[1.0, 3.0]])
    >>> y, _ = SampleNorm(over=("C",), epsilon=0.0).init_with_output(jax.random.key(0), x)
    >>> y.tolist()
    [[-1.0, 1.0]]
    """

    over: tuple[str, ...]
    epsilon: float = 1e-5
    centered: bool = True
    allow_degenerate: bool = False
    per_element: bool = False
    channels_along: Any = None

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        axes = axes_of(tuple(a for a in self.over if a != "C"), x.ndim)
        groups = 1 if "C" in self.over else 0
        along = None if self.is_initializing() else self.channels_along
        refuse_one_value(self, x.shape, axes, groups, axis_name=along)
        scale, bias = affine(self, *(x.shape[1:] if self.per_element else x.shape[-1:]))
        y, _ = normalize(
            x,
            axes,
            groups=groups,
            epsilon=self.epsilon,
            scale=scale,
            bias=bias,
            mask=mask,
            centered=self.centered,
            axis_name=along,
        )
        return y
