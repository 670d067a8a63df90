"""Masks, one NaN, and running statistics far from zero, in each library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import runner
from benchmarks.reference_libraries import (
    MOMENTUM,
    OWN,
    TITLES,
    Layer,
    Linen,
    flax_layer,
    import_keras,
    own_layer,
    prepare,
)
from normlab.norms.builder import build
from normlab.norms.table import NORMS
from normlab.report.tables import Table
from normlab.testing.cases import error

SHAPE = (8, 6, 6, 32)
DENSE = (64, 32)
EPSILON = 1e-5
BATCHES = 100


def tables(libraries: Sequence[str], schemes: Sequence[str]) -> list[Table]:
    return [masks(libraries, schemes), one_nan(libraries, schemes), running(libraries)]


def draw(shape: tuple[int, ...], seed: int = 0, mean: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (mean + random.standard_normal(shape)).astype(np.float32)


def finite(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return "-"
    return "finite" if all(np.isfinite(leaf).all() for leaf in leaves) else "**NaN**"


def masked(linen: Linen, x: np.ndarray, mask: np.ndarray) -> list[str]:
    """Return output, gradient at the valid positions and new state: finite or NaN."""
    cotangent = draw(SHAPE, seed=1)

    @jax.jit
    def both(x):
        y, backward, state = jax.vjp(
            lambda x: linen.apply(linen.variables, x, mask), x, has_aux=True
        )
        return y, backward(jnp.where(mask, cotangent, 0))[0], state

    y, dx, state = both(x)
    valid = mask if mask.any() else np.ones_like(mask)
    return [finite(np.asarray(y)[valid]), finite(np.asarray(dx)[valid]), finite(state)]


def masks(libraries: Sequence[str], schemes: Sequence[str]) -> Table:
    """Return what is finite where all positions are masked, and where NaN is behind the mask."""
    makers = {OWN: own_layer, "flax": flax_layer}
    none, some = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    some[:, 4:] = some[5] = False
    x = draw(SHAPE)
    lines = []
    for library in [name for name in makers if name in libraries]:
        for scheme in schemes:
            linen = makers[library](Layer(scheme, SHAPE, epsilon=EPSILON, groups=8))
            cells = masked(linen, x, none) + masked(linen, np.where(some, x, np.nan), some)
            lines.append([TITLES[library], scheme, *cells])
    parts = ("output", "gradient", "running statistics")
    columns = [f"{kind}: {part}" for kind in ("all masked", "NaN behind") for part in parts]
    return runner.table("Masks", ["library", "layer", *columns], lines)


def one_nan(libraries: Sequence[str], schemes: Sequence[str]) -> Table:
    """Return the fraction of the other samples' values that change where one value is NaN."""
    lines = []
    for scheme in schemes:
        shape = DENSE if NORMS[scheme].over == ("C",) else SHAPE
        x, cotangent = draw(shape), draw(shape, seed=1)
        poisoned = x.copy()
        poisoned[1].flat[0] = np.nan
        others = np.arange(len(x)) != 1
        cells = []
        for library in libraries:
            run = prepare(library, Layer(scheme, shape, epsilon=EPSILON, groups=8))
            if run is None:
                cells.append("-")
                continue
            pairs = zip(run(x, cotangent), run(poisoned, cotangent), strict=True)
            changed = [np.mean(clean[others] != dirty[others]) for clean, dirty in pairs]
            cells.append(" / ".join(f"{100 * fraction:.2g} %" for fraction in changed))
        lines.append([scheme, *cells])
    return runner.table("One NaN", ["layer", *(TITLES[n] for n in libraries)], lines)


Trained = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(batches [T, N, C], x) -> y in evaluation after training on the batches."""


def _linen(norm: nn.Module, train: dict, test: dict, batches, x) -> np.ndarray:
    variables: dict[str, Any] = dict(norm.init(jax.random.key(0), batches[0], **train))

    def step(variables, batch):
        _, moved = norm.apply(variables, batch, mutable=["batch_stats"], **train)
        return variables | dict(moved), None

    trained, _ = jax.lax.scan(step, variables, batches)
    return np.asarray(norm.apply(trained, x, **test))


def _torch(batches: np.ndarray, x: np.ndarray) -> np.ndarray:
    torch = importlib.import_module("torch")
    norm = torch.nn.BatchNorm1d(x.shape[-1], eps=EPSILON, momentum=1 - MOMENTUM)
    for batch in batches:
        norm(torch.tensor(batch))
    return norm.eval()(torch.tensor(x)).detach().numpy()


def _keras(batches: np.ndarray, x: np.ndarray) -> np.ndarray:
    keras = import_keras()
    norm = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON)
    for batch in batches:
        norm(batch, training=True)
    return np.asarray(norm(x, training=False))


TRAINED: dict[str, Trained] = {
    OWN: partial(
        _linen,
        build("batch", epsilon=EPSILON, momentum=MOMENTUM).norm(name="norm"),
        {"train": True},
        {"train": False},
    ),
    "flax": partial(
        _linen,
        nn.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON),
        {"use_running_average": False},
        {"use_running_average": True},
    ),
    "torch": _torch,
    "keras": _keras,
}


def evaluation_reference(batches: np.ndarray, x: np.ndarray, *, unbiased: bool) -> np.ndarray:
    """Return (x - mean) / sqrt(var + epsilon) with the running statistics kept in float64."""
    mean, square = np.zeros(x.shape[-1]), np.ones(x.shape[-1])
    for batch in batches.astype(np.float64):
        d = batch - batch.mean(0)
        var = (d * d).sum(0) / (len(batch) - unbiased)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * batch.mean(0)
        square = MOMENTUM * square + (1 - MOMENTUM) * var
    return (x.astype(np.float64) - mean) / np.sqrt(square + EPSILON)


def running(libraries: Sequence[str]) -> Table:
    """Return the error of batch norm in evaluation after BATCHES training batches. Right are
    running statistics kept in float64 by each library's own rule."""
    names = [name for name in TRAINED if name in libraries]
    lines = []
    for mean in (0.0, 1e3, 1e6):
        batches, x = draw((BATCHES, *DENSE), mean=mean), draw(DENSE, seed=1, mean=mean)
        cells = []
        for name in names:
            right = evaluation_reference(batches, x, unbiased=name == "torch")
            off = error(TRAINED[name](batches, x), right)
            cells.append(f"**{off:.0e}**" if not off <= 1e-2 else f"{off:.0e}")
        lines.append([f"mean {mean:g} std 1", *cells])
    return runner.table("Running statistics", ["input", *(TITLES[n] for n in names)], lines)
