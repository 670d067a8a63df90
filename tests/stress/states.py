"""Results as the real trainer leaves them, to be copied, damaged and continued.

Nothing here imports jax before it trains, so that a process which reads the states can fork.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

from normlab.runs import checkpoints, files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder, population_id
from normlab.runs.config import resolve, run_id
from normlab.runs.store import Store
from normlab.settings import Config

STEPS, CHUNK = 25, 5
SAVED = (5, 10, 15)
"""Steps of the saves before the populations were stopped."""
TINY = {
    "data.name": "synthetic",
    "data.batch": 16,
    "model.name": "mlp",
    "model.widths": (8,),
    "norm.name": "batch",
    "optim.name": "adam",
    "train.steps": STEPS,
    "train.eval_every": CHUNK,
    "train.checkpoint_seconds": 0,
    "eval.curve_examples": 64,
    "eval.batch": 64,
    "eval.stats_examples": 32,
    "host.mode": "map",
    "host.width": 2,
    "host.chunk": CHUNK,
}
_ALL = [resolve(TINY | {"seed": seed}).config for seed in range(4)]
OWN, OTHER = ({run_id(config): config for config in pair} for pair in (_ALL[:2], _ALL[2:]))
"""Run -> configuration of the population under test, and of another one in the same folders."""
NAME, OTHER_NAME = population_id(OWN), population_id(OTHER)


class States:
    """Both populations in `stopped`, with all their checkpoints, and their results in `done`."""

    def __init__(self, folder: Path):
        self.folder, self.done = folder, Store(folder / "done")
        population = PopulationFolder(Store(folder / "stopped"), NAME)
        self.saves = {step: population.read(step) for step in SAVED}
        self.facts = files.read_json(population.path / "manifest.json")["facts"]
        self.results = {r: files.read_json(self.done.run_dir(r) / "result.json") for r in OWN}
        self.curves = {run: self.done.read(run).curve for run in OWN}

    def copy(self, place: Path, steps: tuple[int, ...] = SAVED[1:]) -> Store:
        """Return the results with the checkpoints of `steps`, in place of what is at `place`."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / "stopped", place)
        for path in place.glob("populations/*/checkpoint-*"):
            if int(path.stem.partition("-")[2]) not in steps:
                path.unlink()
        for path in [] if steps else place.glob("populations/*/unfinished"):
            path.unlink()
        return Store(place)

    def is_as_recorded(self, store: Store, run: str) -> bool:
        """Return whether a finished run has the values of an undisturbed one."""
        record = store.read(run)
        return (record.final, record.curve) == (self.results[run]["final"], self.curves[run])


def train(store: Store, configs: dict[str, Config], *, stop_at: int = STEPS) -> None:
    """Train a population with the real worker, to its end or until it has saved at `stop_at`."""
    from normlab.launch.worker import Worker

    worker = Worker(store, None, lambda facts: None)

    def emit(event: str, **facts: Any) -> None:
        if event == "chunk" and facts["step"] == stop_at < STEPS:
            worker.has_stop_request = True

    worker.emit = emit
    resumes = PopulationFolder(store, population_id(configs)).is_unfinished()
    try:
        worker.train(configs, resumes, [])
    except SystemExit:
        pass  # saved on request


def train_states(folder: Path) -> States:
    """Train two tiny populations and keep their states below `folder`."""
    stopped = Store(folder / "stopped").open()
    with patch.object(checkpoints, "KEPT", len(SAVED)):
        for configs in (OWN, OTHER):
            train(stopped, configs, stop_at=SAVED[-1])
    shutil.copytree(stopped.root, folder / "done")
    for configs in (OWN, OTHER):
        train(Store(folder / "done"), configs)
    return States(folder)


def bits(checkpoint: Checkpoint | None) -> object:
    """Return all of a checkpoint, so that two of them are equal if every bit is."""
    if checkpoint is None:
        return None
    arrays = {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in checkpoint.arrays.items()}
    return checkpoint.step, arrays, json.dumps(checkpoint.facts, sort_keys=True)
