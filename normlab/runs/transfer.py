"""Results and checkpoints on their way from one store to another: the same bytes, checked first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from normlab.runs import files
from normlab.runs.checkpoints import MANIFEST, NAME, UNFINISHED, PopulationFolder
from normlab.runs.errors import Damaged
from normlab.runs.params import NAME as PARAMS
from normlab.runs.provenance import missing_facts
from normlab.runs.record import Record, record_of_files
from normlab.runs.store import Store
from normlab.settings import Config

Contents = Mapping[str, bytes]
"""Name of a file -> what is in it."""


def contents_of(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Return the files of a folder whose names match a pattern."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return {path.name: path.read_bytes() for path in sorted(found) if path.is_file()}


def run_contents(store: Store, run_id: str) -> dict[str, bytes]:
    """Return the files of a finished run."""
    return contents_of(store.run_dir(run_id), "result.json", "curve.jsonl", PARAMS)


def checkpoint_contents(folder: PopulationFolder, step: int) -> dict[str, bytes]:
    """Return the files with which another store can continue from a checkpoint."""
    return contents_of(
        folder.path,
        MANIFEST,
        UNFINISHED,
        f"checkpoint-{step:010d}.json",
        f"checkpoint-{step:010d}.safetensors",
    )


def write_contents(folder: Path, contents: Contents) -> None:
    """Write files whose senders this process trusts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def adopt_run(store: Store, run_id: str, config: Config, contents: Contents) -> Record:
    """Finish a run with the files that another store wrote for `config`; return its record. The
    caller holds its lock. Raises StorageError, and Damaged where they are not as that store wrote
    them."""
    folder, params = store.run_dir(run_id), ""
    try:
        result = files.parse_json(folder / "result.json", contents["result.json"])
        record = record_of_files(run_id, result, contents["curve.jsonl"])
        params = record.provenance.get("params_sha256", "")
        if params and hashlib.sha256(contents[PARAMS]).hexdigest() != params:
            raise ValueError(f"sha256 mismatch of its {PARAMS}")
        if record.config != config or missing_facts(record.provenance):
            raise ValueError("it is not the run that was asked for, or lacks its provenance")
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = error.why if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        raise Damaged(f"what arrived of run {run_id}", reason, "train it again") from error
    for name in ("curve.jsonl", *([PARAMS] if params else []), "result.json"):
        files.write_atomic(folder / name, contents[name])
    (folder / "failure.json").unlink(missing_ok=True)
    return record


def adopt_checkpoints(folder: PopulationFolder, contents: Contents) -> None:
    """Take over a manifest, and checkpoints where there are some. The caller holds the locks of the
    runs. Raises Damaged where they are not as another store wrote them, and StorageError."""
    files.make_folder(folder.root, "populations", folder.name)
    if MANIFEST in contents:
        path = folder.path / MANIFEST
        if not folder.owns(files.parse_json(path, contents[MANIFEST])):
            raise Damaged(path, "what arrived is of another population")
        files.write_atomic(path, contents[MANIFEST])
    for name in sorted(filter(NAME.fullmatch, contents)):
        path = folder.path / name
        facts = folder.checked(int(path.stem[-10:]), files.parse_json(path, contents[name]))
        arrays = contents.get(f"{path.stem}.safetensors", b"")
        if hashlib.sha256(arrays).hexdigest() != facts.get("arrays_sha256"):
            raise Damaged(path.with_suffix(".safetensors"), "sha256 mismatch on its way")
        files.write_atomic(path.with_suffix(".safetensors"), arrays)
        files.write_atomic(path, contents[name])
        folder.mark()
        folder.keep()
