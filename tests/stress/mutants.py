"""Writers and readers that are broken on purpose: a campaign that misses one proves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from normlab.norms import outside
from normlab.runs import checkpoints, files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import Damaged, NoCheckpoint, StorageError
from normlab.runs.store import Record, Store, curve_text
from normlab.settings import from_json

Mutant = list[tuple[Any, str, Any]]
"""An object, a name in it and what replaces it."""
SAVE, NEWEST, FINISH = PopulationFolder.save, PopulationFolder.newest, Store.finish
READ_NORMS, READ_JSON, WRITE = outside.read_norms, files.read_json, files.write_atomic


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Replace code by a mutant for as long as this lasts."""
    with ExitStack() as stack:
        for target in mutant:
            stack.enter_context(patch.object(*target))
        yield


def _write_over(path: Path, content: str | bytes) -> None:
    with open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _write_unsynced(path: Path, content: str | bytes) -> None:
    temporary = path.with_name(f".{path.name}.0.tmp")
    _write_over(temporary, content)
    os.replace(temporary, path)
    files.sync_folder(path.parent)


def _remove_first(folder: PopulationFolder, step: int, arrays: Any, facts: Any) -> None:
    folder._keep(0)
    SAVE(folder, step, arrays, facts)


def _facts_first(folder: PopulationFolder, step: int, arrays: Any, facts: Any) -> None:
    files.write_json(folder._facts_file(step), facts)  # read back, so with the seal of the arrays
    SAVE(folder, step, arrays, facts)


def _result_first(store: Store, run: str, result: Any, curve: Any) -> None:
    seal = {"run": run, "curve_sha256": hashlib.sha256(curve_text(curve).encode()).hexdigest()}
    files.write_json(store.run_dir(run) / "result.json", result | seal)
    FINISH(store, run, result, curve)


WRITERS: dict[str, Mutant] = {
    "a file is written over": [(files, "write_atomic", _write_over)],
    "a file is not synced": [(files, "write_atomic", _write_unsynced)],
    "a folder is not synced": [(files, "sync_folder", lambda folder: None)],
    "old checkpoints are removed first": [(PopulationFolder, "save", _remove_first)],
    "facts before arrays": [(PopulationFolder, "save", _facts_first)],
    "a result before its curve": [(Store, "finish", _result_first)],
    "temporary files stay": [(files, "remove_leftovers", lambda folder: None)],
}


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


CARELESS_WRITERS: dict[str, Mutant] = {
    "errors are swallowed": [(files, "write_atomic", _write_or_not)],
    "errors are not explained": [(files, "write_atomic", _unexplained)],
}


def _read_unsealed(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    del value["sha256"]
    return value


def _nothing_where_damaged(path: Path) -> dict[str, Any]:
    try:
        return READ_JSON(path)
    except Damaged:
        return {}


def _read_arrays_unsealed(folder: PopulationFolder, step: int, facts: Any) -> bytes:
    return folder._arrays_file(step).read_bytes()


def _save_raw(arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    for name, values in arrays.items():
        np.save(content, np.array(name))
        np.save(content, values)
    return content.getvalue()


def _load_raw(data: bytes) -> dict[str, np.ndarray]:
    content, arrays = io.BytesIO(data), {}
    while content.tell() < len(data):
        name = str(np.load(content))
        arrays[name] = np.load(content)
    return arrays


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


def _any_step(folder: PopulationFolder, step: int) -> dict[str, Any]:
    return files.read_json(folder._facts_file(step))


def _read_any_curve(store: Store, run: str) -> Record:
    """Read as the store does, but for the checksum of the curve."""
    facts = files.read_json(store.run_dir(run) / "result.json")
    known = {n: facts[n] for n in ("status", "final", "diverged_at", "seconds", "provenance")}
    lines = (store.run_dir(run) / "curve.jsonl").read_bytes().splitlines()
    curve = [json.loads(line) for line in lines]
    return Record(run_id=run, config=from_json(facts["config"]), curve=curve, **known)


def _read_any_norms(file: str, sha256: str = "") -> dict[str, Any]:
    return READ_NORMS(file)


ARRAYS_UNSEALED = (PopulationFolder, "_read_arrays", _read_arrays_unsealed)
RAW = [(checkpoints, "save", _save_raw), (checkpoints, "load", _load_raw)]
READERS: dict[str, Mutant] = {
    "arrays without a checksum": [ARRAYS_UNSEALED],
    "arrays as np.save writes them": [*RAW, ARRAYS_UNSEALED],
    "JSON without a checksum": [(files, "read_json", _read_unsealed)],
    "nothing where JSON is damaged": [(files, "read_json", _nothing_where_damaged)],
    "a fresh start where nothing can be read": [(PopulationFolder, "newest", _begin_again)],
    "no warning": [(PopulationFolder, "newest", _in_silence)],
    "damaged checkpoints are deleted": [(PopulationFolder, "_put_away", _throw_away)],
    "the step is not checked": [(PopulationFolder, "_read_facts", _any_step)],
    "a curve without a checksum": [(Store, "read", _read_any_curve)],
    "code without a checksum": [(outside, "read_norms", _read_any_norms)],
}
