"""One population over several devices: its members, or the examples of its batches."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
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
            return f"{mode}, batches over {self.devices} devices"
        is_wide = self.kind == "members" and mode == "vmap"
        return f"{mode}, {width // self.devices} a device" if is_wide else mode


@functools.cache
def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), (AXIS,), axis_types=(AxisType.Auto,))


def choose_spread(config: Config) -> Spread:
    """Return what `host.mesh` divides here. A batch goes to the most devices that divide it, and
    late batches, evenly."""
    kind, there = config["host.mesh"], jax.device_count()
    if kind == "batch":
        sizes = config["data.batch"], config["train.late_batch"]
        there = max(n for n in range(1, there + 1) if not any(size % n for size in sizes))
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
