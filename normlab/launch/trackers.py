"""Curves for TensorBoard and Weights & Biases, live and from finished runs; off unless asked for.

Both libraries are extras, imported when a tracker is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from normlab.runs.record import Record
from normlab.settings import Config

Row = Mapping[str, float]


class Tracker(Protocol):
    """Takes the rows of runs; a run's rows may come in several calls."""

    def add(self, run_id: str, config: Config, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def name_of(run_id: str, config: Config) -> str:
    """Return how a run is called: data, network and norm, then its id."""
    names = [config[f"{group}.name"] for group in ("data", "model", "norm")]
    return f"{'-'.join(names)}-{run_id}"


def values_of(row: Row) -> dict[str, float]:
    """Return the finite metrics of a row."""
    return {name: v for name, v in row.items() if name != "step" and math.isfinite(v)}


class TensorBoard:
    """Event files, one folder for each run below `folder`; settings as a text.

    A run that is added again purges what was there, so it has each step once.
    """

    def __init__(self, folder: str | Path):
        self.make = import_module("tensorboardX").SummaryWriter
        self.folder = Path(folder)
        self.writers: dict[str, Any] = {}

    def add(self, run_id: str, config: Config, rows: Sequence[Row]) -> None:
        if not rows:
            return
        if run_id not in self.writers:
            place = str(self.folder / name_of(run_id, config))
            writer = self.make(place, purge_step=int(rows[0]["step"]))
            lines = [f"    {name} = {value!r}" for name, value in config.items()]
            writer.add_text("settings", "\n".join(lines), int(rows[0]["step"]))
            self.writers[run_id] = writer
        for row in rows:
            for name, value in values_of(row).items():
                self.writers[run_id].add_scalar(name, value, int(row["step"]))
        self.writers[run_id].flush()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WandB:
    """Offline runs of Weights & Biases below `folder`; `wandb sync` sends them. Nothing is sent
    here. One run is open at a time."""

    def __init__(self, folder: str | Path):
        self.library: Any = import_module("wandb")
        self.folder = Path(folder)
        self.open_id = ""
        self.run: Any = None

    def add(self, run_id: str, config: Config, rows: Sequence[Row]) -> None:
        if run_id != self.open_id:
            self.close()
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = self.library.Settings(silent=True, console="off", save_code=False)
            self.run = self.library.init(
                project="normlab",
                id=run_id,
                name=name_of(run_id, config),
                config=dict(config),
                dir=str(self.folder),
                mode="offline",
                settings=settings,
            )
            self.open_id = run_id
        for row in rows:
            self.run.log(values_of(row), step=int(row["step"]))

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
        self.open_id, self.run = "", None


KINDS = {"tensorboard": TensorBoard, "wandb": WandB}
"""Flag -> the tracker that it makes."""


def add_run(tracker: Tracker, run: Record) -> None:
    """Add a finished run."""
    tracker.add(run.run_id, run.config, run.curve)
    add_end(tracker, run)


def add_end(tracker: Tracker, run: Record) -> None:
    """Add the scores of a finished run after its last step, as final/..."""
    if run.curve and run.final:
        final = {f"final/{name}": value for name, value in run.final.items()}
        tracker.add(run.run_id, run.config, [{"step": run.curve[-1]["step"], **final}])
