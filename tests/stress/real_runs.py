"""What the real trainer left of two populations, as results directories to copy and to harm.

Nothing here imports jax before it trains, so that a process which reads this can fork.
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
STATES = ("before-5", "before-10", "before-15", "stopped", "done")
"""Before each of three saves, at the stop after the third, and with results."""
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


class Broken(Exception):
    """A promise that was not kept."""


class Real:
    """The population that is harmed, `name`, and `other`, one like it in the same directories."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name, self.other = files.read_json(folder / "real.json")["populations"]
        stopped, done = self.population(Store(folder / "stopped")), Store(folder / "done")
        early = self.population(Store(folder / "before-15"))
        self.saves = [early.read(5), early.read(10), stopped.read(15)]
        other = PopulationFolder(Store(folder / "stopped"), self.other)
        self.other_saves = [other.read(10), other.read(15)]
        self.configs: dict[str, Config] = stopped.runs()
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
        """Return a copy of one state at `place`, instead of what is there."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / state, place)
        return Store(place)


@functools.cache
def _parts() -> tuple[Any, Any]:
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

    dataset, clock = _parts()
    reached = [0]

    def tell(event: str, **facts: Any) -> None:
        if event == "chunk":
            reached[0] = facts["step"]
            on_chunk(facts["step"])

    locks = [store.lock(name) for name in configs]
    try:
        Trainer(
            store,
            configs,
            dataset,
            clock=clock,
            tell=tell,
            is_stopping=lambda: reached[0] == stop_at < STEPS,
        ).train([])
    except SystemExit:
        pass  # saved, as it was told
    finally:
        for lock in locks:
            if lock is not None:
                lock.release()


def train_real(folder: Path) -> Real:
    """Train two tiny populations and keep STATES below `folder`."""
    store = Store(folder / "work").open()
    pairs = [
        {run_id(c): c for c in (resolve(TINY | {"seed": s}).config for s in seeds)}
        for seeds in ((0, 1), (2, 3))
    ]
    mine, others = pairs

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
    names = {path.name for path in (store.root / "populations").iterdir()}
    (name,) = names - {other}
    files.write_json(folder / "real.json", {"populations": [name, other]})
    shutil.rmtree(store.root)
    return Real(folder)


def same(one: Checkpoint | None, two: Checkpoint | None) -> bool:
    """Tell whether two checkpoints agree in every bit."""
    if one is None or two is None:
        return one is two
    return one.step == two.step and _bits(one) == _bits(two)


def _bits(checkpoint: Checkpoint) -> tuple[dict[str, Any], str]:
    arrays = {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in checkpoint.arrays.items()}
    return arrays, json.dumps(checkpoint.facts, sort_keys=True)


def leftovers(root: Path) -> list[str]:
    """Return the names of temporary files."""
    return sorted(path.name for path in root.rglob("*.tmp"))
