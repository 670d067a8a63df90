"""Sums over the devices, or vmapped calls, along an axis name, or over a part of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType


class Groups(NamedTuple):
    """Part of an axis name: each device shares statistics with those of its own group.

    `members`: the groups, of one size, as `axis_index_groups` of jax.lax lists them. Those of
    jax.lax work neither under vmap nor under shard_map (jax 0.10).
    """

    name: Any
    members: tuple[tuple[int, ...], ...]


def _across(own: Callable[..., Any], whole: Callable[..., Any], x: jax.Array, along: Any) -> Any:
    """Return x reduced by `whole` along an axis name, by `own` within Groups; x itself for None."""
    if along is None:
        return x
    if not isinstance(along, Groups):
        return whole(x, along)
    everything, members = lax.all_gather(x, along.name), jnp.asarray(along.members)
    is_here = jnp.any(members == lax.axis_index(along.name), axis=1)
    return own(everything[members[jnp.argmax(is_here)]], axis=0)


def psum(x: jax.Array, along: Any) -> jax.Array:
    """Return the sum of x along an axis name or within Groups of it; x itself for None."""
    return _across(jnp.sum, lax.psum, x, along)


def pmax(x: jax.Array, along: Any) -> jax.Array:
    """Return the largest x likewise."""
    return _across(jnp.max, lax.pmax, x, along)


def pmin(x: jax.Array, along: Any) -> jax.Array:
    """Return the smallest x likewise."""
    return _across(jnp.min, lax.pmin, x, along)


def anywhere(flag: jax.Array, along: Any) -> jax.Array:
    """Return whether a flag is set in any group. Devices of different groups must take the same
    branch, or they wait for each other for ever."""
    return lax.pmax(flag, along.name) if isinstance(along, Groups) else flag


def axis_size(along: Any) -> int:
    """Return how many devices or calls share statistics; 1 for None."""
    if along is None:
        return 1
    return len(along.members[0]) if isinstance(along, Groups) else lax.axis_size(along)


def is_divided() -> bool:
    """Return whether this is traced for a mesh of several devices among which the compiler divides
    arrays: under jax.set_mesh, with automatic axes."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size > 1 and AxisType.Auto in mesh.axis_types


def groups_of(layer: str, name: Any, members: Any) -> Any:
    """Return the axis name, or Groups of it; raises ValueError for groups of several sizes."""
    if members is None or name is None:
        return name
    members = tuple(tuple(int(i) for i in group) for group in members)
    everyone = sorted(i for group in members for i in group)
    if len({len(group) for group in members}) != 1 or everyone != list(range(len(everyone))):
        raise ValueError(
            f"{layer}: axis_index_groups {members} are no groups of one size in which every index "
            "from 0 on is once"
        )
    return Groups(name, members)
