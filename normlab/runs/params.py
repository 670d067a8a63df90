"""The parameters and statistics of a finished run, kept where host.keep_params says so.

results/runs/<run id>/params.safetensors   its names are <collection>/<module>/<leaf>
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy import ascontiguousarray, ndarray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from normlab.runs import files
from normlab.runs.checkpoints import LARGEST_ARRAYS
from normlab.runs.errors import Damaged, StorageError
from normlab.runs.record import Record

COLLECTIONS = ("params", "batch_stats", "norm_state")
NAME = "params.safetensors"


def save_params(folder: Path, arrays: Mapping[str, ndarray]) -> dict[str, str]:
    """Write the leaves of COLLECTIONS of a run; return the fact by which they are recognised.
    Raises StorageError."""
    kept = {n: ascontiguousarray(a) for n, a in arrays.items() if n.startswith(COLLECTIONS)}
    data = save(kept)
    files.write_atomic(folder / NAME, data)
    return {"params_sha256": hashlib.sha256(data).hexdigest()}


def load_params(folder: Path, run: Record) -> dict[str, Any]:
    """Return the variables of a run as Flax knows them: collection -> module -> leaf, arrays of
    NumPy. Raises StorageError where they were not kept, and Damaged."""
    path, expected = folder / NAME, run.provenance.get("params_sha256")
    if expected is None or not path.exists():
        raise StorageError(
            f"run {run.run_id} has no kept parameters in {str(folder)!r}; train it again with "
            "--keep_params and --restart"
        )
    try:
        data = files.read_bytes(path, LARGEST_ARRAYS)
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError("sha256 mismatch")
        found = load(data)
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(path, str(error)) from error
    tree: dict[str, Any] = {name: {} for name in COLLECTIONS}
    for name, leaf in found.items():
        *groups, last = name.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = leaf
    return tree


def is_unkept(run: Record, config: dict[str, Any]) -> bool:
    """Return whether a finished run lacks the parameters that `config` would keep."""
    has_them = "params_sha256" in run.provenance or run.status != "trained"
    return config["host.keep_params"] and not has_them
