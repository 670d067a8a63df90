"""The states of a population as plain arrays by name, and back, bit for bit."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from normlab.training.state import TrainState

STORED_NAME = ("^diagnostic_state/", "memory/")
"""The older name of these arrays, which checkpoints keep so that each version reads all of them."""


class Snapshot(NamedTuple):
    """All that a population needs to continue."""

    step: int
    arrays: dict[str, np.ndarray]
    """Every leaf of the members' states by its path, [S, ...]; the key as its raw words."""
    key_kind: str
    outcomes: list[dict[str, Any]]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _names(states: Any) -> tuple[list[tuple[str, Any]], Any]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(states)
    named = [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]
    return [(re.sub(*STORED_NAME, name), leaf) for name, leaf in named], structure


def arrays_of(states: TrainState, size: int) -> tuple[dict[str, np.ndarray], str]:
    """Return the leaves of the first `size` members by name, and the kind of their keys."""
    if not states.key.is_fully_addressable:  # every process has all of it
        states = jax.tree.map(lambda leaf: leaf.addressable_data(0), states)
    named, _ = _names(states)
    raw = {name: jax.random.key_data(x) if _is_key(x) else x for name, x in named}
    kind = str(jax.random.key_impl(states.key))
    return {n: np.ascontiguousarray(np.asarray(x)[:size]) for n, x in raw.items()}, kind


def states_of(
    arrays: dict[str, np.ndarray], key_kind: str, like: Any, size: int, width: int
) -> TrainState:
    """Return the states that `arrays` were taken of, padded behind the last member to `width`.

    `like` has their structure, shapes and types. Raises ValueError where a leaf is missing, left
    over or of another shape or type: the network or the optimiser is another one.
    """
    named, structure = _names(like)
    if {name for name, _ in named} != set(arrays):
        differ = sorted({name for name, _ in named} ^ set(arrays))
        raise ValueError(f"its arrays are those of another network: {', '.join(differ[:3])} ...")
    leaves = []
    for name, leaf in named:
        values = np.concatenate([arrays[name], *[arrays[name][-1:]] * (width - size)])
        raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        if len(arrays[name]) != size or values.shape != raw.shape:
            raise ValueError(f"its array {name} has shape {values.shape}, not {raw.shape}")
        if values.dtype != raw.dtype:
            raise ValueError(f"its array {name} is of type {values.dtype}, not {raw.dtype}")
        words = jnp.asarray(values)
        leaves.append(jax.random.wrap_key_data(words, impl=key_kind) if _is_key(leaf) else values)
    return jax.tree.unflatten(structure, leaves)
