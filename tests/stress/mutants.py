"""Writers and readers that are broken on purpose: a campaign that misses one proves nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normlab.runs import files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import NoCheckpoint, StorageError
from normlab.runs.record import Record, record_of
from normlab.runs.store import Store, curve_text

Mutant = tuple[Any, str, Any]
"""An object, a name in it and what replaces it, as `patch.object` takes them."""
SAVE, NEWEST, FINISH = PopulationFolder.save, PopulationFolder.newest, Store.finish
WRITE = files.write_atomic


def _write_over(path: Path, content: str | bytes) -> None:
    with open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _write_unsynced(path: Path, content: str | bytes) -> None:
    temporary = path.with_name(f".{path.name}.0.tmp")
    _write_over(temporary, content)
    os.replace(temporary, path)
    files.sync_folder(path.parent)


def _remove_first(folder: PopulationFolder, step: int, arrays: Any, facts: Any) -> None:
    folder.keep(0)
    SAVE(folder, step, arrays, facts)


def _result_first(store: Store, run: str, result: Any, curve: Any) -> None:
    seal = {"run": run, "curve_sha256": hashlib.sha256(curve_text(curve).encode()).hexdigest()}
    files.write_json(store.run_dir(run) / "result.json", result | seal)
    FINISH(store, run, result, curve)


def _write_or_not(path: Path, content: str | bytes) -> None:
    try:
        WRITE(path, content)
    except StorageError:
        pass


def _unexplained(path: Path, content: str | bytes) -> None:
    try:
        WRITE(path, content)
    except StorageError as error:
        raise OSError("cannot write") from error


WRITERS: dict[str, tuple[str, Mutant]] = {
    "a file is written over": ("power", (files, "write_atomic", _write_over)),
    "a file is not synced": ("power", (files, "write_atomic", _write_unsynced)),
    "a folder is not synced": ("power", (files, "sync_folder", lambda folder: None)),
    "old checkpoints are removed first": ("power", (PopulationFolder, "save", _remove_first)),
    "a result before its curve": ("power", (Store, "finish", _result_first)),
    "temporary files stay": ("power", (files, "remove_leftovers", lambda folder: None)),
    "errors are swallowed": ("full", (files, "write_atomic", _write_or_not)),
    "errors are not explained": ("full", (files, "write_atomic", _unexplained)),
}
"""Mutant -> the way of stress.crashes that must show it, and what it replaces."""


def _read_unsealed(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    del value["sha256"]
    return value


def _read_arrays_unsealed(folder: PopulationFolder, step: int, facts: Any) -> bytes:
    return folder._arrays_file(step).read_bytes()


def _begin_again(folder: PopulationFolder, warn: Callable[[str], None]) -> Checkpoint | None:
    try:
        return NEWEST(folder, warn)
    except NoCheckpoint:
        return None


def _in_silence(folder: PopulationFolder, warn: Callable[[str], None]) -> Checkpoint | None:
    return NEWEST(folder, lambda message: None)


def _throw_away(folder: PopulationFolder, step: int) -> None:
    for path in (folder._arrays_file(step), folder._facts_file(step)):
        path.unlink(missing_ok=True)


def _read_any_curve(store: Store, run: str) -> Record:
    """Read as the store does, but for the checksum of the curve."""
    result = files.read_json(store.run_dir(run) / "result.json")
    lines = (store.run_dir(run) / "curve.jsonl").read_bytes().splitlines()
    return record_of(run, result, [json.loads(line) for line in lines])


READERS: dict[str, Mutant] = {
    "arrays without a checksum": (PopulationFolder, "_read_arrays", _read_arrays_unsealed),
    "JSON without a checksum": (files, "read_json", _read_unsealed),
    "a fresh start where nothing can be read": (PopulationFolder, "newest", _begin_again),
    "no warning": (PopulationFolder, "newest", _in_silence),
    "damaged checkpoints are deleted": (PopulationFolder, "_put_away", _throw_away),
    "a curve without a checksum": (Store, "read", _read_any_curve),
}
