"""Where workers run: one for each accelerator, else one for each core; found without jax."""

from __future__ import annotations

import importlib.util
import math
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from normlab.runs.provenance import available_cores

DEVICES = Path("/dev")
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Device:
    """A worker's place: a core of its own, or an accelerator of its own and any core."""

    core: int | None = None
    environment: dict[str, str] = field(default_factory=dict)


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that jax would use: there, visible, with jax's plugin."""
    has_plugin = any(importlib.util.find_spec(f"jax_cuda{v}_plugin") for v in (12, 13))
    if os.environ.get("JAX_PLATFORMS", "") == "cpu" or not has_plugin:
        return []
    there = [p.name.removeprefix("nvidia") for p in DEVICES.glob("nvidia[0-9]*")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return sorted(there) if chosen is None else [n for n in chosen.split(",") if n]


def has_tpu() -> bool:
    is_wanted = os.environ.get("JAX_PLATFORMS", "") != "cpu"
    return is_wanted and importlib.util.find_spec("libtpu") is not None


def cpu_quota() -> float:
    """Return how many cores the control groups of this process may keep busy, inf without a limit.

    A container may see all cores of its host and have the time of two.
    """
    try:
        groups = [line.split(":", 2) for line in OWN_GROUPS.read_text("utf-8").splitlines()]
    except OSError:
        return math.inf
    limits = [math.inf]
    for _, kinds, path in groups:
        if kinds == "" or "cpu" in kinds.split(","):
            own = GROUPS / ("cpu" if kinds else ".") / path.strip("/")
            limits += [cores_of_group(folder) for folder in (own, *own.parents)]
    return min(limits)


def cores_of_group(folder: Path) -> float:
    """Return the limit of one group in cores: of version 2, or else of version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text("utf-8") for name in names).split()
            return int(quota) / int(period) if int(quota) > 0 else math.inf
        except (OSError, ValueError):  # it is of the other version, or the quota is "max"
            continue
    return math.inf


def cores_to_use() -> list[int]:
    """Return the cores for workers: all that there are, or as many of them as the quota is worth.

    Those are drawn, so that two containers of a host seldom share theirs.
    """
    cores, quota = available_cores(), cpu_quota()
    return random.sample(cores, math.ceil(quota)) if quota <= len(cores) - 1 else cores


def find_devices(processes: int = 0) -> list[Device]:
    """Return the places of the workers: `processes` of them, or (0) as many as suit the machine.

    Two workers on one GPU would each try to take all of its memory, so there is one for each; a
    TPU has one. On a CPU two workers of one core each train small networks twice as fast as one
    with two cores.
    """
    gpus = visible_gpus()
    if gpus:
        found = [Device(environment={"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus]
    elif has_tpu():
        found = [Device()]
    else:
        found = [Device(core=core) for core in cores_to_use()]
    return [found[i % len(found)] for i in range(processes or len(found))]
