"""What engines have in common whose workers are on other machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normlab.data import outside_data
from normlab.launch.engines.engine import Facts
from normlab.runs.kept_rows import row_files

SILENT_S = 60.0
"""Seconds without a sign of life after which the machine of a worker counts as lost."""


def gone(status: str, message: str) -> Facts:
    """Return the event of a worker that has ended."""
    return {"event": "gone", "status": status, "message": message}


def unfit(message: str) -> Facts:
    """Return the event of a worker that must train nothing."""
    return {"event": "unfit", "message": message}


def checked(facts: Facts, ours: Mapping[str, Any], node: str) -> Facts:
    """Return the event of a worker that is ready. Where its code or its libraries are not those of
    this command, of which `ours` are the facts, return that none is fit."""
    name = "training_version"
    if facts[name] != ours[name]:
        return unfit(
            f"node {node} has training version {facts[name]}, this command {ours[name]}; use "
            "--launch.code=ship, or install the same normlab there"
        )
    here, there = ours["versions"], facts["versions"]
    if other := [f"{n} {there[n]}, not {here[n]}" for n in here if there[n] != here[n]]:
        return unfit(
            f"node {node} has {'; '.join(other)}: results would not be comparable; install the "
            "same versions there"
        )
    return facts


def kept_names(root: Path) -> dict[str, list[str]]:
    """Return folder -> names of the files in it with the norms, networks and data sets of the
    user."""
    names = {kind: [Path(file).name for file in paths] for kind, paths in row_files(root).items()}
    data = [f"{name}.{end}" for name in outside_data() for end in ("json", "npz")]
    return names | {"data": data}


def kept_files(root: Path, names: Mapping[str, list[str]]) -> dict[str, dict[str, bytes]]:
    """Return folder -> name -> content of such files."""
    return {
        kind: {name: (root / kind / name).read_bytes() for name in found}
        for kind, found in names.items()
    }
