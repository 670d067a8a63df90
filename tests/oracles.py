"""The papers' equations in float64 NumPy, independent of the code under test: training mode, at the
first step, with scale 1 and bias 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Oracle = Callable[..., np.ndarray]
"""(x float64 [N, ..., C], epsilon, groups) -> y of the same shape."""


def standardize(x: np.ndarray, axes, epsilon: float) -> np.ndarray:
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    centred = centred - centred.mean(axes, keepdims=True)  # what rounding the mean lost
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + epsilon)


def batch(x, epsilon, groups):
    return standardize(x, tuple(range(x.ndim - 1)), epsilon)


def layer(x, epsilon, groups):
    return standardize(x, tuple(range(1, x.ndim)), epsilon)


def layer_channels(x, epsilon, groups):
    return standardize(x, (-1,), epsilon)


def instance(x, epsilon, groups):
    return standardize(x, tuple(range(1, x.ndim - 1)), epsilon)


def group(x, epsilon, groups):
    split = x.reshape(*x.shape[:-1], groups, -1)
    return standardize(split, (*range(1, x.ndim - 1), x.ndim), epsilon).reshape(x.shape)


def rms(x, epsilon, groups):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def frn(x, epsilon, groups):
    return x / np.sqrt((x**2).mean(tuple(range(1, x.ndim - 1)), keepdims=True) + epsilon)


def evonorm_b0(x, epsilon, groups):
    batch_var = x.var(tuple(range(x.ndim - 1)), keepdims=True)
    space_var = x.var(tuple(range(1, x.ndim - 1)), keepdims=True)
    return x / np.maximum(np.sqrt(batch_var + epsilon), x + np.sqrt(space_var + epsilon))


def evonorm_s0(x, epsilon, groups):
    split = x.reshape(*x.shape[:-1], groups, -1)
    var = split.var((*range(1, x.ndim - 1), x.ndim), keepdims=True)
    return (split / (1 + np.exp(-split)) / np.sqrt(var + epsilon)).reshape(x.shape)


def local_response(x, epsilon, groups, size=5, alpha=1e-4, beta=0.75, k=1.0):
    near = [range(c - size // 2, c + (size - 1) // 2 + 1) for c in range(x.shape[-1])]
    legal = [[i for i in window if 0 <= i < x.shape[-1]] for window in near]
    sums = np.stack([(x[..., window] ** 2).sum(-1) for window in legal], -1)
    return x / (k + alpha / size * sums) ** beta


def mean_only(x, epsilon, groups):
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    return centred - centred.mean(axes)  # what rounding the mean lost


def l1(x, epsilon, groups):
    centred = mean_only(x, epsilon, groups)
    s = np.sqrt(np.pi / 2) * np.abs(centred).mean(tuple(range(x.ndim - 1)))
    return centred / np.sqrt(s**2 + epsilon)


def switchable(x, epsilon, groups):
    """With equal weights, as at the start."""
    kinds = [range(1, x.ndim - 1), range(1, x.ndim), range(x.ndim - 1)]
    kinds = [tuple(axes) for axes in kinds if len(axes)]
    x = x - x.mean()  # the constant is in every mean
    mean = sum(x.mean(axes, keepdims=True) for axes in kinds) / len(kinds)
    var = sum(x.var(axes, keepdims=True) for axes in kinds) / len(kinds)
    return (x - mean) / np.sqrt(var + epsilon)


ORACLES: dict[str, Oracle] = {
    "none": lambda x, epsilon, groups: x,
    "affine": lambda x, epsilon, groups: x,
    "batch": batch,
    "batch_renorm": batch,
    "mean_only_batch": mean_only,
    "l1_batch": l1,
    "switchable": switchable,
    "batch_instance": batch,
    "layer": layer,
    "layer_channels": layer_channels,
    "instance": instance,
    "group": group,
    "rms": rms,
    "frn": frn,
    "evonorm_b0": evonorm_b0,
    "evonorm_s0": evonorm_s0,
    "dynamic_tanh": lambda x, epsilon, groups: np.tanh(0.5 * x),
    "dynamic_erf": lambda x, epsilon, groups: np.vectorize(math.erf)(0.5 * x),
    "global_response": lambda x, epsilon, groups: x,
    "unit": lambda x, epsilon, groups: x / np.sqrt((x**2).sum(-1, keepdims=True) + epsilon),
    "local_response": local_response,
}
