"""Inputs that break normalization layers, and what is right for them in float64.

A case says how its values are drawn, in which dtype they are stored and with which epsilon they
are normalized. Right is what float64 gives for the input as it is stored, rounding included.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from normlab.norms.table import Norm
from normlab.statistics.axes import axes_of

Shape = tuple[int, ...]
Fill = Callable[[np.random.Generator, Shape], np.ndarray]

LAYERS = ("batch", "layer", "layer_channels", "group", "instance", "rms")
"""The schemes that are one normalization over different axes, which other libraries have too."""
LIMITS = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 6e-3}
"""Largest error that is right: some roundings in float32, one of the output in half precision."""
GARBAGE = 1e-2
"""An error above this makes the result useless, whatever the dtype."""
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NEAR_MAX = {"gradient": "in part or whole below the smallest normal number, 1.2e-38"}


@dataclass(frozen=True, eq=False)
class Case:
    """One kind of input; `fill` draws float64 values of a shape, `draw` stores them."""

    name: str
    fill: Fill
    dtype: str = "float32"
    epsilon: float = 1e-5
    image: Shape = (16, 8, 8, 32)
    dense: Shape = (64, 512)
    """The input of schemes over C alone, whose statistics are per row."""
    groups: int = 8
    layers: tuple[str, ...] = LAYERS
    unrepresentable: dict[str, str] = field(default_factory=dict)
    """`forward` or `gradient` -> why no float of this dtype holds what would be right."""

    def shape(self, over: tuple[str, ...]) -> Shape:
        """Return the shape of the input of a scheme with statistics over `over`."""
        return self.dense if over == ("C",) else self.image

    def draw(self, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
        """Return x and a cotangent N(0, 1) in the case's dtype: the same ones at every call."""
        random = np.random.default_rng(zlib.crc32(f"{self.name} {shape}".encode()))
        x = self.fill(random, shape).astype(DTYPES[self.dtype])
        return x, random.standard_normal(shape).astype(x.dtype)


def reference(
    row: Norm, x: np.ndarray, cotangent: np.ndarray, *, epsilon: float, groups: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return y = (x - mean) / sqrt(var + epsilon) and the gradient for `cotangent`, in float64.

    dx = (c - E[c] - y E[c y]) / sqrt(var + epsilon); mean and E[c] are 0 for a row without
    centring. `groups` counts for rows over C / G only.
    """
    shape, c = x.shape, cotangent.astype(np.float64)
    x = x.astype(np.float64)
    if "C/G" in row.over:
        split = (*shape[:-1], groups, shape[-1] // groups)
        x, c = x.reshape(split), c.reshape(split)
        axes = (*range(1, len(shape) - 1), len(shape))
    else:
        axes = axes_of(row.over, len(shape))

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean(axes, keepdims=True)

    centred = c
    if row.centered:
        x, centred = x - mean(x), c - mean(c)
    inv = 1 / np.sqrt(mean(x * x) + epsilon)
    y = x * inv
    return y.reshape(shape), ((centred - y * mean(c * y)) * inv).reshape(shape)


def gauss(mean: float = 0.0, width: float = 1.0) -> Fill:
    return lambda random, shape: mean + width * random.standard_normal(shape)


def constant(value: float) -> Fill:
    return lambda random, shape: np.full(shape, value)


def uniform(low: float, high: float) -> Fill:
    return lambda random, shape: random.uniform(low, high, shape)


def outlier(value: float) -> Fill:
    def fill(random: np.random.Generator, shape: Shape) -> np.ndarray:
        x = random.standard_normal(shape)
        x.flat[0] = value
        return x

    return fill


def first_eighth(offset: float) -> Fill:
    """An eighth of the examples, or of the channels of a dense input, is far from the rest."""

    def fill(random: np.random.Generator, shape: Shape) -> np.ndarray:
        x = random.standard_normal(shape)
        axis = 0 if len(shape) > 2 else 1
        far = np.arange(shape[axis]) < max(1, shape[axis] // 8)
        return x + offset * np.expand_dims(far, [a for a in range(len(shape)) if a != axis])

    return fill


def channel_magnitudes(low: int, high: int) -> Fill:
    """Standard deviations of 10^low to 10^high from the first channel to the last."""
    return lambda random, shape: random.standard_normal(shape) * np.logspace(low, high, shape[-1])


def alternating(value: float) -> Fill:
    def fill(random: np.random.Generator, shape: Shape) -> np.ndarray:
        del random
        return value * (1 - 2 * (np.indices(shape).sum(0) % 2))

    return fill


def heavy_tail(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.exp(4 * random.standard_normal(shape))


def ramp(random: np.random.Generator, shape: Shape) -> np.ndarray:
    del random
    return 1e4 + np.linspace(0, 1, int(np.prod(shape))).reshape(shape)


BIG: dict[str, Any] = dict(image=(64, 64, 64, 4), dense=(2, 262144), groups=2)
ODD: dict[str, Any] = dict(image=(7, 5, 3, 12), dense=(9, 63), groups=4)
"""No statistic is of a power of two values, whose sums and means are exact for a constant."""
FLUSHED = {"forward": "the input is subnormal: XLA reads it as 0 (absolute error 3e-38)"}
ONE, MANY = (1, 1, 1, 32), (16, 1, 1, 32)
BF16, F16 = "bfloat16", "float16"
CASES: tuple[Case, ...] = (
    Case("N(0,1)", gauss()),
    Case("mean 2.5 std 1", gauss(2.5)),
    *(Case(f"mean 1e{k} std 1", gauss(10.0**k)) for k in (2, 3, 4, 5, 6, 7, 8)),
    Case("calendar year 2024 +- 3", gauss(2024, 3)),
    Case("mean 1 std 1e-2", gauss(1, 1e-2)),
    Case("mean 1 std 1e-4", gauss(1, 1e-4)),
    Case("mean 0 std 1e-4", gauss(0, 1e-4)),
    Case("mean 1 std 1e-4 eps 1e-12", gauss(1, 1e-4), epsilon=1e-12),
    Case("std 1e-15 eps 1e-30", gauss(0, 1e-15), epsilon=1e-30),
    Case("const 0", constant(0)),
    Case("const 3.3", constant(3.3)),
    Case("const 1234.567", constant(1234.567)),
    Case("const 1e6+.1", constant(1e6 + 0.1)),
    Case("const 3.3 eps 1e-12", constant(3.3), epsilon=1e-12),
    *(Case(f"std 1e{k}", gauss(0, 10.0**k)) for k in (18, 19, 20, 30, 33)),
    Case("std 1e36", gauss(0, 1e36), unrepresentable=NEAR_MAX),
    Case("mean 1e30 std 1e26", gauss(1e30, 1e26)),
    Case("U(-3e38,3e38)", uniform(-3e38, 3e38), unrepresentable=NEAR_MAX),
    Case("U(2e38,3e38)", uniform(2e38, 3e38), unrepresentable=NEAR_MAX),
    Case("alternating +-3e38", alternating(3e38), unrepresentable=NEAR_MAX),
    Case("const 3e38", constant(3e38), layers=LAYERS[:-1]),
    Case("denormal 1e-40", gauss(0, 1e-40), unrepresentable=FLUSHED),
    Case("outlier 1e6 x1", outlier(1e6)),
    Case("outlier 1e30 x1", outlier(1e30)),
    Case("first 1/8 at 1e4", first_eighth(1e4)),
    Case("first 1/8 at 1e20", first_eighth(1e20)),
    Case("channels of std 1e-10..1e30", channel_magnitudes(-10, 30)),
    Case("heavy tail exp(4 N)", heavy_tail),
    Case("ramp 1e4..1e4+1", ramp),
    Case("big N=262144 mean 0", gauss(), **BIG),
    Case("big N=262144 mean 2.5", gauss(2.5), **BIG),
    Case("big N=262144 mean 1e2", gauss(1e2), **BIG),
    Case("big N=262144 mean 1e4", gauss(1e4), **BIG),
    Case("batch 1", gauss(), image=(1, 8, 8, 32), dense=(1, 512)),
    Case("1 spatial", gauss(5), image=MANY, layers=("batch", "layer", "group")),
    Case("1 spatial, batch 1", gauss(5), image=ONE, layers=("layer", "group")),
    Case(
        "1 value per statistic",
        gauss(5),
        image=ONE,
        dense=(64, 1),
        layers=("batch", "layer_channels", "instance"),
    ),
    Case("groups=channels", gauss(100), groups=32, layers=("group",)),
    Case("odd sizes, mean 1e6 std 1", gauss(1e6), **ODD),
    Case("odd sizes, const 1e6+.1", constant(1e6 + 0.1), **ODD),
    Case("odd sizes, const 3e38", constant(3e38), layers=LAYERS[:-1], **ODD),
    Case("bf16 N(0,1)", gauss(), BF16),
    Case("bf16 mean 1e2 std 1", gauss(1e2), BF16),
    Case("bf16 mean 1e4 std 100", gauss(1e4, 100), BF16),
    Case("bf16 std 1e20", gauss(0, 1e20), BF16),
    Case("bf16 U(2e38,3.3e38)", uniform(2e38, 3.3e38), BF16, unrepresentable=NEAR_MAX),
    Case("f16 N(0,1)", gauss(), F16),
    Case("f16 mean 1e3 std 1", gauss(1e3), F16),
    Case("f16 std 1e3 (squares > 65504)", gauss(0, 1e3), F16),
    Case("f16 U(5e4,6.5e4)", uniform(5e4, 6.5e4), F16),
    Case("f16 subnormal 1e-6", gauss(0, 1e-6), F16),
    Case("f16 const 3.3 eps 1e-8", constant(3.3), F16, epsilon=1e-8),
    Case("f16 std 1e-3 eps 1e-8", gauss(0, 1e-3), F16, epsilon=1e-8),
)
FEW = (
    "N(0,1)",
    "mean 1e4 std 1",
    "mean 1e8 std 1",
    "const 1e6+.1",
    "std 1e20",
    "U(2e38,3e38)",
    "outlier 1e30 x1",
    "channels of std 1e-10..1e30",
    "mean 1 std 1e-4 eps 1e-12",
    "bf16 mean 1e2 std 1",
    "f16 std 1e3 (squares > 65504)",
)
"""One case of each kind, by name: those that a norm is checked with."""
