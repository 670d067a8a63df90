"""Checkpoints of a population: found whole and unchanged, or not used, and never in silence.

    results/populations/<id>/manifest.json       which runs train together, in which order
    .../checkpoint-<step>.safetensors            the arrays of their states
    .../checkpoint-<step>.json                   all else, and the sha256 of the arrays
    .../unfinished                               from the first checkpoint to the last result

The JSON file is renamed into place last: without it there is no checkpoint. The newest two are
kept. One that is damaged becomes <name>.corrupt, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from normlab.runs import files
from normlab.runs.errors import Damaged, NoCheckpoint, StorageError
from normlab.runs.store import Store
from normlab.settings import Config, from_json

KEPT = 2
MANIFEST, UNFINISHED = "manifest.json", "unfinished"
LARGEST_ARRAYS = 64 * 1024**3
NAME = re.compile(r"checkpoint-(\d{10})\.json")
POPULATION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Checkpoint:
    """What one save holds."""

    step: int
    arrays: dict[str, ndarray]
    facts: dict[str, Any]


def population_id(run_ids: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(run_ids).encode()).hexdigest()[:16]


class PopulationFolder:
    """What is kept of one population. Any process that writes here holds the locks of its runs."""

    def __init__(self, store: Store, name: str):
        self.root, self.name = store.root, name
        self.path = files.inside(self.root, "populations", name)

    def form(self, configs: Mapping[str, Config], facts: dict[str, Any]) -> None:
        """Record that these runs train together, in this order."""
        files.make_folder(self.root, "populations", self.name)
        files.remove_leftovers(self.path)
        files.write_json(self.path / MANIFEST, {"runs": dict(configs), "facts": facts})

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, newest first, read or not."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return []
        return sorted((int(m[1]) for m in map(NAME.fullmatch, names) if m), reverse=True)

    def is_unfinished(self) -> bool:
        """Return whether the population stopped after its first checkpoint, or is training now."""
        return (self.path / UNFINISHED).exists() or bool(self.steps())

    def runs(self) -> dict[str, Config]:
        """Return the runs as they were formed, from the manifest or else from a checkpoint that can
        be read; raises NoCheckpoint where none can."""
        paths = [self.path / MANIFEST, *(self._facts_file(step) for step in self.steps())]
        for path in paths:
            try:
                facts = files.read_json(path)
                if self.owns(facts):
                    return {name: from_json(c) for name, c in facts["runs"].items()}
            except (FileNotFoundError, Damaged, AttributeError):
                continue
        raise NoCheckpoint(
            f"population {self.name}: neither its manifest nor a checkpoint can be read, so "
            f"nobody knows its runs; move {str(self.path)!r} away to restart them"
        )

    def owns(self, facts: dict[str, Any]) -> bool:
        """Return whether facts are of this population, not of one that it changed places with."""
        runs = facts.get("runs")
        return isinstance(runs, dict) and population_id(runs) == self.name

    def runs_if_known(self) -> dict[str, Config]:
        """Return the runs, {} where nobody knows them any more."""
        try:
            return self.runs()
        except NoCheckpoint:
            return {}

    def _facts_file(self, step: int) -> Path:
        return self.path / f"checkpoint-{step:010d}.json"

    def _arrays_file(self, step: int) -> Path:
        return self.path / f"checkpoint-{step:010d}.safetensors"

    def save(self, step: int, arrays: dict[str, ndarray], facts: dict[str, Any]) -> None:
        """Write a checkpoint, read it back, and only then remove all but the newest two. Raises
        StorageError, and leaves the ones before unchanged."""
        data = save(arrays)
        seal = {"step": step, "arrays_sha256": hashlib.sha256(data).hexdigest()}
        try:
            files.write_atomic(self._arrays_file(step), data)
            files.write_json(self._facts_file(step), facts | seal)
        except StorageError:
            self.keep(KEPT)  # arrays without their facts would only fill the disk
            raise
        self._read_arrays(step, self._read_facts(step))
        self.mark()
        self.keep(KEPT)

    def mark(self) -> None:
        """Let the population count as stopped, also when no checkpoint of it is left."""
        if not (self.path / UNFINISHED).exists():
            files.write_atomic(self.path / UNFINISHED, "")

    def keep(self, count: int = KEPT) -> None:
        """Remove all but the newest checkpoints, and arrays that belong to none."""
        for old in self.steps()[count:]:
            self._facts_file(old).unlink(missing_ok=True)
        for path in self.path.glob("checkpoint-*.safetensors"):
            if not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)

    def _read_facts(self, step: int) -> dict[str, Any]:
        return self.checked(step, files.read_json(self._facts_file(step)))

    def checked(self, step: int, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of a checkpoint; raises Damaged where they are those of another one."""
        path = self._facts_file(step)
        if facts.get("step") != step:
            raise Damaged(path, "it is of another step")
        if not self.owns(facts):
            raise Damaged(path, "it is of another population")
        return facts

    def _read_arrays(self, step: int, facts: dict[str, Any]) -> bytes:
        path = self._arrays_file(step)
        try:
            data = files.read_bytes(path, LARGEST_ARRAYS)
        except FileNotFoundError as error:
            raise Damaged(path, "it is missing") from error
        if hashlib.sha256(data).hexdigest() != facts.get("arrays_sha256"):
            raise Damaged(path, "sha256 mismatch")
        return data

    def read(self, step: int) -> Checkpoint:
        """Return one checkpoint; raises Damaged."""
        facts = self._read_facts(step)
        try:
            return Checkpoint(step, load(self._read_arrays(step, facts)), facts)
        except SafetensorError as error:
            raise Damaged(self._arrays_file(step), str(error)) from error

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; None where there never was one.

        Damaged ones are renamed, with a message to `warn`; raises NoCheckpoint where all are.
        """
        if not self.is_unfinished():
            return None
        for step in self.steps():
            try:
                return self.read(step)
            except Damaged as error:
                self.mark()
                self._put_away(step)
                warn(f"the checkpoint of step {step} is damaged ({error.why}); kept as .corrupt")
        found = len(list(self.path.glob("checkpoint-*.json*.corrupt")))
        raise NoCheckpoint(
            f"population {self.name}: {found} damaged checkpoints in {str(self.path)!r}, none can "
            "be used; --restart begins its runs again"
        )

    def _put_away(self, step: int) -> None:
        for path in (self._arrays_file(step), self._facts_file(step)):
            if path.exists():
                files.move_aside(path, path.with_name(path.name + ".corrupt"))

    def finish(self) -> None:
        """Remove the checkpoints: all runs have their results."""
        self.keep(0)
        (self.path / UNFINISHED).unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Let the runs restart; nothing is deleted."""
        files.move_aside(self.path, self.path.with_name(f"{self.name}.aside"))


def unfinished(store: Store) -> Iterator[PopulationFolder]:
    """Yield the populations that stopped after a checkpoint, or are training now."""
    try:
        names = sorted(os.listdir(store.root / "populations"))
    except OSError:
        return
    for name in names:
        if POPULATION.fullmatch(name) and _has_checkpoint(f"{store.root}/populations/{name}"):
            yield PopulationFolder(store, name)


def _has_checkpoint(place: str) -> bool:
    """Return whether `is_unfinished` would hold; asked of all populations, before each."""
    try:
        return any(n == UNFINISHED or NAME.fullmatch(n) for n in os.listdir(place))
    except OSError:
        return False


def tidy(store: Store) -> None:
    """Remove the checkpoints of populations that were killed between their last result and that."""
    for folder in unfinished(store):
        runs = folder.runs_if_known()
        if runs and all(map(store.is_done, runs)):
            folder.finish()
