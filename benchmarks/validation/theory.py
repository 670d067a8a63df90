"""Theory checks: what theory says exactly of deep dense networks at initialisation.

With batch norm the squared gradient grows by a constant factor from layer to layer towards the
input (arXiv:1902.08129). The factor is pi / (pi - 1) after ReLU in wide layers and large batches.
It is (B - 2) / (B - 3) in linear networks. Without norm, He's initial weights keep it as it is.
docs/theory.md says how to read the tables.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks import runner
from benchmarks.runner import Check, Options, emit
from normlab.layers.factory import factory
from normlab.models.build import build_model
from normlab.norms.builder import plain_act
from normlab.report.tables import Table
from normlab.settings import SETTINGS, defaults
from normlab.studies.intervals import t_interval

DEPTH, MIDDLE, CLASSES = 20, (6, 16), 10
"""Hidden layers; those between which the growth is measured."""
SPANS = ((1, 2), (2, 6), MIDDLE, (16, 20))
"""Pairs of layers between which it is shown."""
SEEDS, TOLERANCE = 6, 0.03
RELU = math.pi / (math.pi - 1)
RATES = 0.01, 0.1, 1.0
"""Of the one SGD step of the first case."""


class Case(NamedTuple):
    """Networks of DEPTH layers of one width with random inputs and labels, one for each seed."""

    act: str
    norm: str
    batch: int
    width: int
    predicted: float | None = None
    """Growth of the squared gradient per layer, in the limit of width (relu: and of batch)."""

    @property
    def title(self) -> str:
        norm = f"{self.norm} norm" if self.norm != "none" else "no norm"
        return f"{self.act}, {norm}, B = {self.batch}, width {self.width}"


def linear(batch: int) -> float:
    """Return the growth per layer of wide linear networks with batch norm."""
    return (batch - 2) / (batch - 3)


CASES = (
    Case("relu", "batch", 64, 512, RELU),
    Case("relu", "batch", 128, 512, RELU),
    Case("relu", "batch", 256, 1024, RELU),
    Case("linear", "batch", 8, 1024, linear(8)),
    Case("linear", "batch", 16, 1024, linear(16)),
    Case("relu", "none", 64, 512, 1.0),
    Case("relu", "batch", 8, 512),
    Case("relu", "batch", 16, 512),
    Case("relu", "batch", 256, 256),
    Case("linear", "batch", 64, 256),
)


class Squares(NamedTuple):
    """Squared norms of the gradient with respect to what each dense layer puts out, and to its
    kernel: [DEPTH], or [seeds, DEPTH]."""

    outputs: Any
    kernels: Any


class Draw(NamedTuple):
    """One network at initialisation and one batch."""

    params: Any
    batch_stats: Any
    x: jax.Array
    y: jax.Array


def network(case: Case) -> nn.Module:
    """Return normlab's own network, with the smallest epsilon that is legal."""
    config = defaults() | {
        "model.widths": (case.width,),
        "model.depth": DEPTH,
        "norm.name": case.norm,
        "norm.epsilon": SETTINGS["norm.epsilon"].low,
    }
    net: Any = build_model(config, CLASSES, "patches")
    if case.act == "relu":
        return net
    linear = factory(plain_act, act=lambda x: x)
    return net.clone(layers=dataclasses.replace(net.layers, act=linear))


def draw(net: nn.Module, case: Case, seed: int) -> Draw:
    """Return weights as `net` draws them, normal inputs and uniform labels."""
    weights, inputs, labels = jax.random.split(jax.random.key(seed), 3)
    variables = net.init(weights, jnp.zeros((2, case.width)), train=False)
    x = jax.random.normal(inputs, (case.batch, case.width))
    y = jax.random.randint(labels, (case.batch,), 0, CLASSES)
    return Draw(variables["params"], variables.get("batch_stats", {}), x, y)


def make_gradients(net: nn.Module, case: Case) -> Callable[[Draw], tuple[Any, Squares]]:
    """Return the compiled gradients of the mean cross-entropy: those of the parameters, and the
    squared norms. The outputs' are those of zeros that are added to them."""
    names = [f"dense_{i}" for i in range(1, DEPTH + 1)]

    def loss_of(params: Any, added: dict[str, jax.Array], one: Draw) -> jax.Array:
        def add(layer: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out, name = layer(*args, **kwargs), context.module.name
            return out + added[name] if name in added else out

        variables = {"params": params, "batch_stats": one.batch_stats}
        with nn.intercept_methods(add):
            logits, _ = net.apply(variables, one.x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, one.y).mean()

    @jax.jit
    def gradients(one: Draw) -> tuple[Any, Squares]:
        zeros = {name: jnp.zeros((case.batch, case.width)) for name in names}
        params, outputs = jax.grad(loss_of, (0, 1))(one.params, zeros, one)
        of_outputs = jnp.stack([jnp.sum(outputs[name] ** 2) for name in names])
        kernels = jnp.stack([jnp.sum(params[name]["kernel"] ** 2) for name in names])
        return params, Squares(of_outputs, kernels)

    return gradients


def measure(case: Case, rates: Sequence[float] = (), seeds: int = SEEDS) -> list[Squares]:
    """Return the squared gradients at initialisation, and those of the same batch after one SGD
    step at each rate."""
    net = network(case)
    gradients = make_gradients(net, case)
    found: list[list[Squares]] = []
    for seed in range(seeds):
        one = draw(net, case, seed)
        grads, squares = gradients(one)
        found.append([squares])
        for rate in rates:
            moved = jax.tree.map(lambda p, g, rate=rate: p - rate * g, one.params, grads)
            found[-1].append(gradients(one._replace(params=moved))[1])
    return [
        Squares(*(np.asarray(part, float) for part in zip(*of_all, strict=True)))
        for of_all in zip(*found, strict=True)
    ]


class Growth(NamedTuple):
    """Mean over seeds, and half of its 95 % t interval."""

    mean: float
    half: float

    @property
    def text(self) -> str:
        return f"{self.mean:.3f} +- {self.half:.3f}"

    def is_within(self, tolerance: float, predicted: float) -> bool:
        """Return whether the whole interval is within; NaN is not."""
        return abs(self.mean - predicted) + self.half <= tolerance * predicted


def growth(squares: np.ndarray, span: tuple[int, int] = MIDDLE) -> Growth:
    """Return by what `squares` [seeds, DEPTH] grow per layer from layer span[1] down to span[0]:
    the geometric mean over layers, the mean over seeds."""
    low, high = span
    each = (squares[:, low - 1] / squares[:, high - 1]) ** (1 / (high - low))
    first, last = t_interval(each.tolist())
    return Growth(float(each.mean()), (last - first) / 2)


Grid = dict[Case, Squares]


def check(case: Case, squares: Squares) -> Check:
    """Return a case's line of the first table."""
    found, predicted = growth(squares.outputs), case.predicted
    if predicted is None:
        return Check(case.title, [case.title, "-", found.text, "-"])
    off = f"{100 * (found.mean / predicted - 1):+.1f} %"
    cells = [case.title, f"{predicted:.3f}", found.text, off]
    return Check(case.title, cells, found.is_within(TOLERANCE, predicted))


def tables(grid: Grid, checks: Sequence[Check], steps: dict[float, Squares]) -> list[Table]:
    """Return the tables. `steps` has the squares of the first case by rate, 0 for before."""
    low, high = MIDDLE
    title = f"Growth per layer, layers {low} to {high} of {DEPTH}"
    columns = ["network", "predicted", f"measured, {SEEDS} seeds", "off", f"{TOLERANCE:.0%}"]
    spans = ["network", *(f"layers {a} to {b}" for a, b in SPANS)]
    by_depth = [
        [case.title, *(growth(squares.outputs, span).text for span in SPANS)]
        for case, squares in grid.items()
    ]
    rates = ["rate", "gradients of activations", "gradients of weights"]
    after = [
        [f"{rate:g}" if rate else "no step", growth(s.outputs).text, growth(s.kernels).text]
        for rate, s in steps.items()
    ]
    return [
        runner.table(title, columns, [check.line for check in checks]),
        runner.table("Growth at other depths", spans, by_depth),
        runner.table("After one SGD step", rates, after),
    ]


def run(options: Options) -> str:
    """Measure; print the progress and the tables; return the section of the page."""
    del options  # there is nothing to select
    grid: Grid = {}
    steps: dict[float, Squares] = {}
    for number, case in enumerate(CASES, 1):
        emit(f"{number}/{len(CASES)} {case.title}")
        rates = RATES if case == CASES[0] else ()
        grid[case], *after = measure(case, rates)
        steps |= zip(rates, after, strict=True)
    checks = [check(case, squares) for case, squares in grid.items()]
    found = tables(grid, checks, {0.0: grid[CASES[0]], **steps})
    return runner.publish([runner.machine(["flax"]), runner.verdict("predictions", checks)], found)
