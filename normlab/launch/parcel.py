"""A worker without the results directory: requests come with files, and results leave as files.

It trains in a store of its own, a temporary folder of its machine. The command that sent the
request checks what arrives and writes it. No file system is shared.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from normlab.data import Dataset
from normlab.launch.worker import Worker, error_facts, use_cache
from normlab.models.outside import add_models
from normlab.norms.outside import add_norms
from normlab.runs import provenance
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.kept_data import recall_data
from normlab.runs.store import Store
from normlab.runs.transfer import Contents, checkpoint_contents, run_contents, write_contents
from normlab.settings import Config
from normlab.training.batches import data_key, load_data

Put = Callable[[dict[str, Any]], None]
PREFIX = "normlab-worker-"


@functools.cache
def own_store() -> Store:
    """Return the store of this process, which is removed with it, or by the next one if it was
    killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    root = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Store(root).open()


@functools.cache
def take_rows(names: tuple[tuple[str, str], ...]) -> None:
    """Add norms, networks and data sets of the user to the tables, once in this process. `names`:
    folder and name of the files in which they are."""
    root = own_store().root
    for kind, add in (("norms", add_norms), ("models", add_models)):
        found = [name for folder, name in names if folder == kind]
        add([str(root / kind / name) for name in found], [Path(name).stem for name in found])
    recall_data(root)


class ParcelWorker(Worker):
    """Answers one request; checkpoints and results leave with its events."""

    def __init__(self, put: Put, is_told_to_stop: Callable[[], bool], data: Mapping[str, Dataset]):
        super().__init__(own_store(), None, put)
        self.is_told_to_stop, self.data = is_told_to_stop, data
        self.population = PopulationFolder(self.store, "none")
        self.saved: list[int] = []
        """Steps of the checkpoints that have left, or came with the request."""

    def is_stopping(self) -> bool:
        return self.is_told_to_stop()

    def dataset(self, configs: dict[str, Config]) -> Dataset:
        config = next(iter(configs.values()))
        if config["data.name"] not in self.data:
            return super().dataset(configs)
        key = data_key(config)
        if key not in self.datasets:
            self.datasets[key] = load_data(config, loaded=self.data)
        return self.datasets[key]

    def begin(self, request: Mapping[str, Any]) -> None:
        """Take what came with a request: the checkpoint from which its runs continue."""
        if request["do"] == "train":
            self.population = PopulationFolder(self.store, population_id(request["configs"]))
            write_contents(self.population.path, request["files"])
            self.saved = self.population.steps()

    def emit(self, event: str, **facts: Any) -> None:
        for step in reversed(self.population.steps()):
            if step not in self.saved:
                self.saved.append(step)
                super().emit("checkpoint", files=checkpoint_contents(self.population, step))
        if event == "done":
            facts["files"] = {run: run_contents(self.store, run) for run in facts["ids"]}
            facts["manifest"] = checkpoint_contents(self.population, 0)
        super().emit(event, **facts)

    def end(self) -> None:
        """Remove what was trained."""
        for folder in ("runs", "populations"):
            for path in (self.store.root / folder).iterdir():
                shutil.rmtree(path, ignore_errors=True)


def answer_parcel(
    request: dict[str, Any],
    kept: Mapping[str, Contents],
    data: Mapping[str, Dataset],
    put: Put,
    is_told_to_stop: Callable[[], bool],
) -> None:
    """Answer a request and `put` what happens. The last event is done, measured, error or gone.

    `kept`: folder -> files with norms, networks and data sets of the user. `data`: data sets that
    this machine lacks, by name.
    """
    worker = ParcelWorker(put, is_told_to_stop, data)
    try:
        for folder, contents in kept.items():
            write_contents(worker.store.root / folder, contents)
        take_rows(tuple((folder, name) for folder, found in kept.items() for name in sorted(found)))
        worker.begin(request)
        worker.answer(request)
    except SystemExit:
        worker.emit("gone", message="")
    except Exception as error:  # the supervisor decides whether it is tried again
        worker.emit("error", **error_facts(error))
    finally:
        worker.end()


def prepare(commit: dict[str, Any]) -> str:
    """Prepare this process; return a warning, or "". `commit`: that of the code that was sent."""
    provenance.SENT.update(commit)
    doubt = use_cache()
    return f"{doubt}; NORMLAB_CACHE=DIR names another place" if doubt else ""
