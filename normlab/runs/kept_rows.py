"""Norms and networks from outside in a results directory.

    results/norms/<name>.json, <sha256>.py    the row as last used, its file
    results/models/<name>.json, <sha256>.py

Workers load the kept files, so editing one while a study runs changes nothing. With the kept rows
reports need neither file nor jax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from normlab.models.outside import OutsideModel, outside_models
from normlab.models.table import MODELS
from normlab.norms.outside import OutsideNorm, outside_norms
from normlab.norms.table import NORMS
from normlab.outside import OutsideRow
from normlab.runs import files
from normlab.runs.errors import Damaged

OUTSIDE: dict[str, tuple[dict[str, Any], Any, Callable[[], Mapping[str, OutsideRow]]]] = {
    "norms": (NORMS, OutsideNorm, outside_norms),
    "models": (MODELS, OutsideModel, outside_models),
}
"""Folder -> the table, the class of a row from outside, and those that this command knows."""


def keep_rows(root: Path) -> None:
    """Keep the rows that this command has read from files; raises StorageError."""
    for kind, (_, _, known) in OUTSIDE.items():
        for name, row in known().items():
            folder = files.make_folder(root, kind)
            files.write_atomic(folder / f"{row.sha256}.py", row.code)
            files.write_json(folder / f"{name}.json", row.facts() | {"name": name})


def row_files(root: Path) -> dict[str, list[str]]:
    """Return folder -> the kept files of the rows that this command knows. Each is named by its
    sha256, which the worker checks before it runs one."""
    return {
        kind: sorted({str(root / kind / f"{row.sha256}.py") for row in known().values()})
        for kind, (_, _, known) in OUTSIDE.items()
    }


def read_row(path: Path) -> Any:
    """Return a kept row; raises Damaged."""
    facts = files.read_json(path)
    try:
        if facts["name"] != path.stem:
            raise ValueError(f"it is that of {facts['name']!r}")
        return OUTSIDE[path.parent.name][1].from_facts(facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(path, str(error)) from error


def recall_rows(root: Path) -> None:
    """Add the kept rows to their tables where their names are free; raises StorageError."""
    for kind, (table, _, _) in OUTSIDE.items():
        for path in sorted((root / kind).glob("*.json")):
            if path.stem not in table:
                table[path.stem] = read_row(path)
