"""Two made-up runs on their way from the store of a worker to that of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from made_up_runs import PROVENANCE

from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.store import Store
from normlab.runs.transfer import run_contents
from normlab.settings import Config, defaults

CONFIGS: dict[str, Config] = {name: defaults() | {"seed": i} for i, name in enumerate("ab")}
ROW = {"step": 5, "accuracy": 0.5}


def store_of_worker(root: Path) -> Store:
    """Return a store with the finished runs and a checkpoint of their population."""
    store = Store(root).open()
    for name, config in CONFIGS.items():
        store.run_dir(name).mkdir()
        result = {"config": config, "status": "trained", "final": {}, "diverged_at": None}
        result |= {"skipped_steps": 0, "seconds": 0.0, "provenance": PROVENANCE}
        store.finish(name, result, [ROW])
    folder = folder_of(store)
    folder.form(CONFIGS, {})
    folder.save(5, {"step": np.full(2, 5, np.int32)}, {"runs": CONFIGS})
    return store


def folder_of(store: Store) -> PopulationFolder:
    return PopulationFolder(store, population_id(CONFIGS))


def done(there: Store) -> dict[str, Any]:
    """Return the last event of the worker."""
    files = {name: run_contents(there, name) for name in CONFIGS}
    return {"event": "done", "ids": list(CONFIGS), "busy": [], "files": files, "manifest": {}}
