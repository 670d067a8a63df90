"""Results directories as the real trainer leaves them, to be copied and damaged.

Nothing here imports jax before it trains, so that a process which reads the states can fork.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normlab.runs import files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.config import resolve, run_id
from normlab.runs.store import Store
from normlab.settings import Config

STEPS, CHUNK = 25, 5
SAVED = (5, 10, 15)
"""Steps of the saves; the states are before-5, before-15, stopped (after the last) and done."""
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


class States:
    """Two populations of two runs: the one under test, `name`, and `other` in the same folders."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name, self.other = files.read_json(folder / "states.json")["populations"]
        stopped, done = self.population(Store(folder / "stopped")), Store(folder / "done")
        early = self.population(Store(folder / "before-15"))
        self.saves = [early.read(5), early.read(10), stopped.read(15)]
        other = PopulationFolder(Store(folder / "stopped"), self.other)
        self.other_saves = [other.read(step) for step in SAVED[1:]]
        self.configs, self.other_configs = stopped.runs(), other.runs()
        self.facts = files.read_json(stopped.path / "manifest.json")["facts"]
        self.results: dict[str, dict[str, Any]] = {}
        self.curves: dict[str, list[dict[str, float]]] = {}
        for run in self.configs:
            result = files.read_json(done.run_dir(run) / "result.json")
            self.results[run] = {n: v for n, v in result.items() if n != "curve_sha256"}
            self.curves[run] = done.read(run).curve

    def population(self, store: Store) -> PopulationFolder:
        return PopulationFolder(store, self.name)

    def copy(self, state: str, place: Path) -> Store:
        """Return a copy of one state that replaces what is at `place`."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / state, place)
        return Store(place)

    def is_as_recorded(self, store: Store, run: str) -> bool:
        """Tell whether a finished run has the values of an undisturbed one."""
        record = store.read(run)
        return (record.final, record.curve) == (self.results[run]["final"], self.curves[run])


@functools.cache
def _dataset_and_clock() -> tuple[Any, Any]:
    from normlab.data import load
    from normlab.launch.costs import CompileClock

    return load("synthetic"), CompileClock()


def train(
    store: Store,
    configs: dict[str, Config],
    *,
    stop_at: int = STEPS,
    on_chunk: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a population with the real trainer, to its end or until it has saved at `stop_at`."""
    from normlab.launch.trainer import Trainer

    dataset, clock = _dataset_and_clock()
    reached = [0]

    def emit(event: str, **facts: Any) -> None:
        if event == "chunk":
            reached[0] = facts["step"]
            on_chunk(facts["step"])

    def is_stopping() -> bool:
        return reached[0] == stop_at < STEPS

    locks = [store.lock(name) for name in configs]
    trainer = Trainer(store, configs, dataset, clock=clock, emit=emit, is_stopping=is_stopping)
    try:
        trainer.train([])
    except SystemExit:
        pass  # saved on request
    finally:
        for lock in locks:
            if lock is not None:
                lock.release()


def train_states(folder: Path) -> States:
    """Train two tiny populations and keep their states below `folder`."""
    store = Store(folder / "work").open()
    configs = [resolve(TINY | {"seed": seed}).config for seed in range(4)]
    mine, others = ({run_id(c): c for c in pair} for pair in (configs[:2], configs[2:]))

    def keep(step: int) -> None:
        if step in SAVED:
            shutil.copytree(store.root, folder / f"before-{step}")

    train(store, others, stop_at=SAVED[-1])
    other = next((store.root / "populations").iterdir()).name
    train(store, mine, stop_at=SAVED[-1], on_chunk=keep)
    shutil.copytree(store.root, folder / "stopped")
    train(store, others)
    train(store, mine)
    shutil.copytree(store.root, folder / "done")
    (name,) = {path.name for path in (store.root / "populations").iterdir()} - {other}
    files.write_json(folder / "states.json", {"populations": [name, other]})
    shutil.rmtree(store.root)
    return States(folder)


def same(one: Checkpoint | None, two: Checkpoint | None) -> bool:
    """Tell whether two checkpoints agree in every bit."""
    if one is None or two is None:
        return one is two
    return one.step == two.step and _bits(one) == _bits(two)


def _bits(checkpoint: Checkpoint) -> tuple[dict[str, Any], str]:
    arrays = {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in checkpoint.arrays.items()}
    return arrays, json.dumps(checkpoint.facts, sort_keys=True)
