"""Kernels under weight or spectral norm, as the schemes of normlab.layers.reparam keep them."""

from __future__ import annotations

from typing import Any

import numpy as np

from normlab.norms.convert.variables import Leaves

TOLERANCE = 1e-5
"""Largest relative difference between both libraries' largest singular values."""


def leaves_of_kernel(
    name: str, weight: Any, bias: Any, *, gain: Any = None, u: Any = None, v: Any = None
) -> Leaves:
    """Return the variables of a dense layer or convolution under a kernel scheme.

    weight [out, in, ...] -> kernel [..., in, out]; bias [out], zeros if None. `gain` [out, 1, ...]
    is that of a weight norm, `u` [out] and `v` [in * ...] are the vectors of a spectral norm.
    Raises ValueError for a gain per tensor or per input, and where |W'u| is not u'Wv. Ours divides
    by the first, the other libraries by the second. They agree after enough iterations.
    """
    weight = np.asarray(weight, np.float64)
    bias = np.zeros(weight.shape[:1]) if bias is None else np.asarray(bias).reshape(-1)
    outputs, count = weight.shape[:1], (*weight.shape[:1], *(1 for _ in weight.shape[1:]))
    if weight.ndim < 2 or bias.shape != outputs or (u is not None and u.shape != outputs):
        raise ValueError(
            f"{name}: the first axis of its weight {weight.shape} does not hold the output "
            "channels; remove the reparametrization before the conversion"
        )
    kernel = np.moveaxis(weight, (0, 1), (-1, -2))
    params = {"kernel": np.array(kernel, np.float32), "bias": np.array(bias, np.float32)}
    if u is None:
        if np.shape(gain) != count:
            raise ValueError(
                f"{name}: a weight norm with gains of shape {np.shape(gain)}, but ours has one for "
                f"each output channel, {count}; remove it before the conversion"
            )
        return {"params": params | {"reparam.gain": np.array(gain, np.float32).reshape(-1)}}
    flat = weight.reshape(len(weight), -1)
    ours, theirs = np.linalg.norm(u @ flat), u @ flat @ v
    if not abs(ours - theirs) <= TOLERANCE * ours:
        raise ValueError(
            f"{name}: the vectors of its spectral norm give {theirs:.6g}, half an iteration more "
            f"{ours:.6g}; run some forward passes in training mode first, or remove it"
        )
    state = {"reparam.u": np.array(u / np.linalg.norm(u), np.float32)}
    return {"params": params, "norm_state": state}
