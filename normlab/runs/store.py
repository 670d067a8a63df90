"""The results directory: one folder for each run, finished by an atomic rename.

    results/runs/<run id>/   result.json (the only done marker), curve.jsonl, failure.json, .lock
    results/populations/<id>/   which runs train together, and checkpoints: runs/checkpoints.py
    results/norms, results/models   norms and networks from outside: kept_rows.py
    results/data/<name>.json, <name>.npz   data of your own: kept_data.py

All JSON but the lines of curve.jsonl ends with its own checksum; a result holds that of its curve.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normlab.runs import files
from normlab.runs.errors import BadResultsDirectory, Damaged, StorageError
from normlab.runs.kept_data import keep_data
from normlab.runs.kept_rows import keep_rows
from normlab.runs.provenance import is_commit_lost, missing_facts
from normlab.runs.record import Record, record_of_files
from normlab.shipped import as_called


class Store:
    """Everything that is read from and written to one results directory."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def open(self) -> Store:
        """Create the directory if need be; raises StorageError where that is not allowed."""
        try:
            (self.root / "runs").mkdir(parents=True, exist_ok=True)
            (self.root / "populations").mkdir(exist_ok=True)
            os.listdir(self.root / "runs")
        except OSError as error:
            raise StorageError(
                f"results directory {str(self.root)!r} cannot be used ({error.strerror}); "
                "give another one with --results=DIR"
            ) from error
        keep_rows(self.root)
        keep_data(self.root)
        return self

    def check(self, is_written: bool = True) -> None:
        """Raise BadResultsDirectory, writing nothing, where the directory cannot be used."""
        needed = os.R_OK | os.X_OK | (os.W_OK if is_written else 0)
        for part in ("", "runs", "populations", "studies"):
            place = self.root / part
            while not os.path.lexists(place) and place != place.parent:
                place = place.parent
            if not place.is_dir() or not os.access(place, needed):
                kind = "readable and writable" if is_written else "readable"
                raise BadResultsDirectory(
                    f"results directory {str(self.root)!r} cannot be used: {str(place)!r} is not a "
                    f"{kind} directory; give another one with --results=DIR"
                )

    def doubts(self) -> list[str]:
        """Return what the user should know before runs are trained here."""
        doubts, kind = [], files.network_file_system(self.root)
        if kind:
            doubts.append(
                f"the results directory {str(self.root)!r} is on {kind}, a network file system, "
                "whose locks cannot be relied on: let one command work on it at a time, or use a "
                "local one"
            )
        if is_commit_lost():
            doubts.append(
                "the commit of the code is unknown, since git cannot read its repository; "
                "the results will say so"
            )
        return doubts

    def run_dir(self, run_id: str) -> Path:
        return files.inside(self.root, "runs", run_id)

    def is_done(self, run_id: str) -> bool:
        return os.path.exists(f"{self.root}/runs/{run_id}/result.json")

    def done(self) -> set[str]:
        """Return the ids of all finished runs; asked after every population, so no link is followed
        up here, but when a run is read."""
        try:
            names = os.listdir(self.root / "runs")
        except FileNotFoundError:
            return set()
        return {name for name in names if files.NAME.fullmatch(name) and self.is_done(name)}

    def read(self, run_id: str) -> Record:
        """Return a finished run; raises Damaged where a bit of it is not as it was written."""
        folder = self.run_dir(run_id)
        try:
            result = files.read_json(folder / "result.json")
            curve = files.read_bytes(folder / "curve.jsonl", files.LARGEST_JSON)
            return record_of_files(run_id, result, curve)
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise Damaged(
                f"the record of run {run_id} in {str(folder)!r}",
                error.why if isinstance(error, Damaged) else f"{type(error).__name__}: {error}",
                as_called("scripts/study.py sets it aside and trains the run again"),
                run_id,
            ) from error

    def live_curve(self, run_id: str) -> list[dict[str, float]]:
        """Return the evaluations of a run that may be going on; a torn last line is left out."""
        content = (self.run_dir(run_id) / "curve.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in content.splitlines(True) if line.endswith("\n")]

    def lock(self, run_id: str) -> FileLock | None:
        """Return the run's lock, taken; None where another process holds it. The kernel frees it
        when its holder dies."""
        folder = self.run_dir(run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
            lock.acquire()
        except Timeout:
            return None
        except OSError as error:
            raise files.unwritable(folder / ".lock", error) from error
        files.remove_leftovers(folder)
        return lock

    def start_curve(self, run_id: str, rows: list[dict[str, float]] | None = None) -> None:
        """Begin the curve of a run, with the rows that its checkpoint holds."""
        self._write_curve(run_id, "w", rows or [])

    def append_curve(self, run_id: str, rows: list[dict[str, float]]) -> None:
        self._write_curve(run_id, "a", rows)

    def _write_curve(self, run_id: str, mode: str, rows: list[dict[str, float]]) -> None:
        path, text = self.run_dir(run_id) / "curve.jsonl", curve_text(rows)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
            flags |= os.O_TRUNC if mode == "w" else os.O_APPEND
            with open(os.open(path, flags, 0o666), mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise files.unwritable(path, error, len(text)) from error

    def finish(self, run_id: str, result: dict[str, Any], curve: list[dict[str, float]]) -> None:
        """Write the curve, then result.json: from now on the run is done. Raises StorageError, and
        ValueError where the provenance is not complete."""
        missing = missing_facts(result["provenance"])
        if missing:
            raise ValueError(f"the provenance of run {run_id} lacks {', '.join(missing)}")
        folder, text = self.run_dir(run_id), curve_text(curve)
        files.write_atomic(folder / "curve.jsonl", text)
        seal = {"run": run_id, "curve_sha256": hashlib.sha256(text.encode()).hexdigest()}
        files.write_json(folder / "result.json", result | seal)
        (folder / "failure.json").unlink(missing_ok=True)

    def fail(self, run_id: str, facts: dict[str, Any]) -> None:
        """Keep why a run could not be finished; the next command tries it again."""
        folder = self.run_dir(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "failure.json", facts)

    def set_aside(self, run_id: str, why: str) -> None:
        """Let a finished run be repeated: result.json becomes result.<why>.json, never deleted."""
        folder = self.run_dir(run_id)
        files.move_aside(folder / "result.json", folder / f"result.{why}.json")


def curve_text(rows: list[dict[str, float]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


class Records(Mapping[str, Record]):
    """The finished runs of a store, each read when it is first asked for."""

    def __init__(self, store: Store):
        self.store = store
        self.ids = store.done()
        self.kept: dict[str, Record] = {}

    def __getitem__(self, run_id: str) -> Record:
        if run_id not in self.ids:
            raise KeyError(run_id)
        if run_id not in self.kept:
            self.kept[run_id] = self.store.read(run_id)
        return self.kept[run_id]

    def __contains__(self, run_id: object) -> bool:
        return run_id in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def forget(self, run_id: str, why: str = "stale") -> None:
        """Set a finished run aside: it will be repeated."""
        self.store.set_aside(run_id, why)
        self.ids.discard(run_id)
        self.kept.pop(run_id, None)
