"""The papers' equations in float64 NumPy, independent of the code under test.

An oracle takes x [N, ..., C] and returns y in training mode: parameters `p` (those left out are at
their start), mask `valid`, and for evaluation `running`, the mean and variance [C] in the place of
those of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

erf = np.vectorize(math.erf)


@dataclass
class Input:
    """What an oracle is given; a statistic counts the valid values alone."""

    x: np.ndarray
    p: Mapping[str, Any] = field(default_factory=dict)
    epsilon: float = 1e-5
    groups: int = 1
    valid: Any = True
    running: tuple[Any, Any] | None = None

    def __post_init__(self):
        self.x = np.asarray(self.x, np.float64)
        self.p = {k: np.asarray(v, np.float64) for k, v in self.p.items()}
        self.valid = np.broadcast_to(self.valid, self.x.shape)

    def axes(self, letters: str) -> tuple[int, ...]:
        places = {"N": (0,), "S": range(1, self.x.ndim - 1), "C": (self.x.ndim - 1,)}
        return tuple(axis for letter in letters for axis in places[letter])

    def mean(self, values: np.ndarray, letters: str) -> np.ndarray:
        axes = self.axes(letters)
        n = np.maximum(self.valid.sum(axes, keepdims=True), 1)
        return np.where(self.valid, values, 0).sum(axes, keepdims=True) / n

    def moments(self, letters: str) -> tuple[Any, Any]:
        """Mean and biased variance; the running ones where there are such for N and space."""
        if letters == "NS" and self.running is not None:
            return self.running
        mean = self.mean(self.x, letters)
        mean = mean + self.mean(self.x - mean, letters)  # what rounding the mean lost
        return mean, self.mean((self.x - mean) ** 2, letters)

    def standardized(self, letters: str) -> np.ndarray:
        mean, var = self.moments(letters)
        return (self.x - mean) / np.sqrt(var + self.epsilon)

    def std(self, letters: str) -> np.ndarray:
        return np.sqrt(self.moments(letters)[1] + self.epsilon)

    def by_group(self) -> Input:
        """The same with the channels of a group last and the groups beside the examples."""
        split = (*self.x.shape[:-1], self.groups, -1)
        x, valid = (np.moveaxis(v.reshape(split), -2, 1) for v in (self.x, self.valid))
        flat = (-1, *x.shape[2:])
        return Input(x.reshape(flat), {}, self.epsilon, 1, valid.reshape(flat))

    def from_groups(self, y: np.ndarray) -> np.ndarray:
        y = y.reshape(len(self.x), self.groups, *self.x.shape[1:-1], -1)
        return np.moveaxis(y, 1, -2).reshape(self.x.shape)


def l1(i: Input) -> np.ndarray:
    if i.running is not None:
        return i.standardized("NS")
    return (i.x - i.moments("NS")[0]) / np.sqrt(l1_square(i) + i.epsilon)


def l1_square(i: Input) -> np.ndarray:
    """What stands for the variance: the square of sqrt(pi / 2) times the mean deviation."""
    return np.pi / 2 * i.mean(np.abs(i.x - i.moments("NS")[0]), "NS") ** 2


def switchable(i: Input) -> np.ndarray:
    kinds = ["S", "SC", "NS"] if i.x.ndim > 2 else ["C", "NS"]
    m, v = (np.exp(i.p.get(f"{w}_weight", np.zeros(len(kinds)))) for w in ("mean", "var"))
    stats = [i.moments(kind) for kind in kinds]
    origin = stats[0][0]  # no large mean is multiplied
    mean = sum(w * (s[0] - origin) for w, s in zip(m / m.sum(), stats, strict=True))
    var = sum(w * s[1] for w, s in zip(v / v.sum(), stats, strict=True))
    return (i.x - origin - mean) / np.sqrt(var + i.epsilon)


def batch_instance(i: Input) -> np.ndarray:
    rho = np.clip(i.p.get("rho", 1.0), 0, 1)
    if i.x.ndim == 2:
        return i.standardized("NS")
    return rho * i.standardized("NS") + (1 - rho) * i.standardized("S")


def evonorm_b0(i: Input) -> np.ndarray:
    return i.x / np.maximum(i.std("NS"), i.p.get("v", 1.0) * i.x + i.std("S"))


def evonorm_s0(i: Input) -> np.ndarray:
    split = i.by_group()
    gate = np.exp(np.minimum(i.p.get("v", 1.0) * i.x, 0))
    gate = gate / (1 + np.exp(-np.abs(i.p.get("v", 1.0) * i.x)))  # the sigmoid, without overflow
    return i.from_groups(split.x / split.std("SC")) * gate


def global_response(i: Input) -> np.ndarray:
    square = np.where(i.valid, i.x**2, 0).sum(i.axes("S"), keepdims=True)
    g, valid = np.sqrt(square), i.valid.any(i.axes("S"), keepdims=True)
    mean = (g * valid).sum(-1, keepdims=True) / np.maximum(valid.sum(-1, keepdims=True), 1)
    return i.p.get("response", 0.0) * i.x * (g / (mean + i.epsilon)) + i.x


def local_response(i: Input, size=5, alpha=1e-4, beta=0.75, k=1.0) -> np.ndarray:
    x, channels = np.where(i.valid, i.x, 0), i.x.shape[-1]
    near = [range(c - size // 2, c + (size - 1) // 2 + 1) for c in range(channels)]
    legal = [[j for j in window if 0 <= j < channels] for window in near]
    sums = np.stack([(x[..., window] ** 2).sum(-1) for window in legal], -1)
    return x / (k + alpha / size * sums) ** beta


def instance_running(i: Input) -> np.ndarray:
    return i.standardized("S" if i.running is None else "NS")


def power(i: Input) -> np.ndarray:
    """Training divides by the running mean square of before; it starts at 1."""
    return i.x / np.sqrt((1.0 if i.running is None else i.running[1]) + i.epsilon)


def power_slope(i: Input, cotangent: np.ndarray) -> np.ndarray:
    """The paper's approximation: what goes along x is taken out of g, per channel."""
    g = np.where(i.valid, cotangent * i.p.get("scale", 1.0), 0)
    along = i.mean(g * i.x, "NS") / (i.mean(i.x**2, "NS") + i.epsilon)
    return np.where(i.valid, (g - i.x * along) / np.sqrt(1 + i.epsilon), 0)


def by_rms(i: Input, letters: str) -> np.ndarray:
    return i.x / np.sqrt(i.mean(i.x**2, letters) + i.epsilon)


def unit(i: Input) -> np.ndarray:
    return i.x / np.sqrt(np.where(i.valid, i.x**2, 0).sum(-1, keepdims=True) + i.epsilon)


ORACLES: dict[str, Callable[[Input], np.ndarray]] = {
    "none": lambda i: i.x,
    "affine": lambda i: i.x,
    "batch": lambda i: i.standardized("NS"),
    "batch_renorm": lambda i: i.standardized("NS"),  # as it is before its limits open
    "mean_only_batch": lambda i: i.x - i.moments("NS")[0],
    "l1_batch": l1,
    "power": power,
    "switchable": switchable,
    "batch_instance": batch_instance,
    "layer": lambda i: i.standardized("SC"),
    "layer_channels": lambda i: i.standardized("C"),
    "instance": lambda i: i.standardized("S"),
    "instance_running": instance_running,
    "group": lambda i: i.from_groups(i.by_group().standardized("SC")),
    "rms": partial(by_rms, letters="C"),
    "frn": partial(by_rms, letters="S"),
    "evonorm_b0": evonorm_b0,
    "evonorm_s0": evonorm_s0,
    "dynamic_tanh": lambda i: np.tanh(i.p.get("alpha", 0.5) * i.x),
    "dynamic_erf": lambda i: erf(i.p.get("alpha", 0.5) * i.x + i.p.get("shift", 0.0)),
    "global_response": global_response,
    "unit": unit,
    "local_response": local_response,
}
"""Every row of NORMS -> its output before scale and bias."""


def oracle(name: str, x: Any, p: Any = (), **given: Any) -> np.ndarray:
    """Return y of the scheme `name` in float64, masked positions 0; arguments as in Input."""
    i = Input(x, dict(p), **given)
    y = ORACLES[name](i) * i.p.get("scale", 1.0) + i.p.get("bias", 0.0)
    return np.where(i.valid, y, 0)


def differences(value: Callable[[np.ndarray], float], at: Any, h: float = 1e-5) -> np.ndarray:
    """Return the gradient of a float64 function by central differences, entry after entry."""
    at = np.asarray(at, np.float64)
    units = h * np.eye(at.size).reshape(-1, *at.shape)
    return np.array([(value(at + u) - value(at - u)) / (2 * h) for u in units]).reshape(at.shape)


GAIN = math.sqrt(2) / math.sqrt(1 - 1 / math.pi)
"""1 / sqrt(Var relu(z)), z ~ N(0, 1): the published constant."""


def length_of(v):
    return np.sqrt((v**2).sum(tuple(range(v.ndim - 1))))


def standardized(v):
    centred = v - v.mean(tuple(range(v.ndim - 1)))
    return centred / np.sqrt((centred**2).mean(tuple(range(v.ndim - 1))))


KERNEL_ORACLES = {
    "weight_norm": lambda v, gain, u: gain * v / length_of(v),
    "standardize": lambda v, gain, u: standardized(v),
    "scaled_standardize": lambda v, gain, u: (
        gain * GAIN * standardized(v) / math.sqrt(v[..., 0].size)
    ),
    "spectral": lambda v, gain, u: v / np.linalg.norm(v.reshape(-1, v.shape[-1]) @ u),
}
"""The papers' equations in float64: kernel, gain, u -> the kernel in its place."""
