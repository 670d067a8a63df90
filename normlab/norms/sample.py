"""Norms whose statistics never leave one example: layer, instance and RMS normalization."""

from __future__ import annotations

import jax

from normlab.norms.plain import Scheme, bias_of, refuse_one_value, scale_of
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import Mask
from normlab.statistics.normalize import normalize


class SampleNorm(Scheme):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias, mean and var over `over` per example.

    over = H, W, C: layer norm of an image; C: layer norm as in transformers; H, W: instance norm.
    With `centered` False, mean is 0 and var the mean square: y = scale * x / sqrt(E[x^2] + epsilon)
    (RMS norm, which has no bias).
    Shapes: x [N, ..., C] -> the same; parameters [C]. State: none; training and evaluation agree.
    Raises ValueError where a statistic would be made of one value.
    Source: arXiv:1607.06450 (layer), 1607.08022 (instance), 1910.07467 (RMS). Deviations: layer
    norm's scale and bias are per channel, not per element of H, W, C; RMS norm adds epsilon.

    >>> x = jax.numpy.array([[1.0, 3.0]])
    >>> y, _ = SampleNorm(over=("C",), epsilon=0.0).init_with_output(jax.random.key(0), x)
    >>> y.tolist()
    [[-1.0, 1.0]]
    """

    over: tuple[str, ...]
    epsilon: float = 1e-5
    centered: bool = True
    use_bias: bool = True
    allow_degenerate: bool = False

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        axes = axes_of(tuple(a for a in self.over if a != "C"), x.ndim)
        groups = 1 if "C" in self.over else 0
        refuse_one_value(self, x.shape, axes, groups)
        y, _ = normalize(
            x,
            axes,
            groups=groups,
            epsilon=self.epsilon,
            scale=scale_of(self, x.shape[-1]),
            bias=bias_of(self, x.shape[-1]) if self.use_bias else None,
            mask=mask,
            centered=self.centered,
        )
        return y
