"""One training step of a layer, and a layer with its parameters away from their start."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normlab.norms import NORMS, build

MUTABLE = ["batch_stats", "norm_state"]
EPSILON, GROUPS = 1e-3, 2
DENSE, SEQUENCE, CONV = (6, 4), (4, 3, 4), (4, 3, 2, 4)


SPREADS = {
    "std 1e20": lambda r, s: 1e20 * r.standard_normal(s),
    "std 1e30": lambda r, s: 1e30 * r.standard_normal(s),
    "uniform": lambda r, s: r.uniform(-3e38, 3e38, s),
    "one side": lambda r, s: r.uniform(2e38, 3e38, s),
    "one channel": lambda r, s: r.standard_normal(s) * np.where(np.arange(s[-1]) == 1, 1e25, 1),
    "one example": lambda r, s: (
        r.standard_normal(s)
        * np.where(np.arange(s[0]) == 1, 1e25, 1)[(slice(None), *[None] * (len(s) - 1))]
    ),
}
"""How values are drawn whose squares overflow."""


def draw(shape, loc: Any = 0.0, std: Any = 1.0, seed=0) -> Any:
    return (loc + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def make(name: str, **options: Any) -> Any:
    """A layer with these options that its row takes, and `options`; momentum 0 leaves the
    statistics of the batch as the running ones."""
    given = {"epsilon": EPSILON, "momentum": 0.0, "groups": GROUPS}
    taken = {k: v for k, v in given.items() if k in NORMS[name].options}
    return build(name, **(taken | options)).norm(name="norm_1")


@functools.cache
def shapes_of(norm: Any, shape: tuple[int, ...]) -> Any:
    init = functools.partial(norm.clone().init, jax.random.key(0), train=True)
    return jax.eval_shape(init, jax.ShapeDtypeStruct(shape, jnp.float32))


def start(norm: Any, x: Any, **params: Any) -> dict[str, Any]:
    """Variables before any update, their parameters off their start, but for those given."""
    shapes, random = shapes_of(norm, x.shape), np.random.default_rng(3)
    leaves = shapes.get("params", {})
    drawn = {k: np.float32(random.uniform(0.1, 0.9, v.shape)) for k, v in leaves.items()}
    state = {
        collection: {k: np.full(v.shape, k == "var", v.dtype) for k, v in leaves.items()}
        for collection, leaves in shapes.items()
    }
    return {**state, "params": drawn | params}


def first(norm: Any, x: Any) -> Any:
    """The output of a new layer."""
    init = functools.partial(norm.init_with_output, jax.random.key(0), train=True)
    return jax.jit(lambda x: init(x)[0])(x)


@functools.cache
def training(norm: Any) -> Any:
    """(params, state, x, mask) -> output, gradients to params and x, new state; compiled once for
    each layer, shape and kind of mask."""

    def run(params, state, x, mask):
        def value(params, x):
            full = {"params": params, **state}
            y, moved = norm.apply(full, x, train=True, mask=mask, mutable=MUTABLE)
            return jnp.sum(draw(x.shape, seed=9) * y), (y, moved)

        slopes, (y, moved) = jax.grad(value, (0, 1), has_aux=True)(params, x)
        return y, slopes, moved

    return jax.jit(run)


def outputs(norm: Any, variables: Any, x: Any, mask: Any = None) -> Any:
    state = {k: v for k, v in variables.items() if k != "params"}
    return training(norm)(variables.get("params", {}), state, x, mask)


def pair(stats: Any) -> np.ndarray:
    """The running mean without rounding."""
    return np.asarray(stats["mean"], np.float64) + np.asarray(stats["mean_lo"], np.float64)


def relative_error(value: Any, right: Any) -> float:
    """Return ||value - right|| / ||right||; NaN if not finite."""
    size = np.linalg.norm(np.asarray(right, np.float64)) or 1.0
    return float(np.linalg.norm(np.asarray(value, np.float64) - right) / size)
