"""Data sets of your own in a results directory: workers load the kept examples, and later commands
need no file.

    results/data/<name>.json, <name>.npz   the row, the examples
"""

from __future__ import annotations

from pathlib import Path

from normlab.data import DATASETS, OutsideData, outside_data
from normlab.runs import files
from normlab.runs.errors import Damaged


def keep_data(root: Path) -> None:
    """Keep the data sets that this command has read from files; raises StorageError."""
    for name, row in outside_data().items():
        if row.arrays:
            folder = files.make_folder(root, "data")
            files.write_atomic(folder / f"{name}.npz", row.kept_bytes())
            files.write_json(folder / f"{name}.json", row.facts() | {"name": name})


def read_data(path: Path) -> OutsideData:
    """Return a kept row, which says where its examples are; raises Damaged."""
    facts = files.read_json(path)
    try:
        if facts.pop("name") != path.stem:
            raise ValueError("it is of another data set")
        return OutsideData.from_facts(facts, str(path.with_suffix(".npz")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(path, str(error)) from error


def recall_data(root: Path) -> None:
    """Add the kept data sets to the table where their names are free; raises StorageError."""
    for path in sorted((root / "data").glob("*.json")):
        if path.stem not in DATASETS:
            DATASETS[path.stem] = read_data(path)
