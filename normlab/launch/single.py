"""Train one run: a population of one, with its evaluations on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from normlab.launch.engines.engine import WorkerHandle
from normlab.launch.engines.local import LocalEngine
from normlab.launch.failures import error_of
from normlab.launch.peers import Peers
from normlab.launch.progress import notice
from normlab.launch.supervisor import Supervisor
from normlab.launch.trackers import Tracker, add_end
from normlab.runs.errors import InUse
from normlab.runs.store import Store
from normlab.settings import Config

COLUMNS = ("train_loss", "loss", "accuracy", "running_loss", "running_accuracy")


def format_value(name: str, value: float, digits: int) -> str:
    """Return a metric as text: losses in nats, accuracies in percent with `digits` digits."""
    return f"{100 * value:.{digits}f} %" if name.endswith("accuracy") else f"{value:.4f}"


def format_row(row: dict[str, float]) -> str:
    """Return an evaluation as one line."""
    cells = [
        f"{name.replace('_', ' ')} {format_value(name, row[name], 1)}"
        for name in COLUMNS
        if name in row
    ]
    return "  ".join([f"step {row['step']:>6}", *cells])


class Screen:
    """Prints every evaluation once, as soon as it is in the run's curve."""

    def __init__(self, store: Store, name: str, config: Config, trackers: Sequence[Tracker] = ()):
        self.store, self.name, self.config, self.trackers = store, name, config, trackers
        self.shown = 0
        self.began = time.monotonic()

    def show(self, worker: WorkerHandle, event: str, facts: dict[str, Any]) -> None:
        """Print an event; raises InUse where another process trains the run."""
        if event == "done" and facts["busy"]:
            raise InUse(f"run {self.name} is being trained by another process; wait for it")
        if event == "given":
            print("compiling (fast once the cache is warm) ...", flush=True)
        if event == "traced":
            print(
                f"profile of {facts['steps']} steps in {facts['folder']}; open its "
                "plugins/profile/*/*.trace.json.gz at https://ui.perfetto.dev",
                flush=True,
            )
        if event in ("chunk", "done"):
            rows = self.store.live_curve(self.name)
            for row in rows[self.shown :]:
                print(f"{time.monotonic() - self.began:6.1f} s  {format_row(row)}", flush=True)
            for tracker in self.trackers:
                tracker.add(self.name, self.config, rows[self.shown :])
            self.shown = len(rows)
        line = notice(worker, event, facts)
        if line:
            print(line, flush=True)


def train(
    store: Store,
    name: str,
    config: Config,
    *,
    data_dir: str | None = None,
    profile_trace: str | None = None,
    trackers: Sequence[Tracker] = (),
    peers: Peers | None = None,
) -> None:
    """Train a run in a worker process and print its evaluations; raises InUse where another process
    trains it, and the error that ended it. `peers`: the processes that train it together."""
    engine = LocalEngine(store, 1, data_dir, profile_trace, peers)
    show = Screen(store, name, config, trackers).show
    _supervise(store, engine, show, lambda: {} if store.is_done(name) else {name: config})
    for tracker in trackers:
        add_end(tracker, store.read(name))


def _supervise(
    store: Store,
    engine: LocalEngine,
    on_event: Callable[..., None],
    missing: Callable[[], dict[str, Config]],
) -> None:
    """Let a worker train what is missing; raises the error that ended it."""
    with Supervisor(store, engine=engine, retries=0, on_event=on_event) as supervisor:
        supervisor.run(missing)
        for failure in supervisor.failures:
            raise error_of([failure])(failure.message)


def follow(
    store: Store, name: str, config: Config, *, data_dir: str | None = None, peers: Peers
) -> None:
    """Train a run as one of its processes that are not the first, in silence; raises the error that
    ended it. `store` is of no use to others."""
    is_over = False

    def note(worker: WorkerHandle, event: str, facts: dict[str, Any]) -> None:
        nonlocal is_over
        is_over |= event == "done"

    engine = LocalEngine(store, 1, data_dir, peers=peers)
    _supervise(store, engine, note, lambda: {} if is_over else {name: config})


def release(store: Store, peers: Peers) -> None:
    """Let the other processes of a run end, since nothing is to be trained."""
    engine, worker = LocalEngine(store, peers=peers), WorkerHandle(0)
    engine.send(worker, {"do": "train", "configs": {}, "resumes": False, "attempts": []})
    while engine.events.get()[1]["event"] not in ("done", "error", "unfit", "gone"):
        pass
    engine.kill(worker)
