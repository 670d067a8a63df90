"""A kernel scheme around any Flax Linen layer with a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.lib.array_utils import normalize_axis_tuple

from normlab.layers.linear import kernel_scheme
from normlab.statistics.moments import to_float32


class KernelNorm(nn.Module):
    """y = layer(x) with what `scheme` puts in the place of the layer's kernel.

    layer: nn.Dense, nn.Conv (any dimensions, groups, dilation), nn.ConvTranspose, nn.DenseGeneral,
    nn.Einsum, nn.Embed (kernel="embedding"), or a layer of your own whose parameters are all its
    own. Its name is not used.
    scheme: a row of KERNELS, such as "weight_norm". act: the activation before the layer, which
    "scaled_standardize" asks for.
    kernel: the name of the parameter. axis: its axes of output units; all others are the fan-in.
    The default suits Dense, Conv and Embed (a unit is a feature). Others: -2 for ConvTranspose with
    transpose_kernel, (-2, -1) for DenseGeneral with two features, 0 for the rows of Embed.
    start: of weight norm, see WeightNorm. "data" needs outputs whose last axes are the units; a
    layer without `bias` starts with variance 1 only.

    Shapes: those of the layer. Parameters: the layer's, under the name of this module, with the
    bits they have without it. Those of the scheme are under `reparam`, of shape [C] for C units.
    State: the scheme's, collection `norm_state`, under `reparam`. train: whether it moves; None:
    where the collection is mutable. Other arguments go to the layer.
    Schemes compute in float32 or wider; the layer gets the kernel in the type of its parameter.
    Raises ValueError for a kernel that the layer does not have, and for a start from outputs whose
    last axes are not the units.
    Source: as in `nn.WeightNorm` and `nn.SpectralNorm`, for all schemes of the table.
    Deviation: these name their parameters by path, move `u` by update_stats, and start gains at 1.

    >>> layer = KernelNorm(nn.Conv(8, (3,), feature_group_count=2), "standardize")
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 4)))
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'bias': (8,), 'kernel': (3, 2, 8)}}
    """

    layer: nn.Module
    scheme: str
    act: Callable[[jax.Array], jax.Array] = jax.nn.relu
    kernel: str = "kernel"
    axis: int | tuple[int, ...] = -1
    start: str = "data"

    @nn.compact
    def __call__(self, x: Any, train: bool | None = None, **arguments: Any) -> Any:
        if not self.has_variable("params", self.kernel):
            self.layer.clone(parent=self.scope)(x, **arguments)  # draws the parameters, here
        params = nn.meta.unbox(dict(self.variables.get("params", {})))
        params.pop("reparam", None)
        plain = self.layer.clone(parent=None)
        reparam = kernel_scheme(self.scheme, self.act, self.start)
        if reparam is not None:
            v = self.parameter(params)
            units, nothing = Units.of(v.shape, self.axis), jax.tree.map(jnp.zeros_like, params)

            def respond(w: jax.Array) -> jax.Array:
                given = nothing | {self.kernel: units.back(w).astype(v.dtype)}
                t: Any = plain.apply({"params": given}, x, **arguments)
                return units.of_output(t)

            w, first_bias = reparam(name="reparam")(units.last(to_float32(v)), respond, train)
            params[self.kernel] = units.back(w).astype(v.dtype)
            if first_bias is not None and "bias" in params:
                params["bias"] = self.start_bias(first_bias, params["bias"])
        return plain.apply({"params": params}, x, **arguments)

    def parameter(self, params: dict[str, Any]) -> jax.Array:
        """Return the parameter that the scheme acts on."""
        if self.kernel not in params:
            raise ValueError(
                f"{self.name or 'KernelNorm'}: the layer has no parameter {self.kernel!r}; give "
                f"one of {', '.join(params)} as `kernel`"
            )
        return params[self.kernel]

    def start_bias(self, first: jax.Array, bias: jax.Array) -> jax.Array:
        """Return `first` [C] in the shape of the layer's bias, which now starts there."""
        first = jnp.broadcast_to(first.reshape(bias.shape) if first.size > 1 else first, bias.shape)
        first = first.astype(bias.dtype)
        boxed = nn.meta.replace_boxed(self.get_variable("params", "bias"), first)
        self.put_variable("params", "bias", boxed)
        return first


class Units(NamedTuple):
    """The axes of a kernel in the order that schemes expect: fan-in, then output units."""

    order: tuple[int, ...]
    shape: tuple[int, ...]
    """Lengths in this order."""
    axes: int
    """How many of them, the last ones, are units."""

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int | tuple[int, ...]) -> Units:
        """Return the axes of a kernel of this shape whose units are those of `axis`."""
        axes = sorted(normalize_axis_tuple(axis, len(shape), "axis"))
        order = tuple(i for i in range(len(shape)) if i not in axes) + tuple(axes)
        return cls(order, tuple(shape[i] for i in order), len(axes))

    def last(self, kernel: jax.Array) -> jax.Array:
        """Return the kernel as [fan-in..., C]."""
        return flat(kernel.transpose(self.order), self.axes)

    def back(self, w: jax.Array) -> jax.Array:
        """Return w [fan-in..., C] in the axes of the kernel."""
        return w.reshape(self.shape).transpose(np.argsort(self.order))

    def of_output(self, t: jax.Array) -> jax.Array:
        """Return an output of the layer as [N, ..., C]; raises ValueError."""
        units = self.shape[len(self.shape) - self.axes :]
        if t.shape[t.ndim - self.axes :] != units:
            raise ValueError(
                f"weight norm cannot start from outputs of shape {t.shape}, whose last axes are "
                f"not the units of shape {units}; use start='norm' or another axis"
            )
        return flat(t, self.axes)


def flat(x: jax.Array, count: int) -> jax.Array:
    """Return x with its last `count` axes in one."""
    kept = x.shape[: x.ndim - count]
    return x.reshape(*kept, math.prod(x.shape[len(kept) :]))
