"""The results directory: one folder for each run, finished by an atomic rename.

results/runs/<run id>/   result.json (the only done marker), curve.jsonl, .lock
results/populations/<id>/manifest.json   which runs trained together, in which order
results/norms/<name>.json, <sha256>.py   norms from outside: the row as last used, and its file
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normlab.norms.outside import OutsideNorm, outside_norms
from normlab.norms.table import NORMS
from normlab.settings import Config, from_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_collections")
TRAINING_CODE = (
    "axes.py",
    "evaluations.py",
    "moments.py",
    "optim.py",
    "norms",
    "models",
    "data",
    "engine",
)


class StorageError(RuntimeError):
    """The results directory cannot be read or written: one line, exit code 7."""


class BadResultsDirectory(StorageError):
    """What --results names is no directory to work in: found before anything runs, exit code 2."""


@dataclass(frozen=True)
class Record:
    """A finished run, as read back."""

    run_id: str
    config: Config
    status: str
    final: dict[str, float]
    curve: list[dict[str, float]]
    diverged_at: int | None = None
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that it exists whole or not at all, also when the machine dies."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
            self._keep_norms()
        except OSError as error:
            raise StorageError(
                f"results directory {str(self.root)!r} cannot be used ({error.strerror}); "
                "give another one with --results=DIR"
            ) from error
        return self

    def _keep_norms(self) -> None:
        """Keep the norms from outside: their files, which workers load, so that editing one while
        a study runs changes nothing; and their rows, so that reports need neither file nor jax."""
        for name, row in outside_norms().items():
            (self.root / "norms").mkdir(exist_ok=True)
            write_atomic(self._norm_file(row), row.code)
            write_atomic(self.root / "norms" / f"{name}.json", row.to_json())

    def _norm_file(self, row: OutsideNorm) -> Path:
        return self.root / "norms" / f"{row.sha256[:16]}.py"

    def norm_files(self) -> list[Path]:
        """Return the kept files of the norms from outside that this command knows."""
        return sorted({self._norm_file(row) for row in outside_norms().values()})

    def recall_norms(self) -> None:
        """Add the kept rows to the table where their names are free; raises StorageError."""
        for path in sorted((self.root / "norms").glob("*.json")):
            if path.stem not in NORMS:
                try:
                    row = OutsideNorm.from_json(path.read_text(encoding="utf-8"))
                except (OSError, ValueError, TypeError, AttributeError) as error:
                    raise StorageError(
                        f"{str(path)!r} is damaged ({error}); move it away"
                    ) from error
                NORMS[path.stem] = row

    def check(self) -> None:
        """Raise BadResultsDirectory, writing nothing, where the directory cannot be used."""
        place = self.root
        while not os.path.exists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise BadResultsDirectory(
                f"results directory {str(self.root)!r} cannot be used: {str(place)!r} is not a "
                "readable and writable directory; give another one with --results=DIR"
            )

    def run_dir(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def is_done(self, run_id: str) -> bool:
        return (self.run_dir(run_id) / "result.json").exists()

    def done(self) -> set[str]:
        """Return the ids of all finished runs."""
        try:
            names = os.listdir(self.root / "runs")
        except FileNotFoundError:
            return set()
        return {name for name in names if self.is_done(name)}

    def read(self, run_id: str) -> Record:
        """Return a finished run; raises StorageError where its record is damaged."""
        folder = self.run_dir(run_id)
        try:
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            curve = self.read_curve(run_id)
            return Record(
                run_id=run_id,
                config=from_json(result["config"]),
                status=result["status"],
                final=result["final"],
                curve=curve,
                diverged_at=result["diverged_at"],
                seconds=result["seconds"],
                provenance=result["provenance"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"the record of run {run_id} in {str(folder)!r} is damaged ({error}); "
                "move the folder away and run the study again"
            ) from error

    def read_curve(self, run_id: str) -> list[dict[str, float]]:
        """Return the evaluations of a run, also of one that is still going."""
        path = self.run_dir(run_id) / "curve.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def lock(self, run_id: str) -> FileLock | None:
        """Return the run's lock, taken; None where another process holds it."""
        folder = self.run_dir(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def start_curve(self, run_id: str) -> None:
        (self.run_dir(run_id) / "curve.jsonl").write_text("", encoding="utf-8")

    def append_curve(self, run_id: str, rows: list[dict[str, float]]) -> None:
        with open(self.run_dir(run_id) / "curve.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def finish(self, run_id: str, result: dict[str, Any]) -> None:
        """Write result.json, after the curve is on the disk: from now on the run is done."""
        with open(self.run_dir(run_id) / "curve.jsonl", "rb") as curve:
            os.fsync(curve.fileno())
        write_atomic(self.run_dir(run_id) / "result.json", json.dumps(result, indent=1))

    def write_manifest(self, run_ids: list[str], facts: dict[str, Any]) -> str:
        """Record that these runs train together; return the population's id."""
        name = hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]
        folder = self.root / "populations" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "manifest.json", json.dumps({"runs": run_ids, **facts}, indent=1))
        return name


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

    def forget(self, run_id: str) -> None:
        """Set a finished run aside (result.json becomes result.stale.json): it will be repeated."""
        folder = self.store.run_dir(run_id)
        os.replace(folder / "result.json", folder / "result.stale.json")
        self.ids.discard(run_id)
        self.kept.pop(run_id, None)


def read_json(path: Path) -> dict:
    """Return a JSON object of the results directory, {} where there is none yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(f"{str(path)!r} is damaged ({error}); move it away") from error
    return found if isinstance(found, dict) else {}


def timing_place(facts: dict[str, Any]) -> str:
    """Return under which key the step times of a machine and of this code are kept."""
    return f"{facts.get('processor')}, code {facts.get('code')}"


@functools.cache
def code_hash() -> str:
    """Return the hash of the code that decides what a run computes."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for name in TRAINING_CODE:
        place = package / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def git_commit() -> str:
    """Return the commit of the code, with "+changes" where the tree is not clean; or unknown."""
    here = Path(__file__).resolve().parents[2]
    try:
        run = functools.partial(
            subprocess.run, cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
        commit = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        dirty = run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if dirty else "")


def host_facts() -> dict[str, Any]:
    """Return what every result says of where it was made."""
    return {
        "git_commit": git_commit(),
        "code": code_hash(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


@functools.cache
def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
