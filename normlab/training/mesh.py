"""One population over several devices: its members, or the examples of its batches.

The devices of several processes divide batches, as many of each.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from normlab.settings import Config

AXIS = "devices"


class Spread(NamedTuple):
    """What is divided among how many devices: `members`, `batch`, or `none`."""

    kind: str
    devices: int

    def sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(_mesh(self.devices), P(*axes))

    def fact(self, mode: str, width: int) -> str:
        """Return how members run, with all of the devices that decides bits."""
        if self.kind == "batch":
            processes = jax.process_count()
            of = f" of {processes} processes" if processes > 1 else ""
            return f"{mode}, batches over {self.devices} devices{of}"
        is_wide = self.kind == "members" and mode == "vmap"
        return f"{mode}, {width // self.devices} a device" if is_wide else mode


@functools.cache
def _mesh(devices: int) -> Mesh:
    processes = range(jax.process_count())
    each = devices // len(processes)
    chosen = [d for i in processes for d in jax.local_devices(process_index=i)[:each]]
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def choose_spread(config: Config) -> Spread:
    """Return what `host.mesh` divides here. A batch goes to the most devices that divide it, and
    late batches, evenly."""
    kind, there, processes = config["host.mesh"], jax.device_count(), jax.process_count()
    if processes > 1:
        kind = "batch"
    if kind == "batch":
        sizes = config["data.batch"], config["train.late_batch"]
        counts = range(processes, there + 1, processes)
        there = max(n for n in counts if not any(size % n for size in sizes))
    if kind == "none" or there == 1:
        return Spread("none", 1)
    return Spread("members" if kind == "auto" else kind, there)


def even_width(width: int, spread: Spread) -> int:
    """Return the least width from `width` on that the devices divide evenly."""
    return -(-width // spread.devices) * spread.devices if spread.kind == "members" else width


def over_members(function: Any, spread: Spread, own: int, shared: int) -> Any:
    """Return `function` of a population as one in which every device has its share of the members.
    Its first `own` arguments and what it returns have a leading axis of members."""
    specs = (P(AXIS),) * own + (P(),) * shared
    return jax.shard_map(
        function, mesh=_mesh(spread.devices), in_specs=specs, out_specs=P(AXIS), check_vma=False
    )


def over_batch(function: Any, spread: Spread) -> Any:
    """Return `function` traced for arrays whose examples are divided among devices. Norms then
    leave out what would move examples between them."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(_mesh(spread.devices).abstract_mesh):
            return function(*arguments)

    return traced


def to_devices(array: Any, sharding: NamedSharding | None) -> jax.Array:
    """Return an array that every process has whole where `sharding` says; None: on this device."""
    if sharding is None or jax.process_count() == 1:
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        words = to_devices(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(words, impl=str(jax.random.key_impl(array)))
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def for_processes(function: Any, shardings: tuple[Any, ...]) -> Any:
    """Return `function`, in several processes with its arguments placed as `shardings` say."""
    if jax.process_count() == 1:
        return function

    def placed(sharding: NamedSharding, part: Any) -> Any:
        return jax.tree.map(lambda array: to_devices(array, sharding), part)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*jax.tree.map(placed, shardings, arguments))

    return call
