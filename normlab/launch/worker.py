"""The worker process: trains one requested population after another.

Requests come as JSON lines, events leave as JSON lines: see json_lines.py. The worker takes the
lock of every run itself, so that no other process can train it. On a signal to stop, and when its
supervisor is gone, it finishes the chunk, saves and leaves. Each worker stays on one core: two such
workers train small networks twice as fast as one that owns two.
"""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import jax

from normlab.data import Dataset
from normlab.launch.claims import Claim
from normlab.launch.costs import CompileClock
from normlab.launch.json_lines import answer, open_worker, receive
from normlab.launch.surroundings import heed
from normlab.launch.trainer import Trainer
from normlab.lookup import local_path
from normlab.models.outside import add_models
from normlab.norms.outside import add_norms
from normlab.runs.errors import LabError, Preempted, StorageError
from normlab.runs.kept_data import recall_data
from normlab.runs.provenance import processor_name
from normlab.runs.store import Store
from normlab.settings import Config, from_json
from normlab.training.batches import data_key, load_data
from normlab.training.population import Population
from normlab.training.step_memory import step_bytes
from normlab.training.step_time import step_seconds

CACHE_BYTES = 2 * 1024**3
TRACED_STEPS = 20
TAIL = 20
"""Lines of a traceback that are kept."""


def use_cache() -> str:
    """Keep compiled programs for the next process with the same processor and jax; return why that
    cannot be, "" where it can. With a size limit jax writes them under a lock; without one,
    parallel workers can meet half-written entries."""
    root = os.environ.get("NORMLAB_CACHE") or "~/.cache/normlab"
    key = hashlib.sha256(f"{processor_name()} {jax.__version__}".encode()).hexdigest()[:12]
    try:
        folder = Path(local_path(root)) / f"xla-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        return f"compiled programs are not kept: {error}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    return ""


class Worker:
    """Answers requests for one store; `put` gets the events."""

    trainer: type[Trainer] = Trainer

    def __init__(
        self,
        store: Store,
        data_dir: str | None,
        put: Callable[[dict[str, Any]], None],
        profile_trace: str | None = None,
    ):
        self.store, self.data_dir, self.put = store, data_dir, put
        self.profile_trace = profile_trace
        self.supervisor = os.getppid()
        self.datasets: dict[tuple[Any, ...], Dataset] = {}
        self.is_busy = self.has_stop_request = False

    def emit(self, event: str, **facts: Any) -> None:
        try:
            self.put({"event": event, **facts})
        except BrokenPipeError:
            self.has_stop_request = True

    def stop(self, *_: object) -> None:
        """Leave after this chunk, at once where there is none; the handler of signals to stop."""
        self.has_stop_request = True
        if not self.is_busy:
            os._exit(Preempted.code)

    def is_stopping(self) -> bool:
        return self.has_stop_request or os.getppid() != self.supervisor

    def ends_training(self) -> bool:
        """Return whether a trainer is to save and leave; asked after each chunk."""
        return self.is_stopping()

    def dataset(self, configs: dict[str, Config]) -> Dataset:
        config = next(iter(configs.values()))
        key = data_key(config)
        if key not in self.datasets:
            self.datasets[key] = load_data(config, self.data_dir)
        return self.datasets[key]

    def serve(self, requests: TextIO) -> None:
        """Answer requests until standard input ends."""
        self.emit("ready")
        for request in receive(requests):
            self.is_busy = True
            try:
                self.answer(request)
            except Exception as error:  # one population must not end the study
                self.emit("error", **error_facts(error))
            if self.is_stopping():
                sys.exit(Preempted.code)
            self.is_busy = False

    def answer(self, request: dict[str, Any]) -> None:
        configs = {n: from_json(c) for n, c in request["configs"].items()}
        if request["do"] == "train":
            self.train(configs, request["resumes"], request["attempts"])
        else:
            measure = {"time": step_seconds, "memory": step_bytes}[request["do"]]
            self.emit("measured", values=measure(configs, self.dataset(configs)))

    def train(
        self, configs: dict[str, Config], resumes: bool, attempts: list[dict[str, Any]]
    ) -> None:
        """Train the runs whose locks can be had and that nobody finished meanwhile."""
        with Claim(self.store, configs, resumes) as claim:
            if claim.free:
                self.train_free({name: configs[name] for name in claim.free}, attempts)
            self.emit("done", ids=claim.free, busy=claim.busy)

    @functools.cached_property
    def clock(self) -> CompileClock:
        return CompileClock()

    def trace(self, population: Population) -> None:
        """Write a profile of a few training steps, once their program is compiled; only one."""
        folder, self.profile_trace = self.profile_trace, None
        if folder:
            population.warm_up(TRACED_STEPS)()
            run = population.warm_up(TRACED_STEPS)
            with jax.profiler.trace(folder):
                run()
            self.emit("traced", steps=TRACED_STEPS, folder=folder)

    def make_trainer(self, configs: dict[str, Config]) -> Trainer:
        return self.trainer(
            self.store,
            configs,
            self.dataset(configs),
            clock=self.clock,
            emit=self.emit,
            is_stopping=self.ends_training,
        )

    def train_free(self, configs: dict[str, Config], attempts: list[dict[str, Any]]) -> None:
        trainer = self.make_trainer(configs)
        self.trace(trainer.population)
        trainer.train(attempts)


def error_facts(error: Exception) -> dict[str, Any]:
    """Return what the supervisor is sent about an error."""
    status, again = judge(error)
    message = str(error) if isinstance(error, LabError) else ""
    return {
        "status": status,
        "message": message or f"{type(error).__name__}: {error}",
        "tail": traceback.format_exc().splitlines()[-TAIL:],
        "again": again,
    }


def judge(error: Exception) -> tuple[str, bool]:
    """Return what an error is called, and whether the same work may succeed when tried again."""
    if isinstance(error, LabError):
        return error.kind, False
    is_of_device = isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, MemoryError) or (is_of_device and "RESOURCE_EXHAUSTED" in str(error)):
        return "memory", True
    if isinstance(error, OSError):
        return StorageError.kind, False
    return "error", is_of_device


def unfit(error: Exception) -> str:
    """Return why no worker can train here."""
    if isinstance(error, ConnectionError):
        return str(error)
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    asked = os.environ.get("JAX_PLATFORMS")
    return f"{reason}; JAX_PLATFORMS={asked} is set, cpu is always there" if asked else reason


def main(
    make: type[Worker] = Worker, begin: Callable[[dict[str, Any]], None] = lambda options: None
) -> None:
    """Serve as a worker; `begin(options)` comes before jax looks for devices."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what Ctrl-C means
    options, requests, events = open_worker()
    store = Store(options["results"])
    put = functools.partial(answer, events)
    worker = make(store, options["data_dir"], put, options["profile_trace"])
    heed(worker.stop)
    try:
        if doubt := use_cache():
            worker.emit("warning", message=f"{doubt}; NORMLAB_CACHE=DIR names another place")
        begin(options)
        jax.devices()  # fails where JAX_PLATFORMS names what is not there
        for kind, add in (("norms", add_norms), ("models", add_models)):
            add(options[kind], [Path(file).stem for file in options[kind]])
        recall_data(store.root)
    except Exception as error:
        worker.emit("unfit", message=unfit(error))
        sys.exit(1)
    worker.serve(requests)


if __name__ == "__main__":
    main()
