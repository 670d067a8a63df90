"""Examine a results directory with the readers of the store, and change nothing.

The readers decide what is damaged. This file only asks them for everything that there is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from normlab.data.outside import read_outside
from normlab.runs import files
from normlab.runs.checkpoints import POPULATION, PopulationFolder
from normlab.runs.errors import BadResultsDirectory, Damaged, NoCheckpoint
from normlab.runs.kept_data import read_data
from normlab.runs.kept_rows import read_row
from normlab.runs.params import load_params
from normlab.runs.store import Store

DAMAGE = ("damaged", "lost")
LONGEST = 320


class Finding(NamedTuple):
    kind: str
    """One of DAMAGE, "stopped" of a population, or else the state of a run."""
    path: str
    """Below the results directory."""
    message: str = ""
    """What it is and what to do."""

    def line(self) -> str:
        """Return it as one line that a terminal prints as it is, not too long."""
        text = f"{self.path}: {self.message}"
        text = text if text.isprintable() else ascii(text)[1:-1]
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def examine(root: str | Path) -> Iterator[Finding]:
    """Yield a finding for every run, every population and every damaged file; raises
    BadResultsDirectory where `root` holds no results."""
    store = Store(root)
    if not os.access(store.root / "runs", os.R_OK | os.X_OK):
        why = "has no readable folder runs/: no results directory; give one with --results=DIR"
        raise BadResultsDirectory(f"{str(root)!r} {why}")
    for pattern, read in READERS.items():
        for path in sorted(store.root.glob(pattern)):
            name = str(path.relative_to(store.root))
            try:
                yield from read(store, files.inside(store.root, *Path(name).parts)) or ()
            except FileNotFoundError:
                pass  # a study removed it after the folder was listed
            except NoCheckpoint as error:
                yield Finding("lost", name, str(error))
            except Exception as error:  # what its reader does not understand is damaged
                yield Finding("damaged", name, str(error) or type(error).__name__)


def _read_json(_: Store, path: Path) -> None:
    files.read_json(path)


def _read_row(_: Store, path: Path) -> None:
    read_row(path)


def _read_data(_: Store, path: Path) -> None:
    """Read the examples too, and compare them with the hash of their row."""
    read_outside(path.stem, read_data(path))


def _read_code(_: Store, path: Path) -> None:
    """Compare code from outside with its name, as a worker does before it runs the code."""
    if hashlib.sha256(files.read_bytes(path, files.LARGEST_JSON)).hexdigest() != path.stem:
        raise Damaged(path, "sha256 mismatch")


def _read_population(store: Store, path: Path) -> Iterator[Finding]:
    population, name = PopulationFolder(store, path.name), f"populations/{path.name}"
    if not (POPULATION.fullmatch(path.name) and population.is_unfinished()):
        return
    runs, usable = population.runs(), []
    left = [run for run in runs if not store.is_done(run)]
    if not left or any(_is_held(store, run) for run in runs):
        return
    for step in population.steps():
        try:
            usable.append(population.read(step).step)
        except Damaged as error:
            yield Finding("damaged", f"{name}/checkpoint-{step:010d}", str(error))
    if not usable:
        raise NoCheckpoint(f"no usable checkpoint; --restart begins its {len(runs)} runs again")
    go_on = f"{len(left)} of {len(runs)} runs continue at step {usable[0]}"
    yield Finding("stopped", name, f"{go_on}; the command that began them continues")


def _read_run(store: Store, path: Path) -> Iterator[Finding]:
    names, name = os.listdir(path), f"runs/{path.name}"
    if "result.json" in names:
        run = store.read(path.name)
        yield Finding("diverged" if run.status == "diverged" else "finished", name)
        if "params_sha256" in run.provenance:
            load_params(path, run)
    elif _is_held(store, path.name):
        yield Finding("trained now", name)
    elif "failure.json" in names:
        last = files.read_json(path / "failure.json")["attempts"][-1]
        ended = f"{last['status']}: {last['message']}"[:200]
        yield Finding("failed", name, f"{ended}; the next study tries it again")
    elif "curve.jsonl" in names:
        yield Finding("half done", name)


def _is_held(store: Store, run: str) -> bool:
    """Return whether a process trains a run, without writing to the lock file."""
    try:
        handle = os.open(store.run_dir(run) / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


READERS: dict[str, Callable[[Store, Path], Iterator[Finding] | None]] = {
    "*.json": _read_json,
    "studies/*.json": _read_json,
    "bench/*.json": _read_json,
    "data/*.json": _read_data,
    "norms/*.json": _read_row,
    "norms/*.py": _read_code,
    "models/*.json": _read_row,
    "models/*.py": _read_code,
    "populations/*/manifest.json": _read_json,
    "populations/*/": _read_population,
    "runs/*/": _read_run,
}
"""Pattern of paths -> what reads them."""
