"""The layer under test: its programs, each compiled once, and the inputs they get."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from os import environ
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from normlab.norms.builder import build
from normlab.norms.table import Norm, find_norm
from normlab.statistics.axes import axes_of
from normlab.training.program import CPU_OPTIONS

Oracle = Callable[[np.ndarray, float], np.ndarray]
"""(x float64, epsilon) -> y float64, in training mode at the initial parameters."""
Variables = dict[str, Any]

LAYER = "norm_1"
SHAPE = (8, 4, 2, 8)
EPSILON, MOMENTUM, GROUPS = 1e-5, 0.8, 2
STATE = ["batch_stats", "norm_state"]
EXACT, ORDINARY = 2e-6, 1e-5
"""Limits of the error in float32: of rows that claim to be exact, and of the others."""


class Step(NamedTuple):
    """What one training step leaves: output, state, slopes of the parameters and of the input."""

    y: Any
    state: Variables
    slopes: Any
    dx: Any


def draw(shape: tuple[int, ...] = SHAPE, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    """Return float32 values N(mean, 1), the same ones at every call."""
    values = mean + np.random.default_rng(seed).standard_normal(shape)
    return values.astype(np.float32)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under jit, compiled as the engine does: in half the time. The caller's
    XLA_FLAGS win."""
    is_asked = jax.default_backend() == "cpu" and "optimization_level" not in environ.get(
        "XLA_FLAGS", ""
    )
    return jax.jit(function, compiler_options=CPU_OPTIONS if is_asked else None)


def as_double(tree: Any) -> Any:
    """Return a tree with its floats in float64 NumPy."""

    def convert(leaf):
        is_float = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
        return np.asarray(leaf, np.float64) if is_float else np.asarray(leaf)

    return jax.tree.map(convert, tree)


@dataclass(frozen=True)
class LayerUnderTest:
    """A row of the table, and what is right for it if somebody knows."""

    name: str
    oracle: Oracle | None = None

    @property
    def row(self) -> Norm:
        return find_norm(self.name)

    @property
    def right(self) -> Oracle | None:
        return self.oracle or self.row.reference

    @property
    def limit(self) -> float:
        return EXACT if self.row.exact else ORDINARY

    @property
    def statistics(self) -> np.ndarray:
        """The number of the statistic that each value of an image belongs to."""
        axes = axes_of(self.row.over, len(SHAPE))
        sizes = [1 if axis in axes else size for axis, size in enumerate(SHAPE)]
        if self.row.grouped:
            sizes[-1] = GROUPS
        numbers = np.arange(np.prod(sizes)).reshape(sizes)
        if self.row.grouped:
            numbers = np.repeat(numbers, SHAPE[-1] // GROUPS, axis=-1)
        return np.broadcast_to(numbers, SHAPE)

    def layer(self, **options: Any) -> Any:
        """Return the layer with those settings of the checks that it takes, and `options`."""
        settings = {"epsilon": EPSILON, "momentum": MOMENTUM, "groups": GROUPS}
        taken = {k: v for k, v in settings.items() if k in self.row.options}
        return build(self.name, **{**taken, **options}).norm(name=LAYER)

    @functools.cached_property
    def init(self) -> Callable[..., Variables]:
        layer = self.layer()
        return compiled(lambda x: dict(layer.init(jax.random.key(0), x, train=True)))

    @functools.cached_property
    def variables(self) -> Variables:
        """Parameters and state as they are in the beginning."""
        return self.init(draw(mean=0.5))

    @functools.cached_property
    def moved(self) -> Variables:
        """The same with parameters away from their initial values, those above 0 nearer to it:
        some are shares."""
        random = np.random.default_rng(7)

        def move(leaf):
            nearer = leaf * random.uniform(0.7, 0.95, leaf.shape)
            moved = np.where(leaf == 0, 0.2 * random.standard_normal(leaf.shape), nearer)
            return moved.astype(np.float32)

        params = jax.tree.map(move, self.variables.get("params", {}))
        return {**self.variables, "params": params}

    @functools.cached_property
    def programs(self) -> dict[tuple[float, bool], Callable[..., Step]]:
        return {}

    def step(
        self, variables: Variables, x: Any, cotangent: Any, mask=None, epsilon=EPSILON
    ) -> Step:
        """Return what one training step leaves, compiled; for float32 as plain jit compiles it."""
        is_plain = mask is None and x.dtype == np.float32
        key = (epsilon, is_plain)
        if key not in self.programs:
            step = self.make_step(**({} if epsilon == EPSILON else {"epsilon": epsilon}))
            self.programs[key] = jax.jit(step) if is_plain else compiled(step)
        return self.programs[key](variables, x, cotangent, mask)

    def make_step(self, **options: Any) -> Callable[..., Step]:
        """Return (variables, x, cotangent, mask=None) -> Step, training; not compiled."""
        layer = self.layer(**options)

        def step(variables, x, cotangent, mask=None):
            def forward(params, x):
                given = {**variables, "params": params}
                return layer.apply(given, x, train=True, mask=mask, mutable=STATE)

            params = variables.get("params", {})
            y, backward, state = jax.vjp(forward, params, x, has_aux=True)
            slopes, dx = backward(jnp.asarray(cotangent, y.dtype))
            return Step(y, dict(state), slopes, dx)

        return step

    def settling(self, mean: float = 0.5) -> np.ndarray:
        """Return an input of which training statistics and running ones can be the same."""
        x = draw(mean=mean)
        return np.broadcast_to(x[:1], SHAPE) if self.row.is_per_sample else x

    def settled(self, variables: Variables, x: Any) -> Variables:
        """Return the variables whose running statistics are those of x, after 200 steps on it."""
        for _ in range(200):
            variables = {**variables, **self.step(variables, x, x).state}
        return variables

    @functools.cached_property
    def evaluate(self) -> Callable[..., tuple[Any, Any]]:
        """(variables, x) -> (y, state), evaluating."""
        layer = self.layer()
        return compiled(lambda v, x: layer.apply(v, x, train=False, mutable=STATE))

    def forward(self, variables: Variables, x: Any, mask: Any = None) -> Any:
        """Return the output in training mode; not compiled."""
        return self.layer().apply(variables, x, train=True, mask=mask, mutable=STATE)[0]

    def step_double(self, variables: Variables, x: Any, cotangent: Any, epsilon=EPSILON) -> Step:
        """Return the step in float64."""
        given = as_double((variables, x, cotangent))
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, self.step(*given, epsilon=epsilon))

    @functools.cached_property
    def is_wide(self) -> bool:
        """Whether the layer computes in float64 where it is given float64."""
        x = np.random.default_rng(3).standard_normal(SHAPE)
        one, two = (self.step_double(self.moved, v, x).y for v in (x, x.astype(np.float32)))
        return bool((one != two).any())
