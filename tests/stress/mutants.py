"""Writers and readers that are broken on purpose: a campaign that misses one proves nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from normlab.runs import files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import NoCheckpoint, StorageError
from normlab.runs.store import Record, Store, curve_text
from normlab.settings import from_json

Mutant = list[tuple[Any, str, Any]]
"""An object, a name in it and what replaces it."""
SAVE, NEWEST, FINISH = PopulationFolder.save, PopulationFolder.newest, Store.finish
WRITE = files.write_atomic


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


def _result_first(store: Store, run: str, result: Any, curve: Any) -> None:
    seal = {"run": run, "curve_sha256": hashlib.sha256(curve_text(curve).encode()).hexdigest()}
    files.write_json(store.run_dir(run) / "result.json", result | seal)
    FINISH(store, run, result, curve)


WRITERS: dict[str, Mutant] = {
    "a file is written over": [(files, "write_atomic", _write_over)],
    "a file is not synced": [(files, "write_atomic", _write_unsynced)],
    "a folder is not synced": [(files, "sync_folder", lambda folder: None)],
    "old checkpoints are removed first": [(PopulationFolder, "save", _remove_first)],
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
    facts = files.read_json(store.run_dir(run) / "result.json")
    known = {n: facts[n] for n in ("status", "final", "diverged_at", "seconds", "provenance")}
    lines = (store.run_dir(run) / "curve.jsonl").read_bytes().splitlines()
    curve = [json.loads(line) for line in lines]
    return Record(run_id=run, config=from_json(facts["config"]), curve=curve, **known)


READERS: dict[str, Mutant] = {
    "arrays without a checksum": [(PopulationFolder, "_read_arrays", _read_arrays_unsealed)],
    "JSON without a checksum": [(files, "read_json", _read_unsealed)],
    "a fresh start where nothing can be read": [(PopulationFolder, "newest", _begin_again)],
    "no warning": [(PopulationFolder, "newest", _in_silence)],
    "damaged checkpoints are deleted": [(PopulationFolder, "_put_away", _throw_away)],
    "a curve without a checksum": [(Store, "read", _read_any_curve)],
}
