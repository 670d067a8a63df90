"""Masks, one NaN, and running statistics far from zero, in each library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import runner
from benchmarks.reference_libraries import MOMENTUM, OWN, TITLES, Layer, make_peer
from normlab.norms.table import NORMS
from normlab.report.tables import Table
from normlab.testing.result import off

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


def masked(peer: Any, x: np.ndarray, mask: np.ndarray) -> list[str]:
    """Return output, gradient at the valid positions and new state: finite or NaN."""
    y, backward, state = jax.vjp(lambda x: peer.forward(x, True, mask), x, has_aux=True)
    dx = backward(jnp.where(mask, draw(SHAPE, seed=1), 0))[0]
    valid = mask if mask.any() else np.ones_like(mask)
    return [finite(np.asarray(y)[valid]), finite(np.asarray(dx)[valid]), finite(state)]


def masks(libraries: Sequence[str], schemes: Sequence[str]) -> Table:
    """Return what is finite where all positions are masked, and where NaN is behind the mask."""
    none, some = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    some[:, 4:] = some[5] = False
    x = draw(SHAPE)
    lines = []
    for library in [name for name in (OWN, "flax") if name in libraries]:
        for scheme in schemes:
            peer = make_peer(library, Layer(scheme, SHAPE, epsilon=EPSILON, groups=8))
            cells = masked(peer, x, none) + masked(peer, np.where(some, x, np.nan), some)
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
            peer = make_peer(library, Layer(scheme, shape, epsilon=EPSILON, groups=8))
            if peer is None:
                cells.append("-")
                continue
            found = [peer.gradient(v, cotangent) for v in (x, poisoned)]
            pairs = zip(*found, strict=True)
            changed = [np.mean(clean[others] != dirty[others]) for clean, dirty in pairs]
            cells.append(" / ".join(f"{100 * fraction:.2g} %" for fraction in changed))
        lines.append([scheme, *cells])
    return runner.table("One NaN", ["layer", *(TITLES[n] for n in libraries)], lines)


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
    running statistics kept in float64 by each library's own rule. Haiku and Equinox start them
    otherwise."""
    names = [name for name in (OWN, "flax", "torch", "keras") if name in libraries]
    lines = []
    for mean in (0.0, 1e3, 1e6):
        batches, x = draw((BATCHES, *DENSE), mean=mean), draw(DENSE, seed=1, mean=mean)
        cells = []
        for name in names:
            peer = make_peer(name, Layer("batch", DENSE, epsilon=EPSILON))
            for batch in batches:
                peer(batch, True)
            right = evaluation_reference(batches, x, unbiased=name == "torch")
            found = off(peer(x, False), right, floor=0)
            cells.append(f"**{found:.0e}**" if not found <= 1e-2 else f"{found:.0e}")
        lines.append([f"mean {mean:g} std 1", *cells])
    return runner.table("Running statistics", ["input", *(TITLES[n] for n in names)], lines)
