"""Where workers run: one for each accelerator, else one for each core; found without jax."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from normlab.runs.provenance import available_cores

DEVICES = Path("/dev")


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
        found = [Device(core=core) for core in available_cores()]
    return [found[i % len(found)] for i in range(processes or len(found))]
