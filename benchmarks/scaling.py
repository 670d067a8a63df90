"""What a study of many runs costs the command that directs it, and how many nodes it can direct.

The workers are made up: they return records at once. The command is the real one, with 10,000
finished runs in its results. Its costs are inputs of a simulation of 10 to 1,000 nodes.
"""

from __future__ import annotations

import queue
import random
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import runner
from benchmarks.runner import Options, emit
from benchmarks.scaling_model import Costs, Load, simulate
from normlab.launch.batching import form_populations
from normlab.launch.engines.deliveries import WRITERS
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.launch.engines.local import LocalEngine
from normlab.launch.supervisor import Supervisor
from normlab.launch.sweep import Job
from normlab.runs import files
from normlab.runs.config import config_sha256
from normlab.runs.provenance import SCHEMA
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.runs.transfer import adopt_run, run_contents
from normlab.settings import Config
from normlab.studies.study import load_studies
from normlab.training.version import TRAINING_VERSION

STUDY, STORED, ENDED, SLOTS = "which_norm", 10_000, 300, 100
"""The largest study; finished runs; populations that end while it is measured; workers."""
COMMITTED = 640
EVENT_S, GIVE_S = 0.6e-3, 0.8e-3
"""Of a report and of handing out a population with 400 tasks of Ray 2.60, measured 2026-11-26."""
SLOW = "a plan after each population, one thread"
NODES = (10, 100, 300, 1000)
MEDIANS = (60.0, 300.0)
FACTS = {str: "made up", bool: True, int: 1, float: 0.1, dict: {}, list: [], type(None): None}


class Enough(Exception):
    """As many populations have ended as were to be measured."""


def made_up(run_id: str, config: Config) -> Record:
    """Return a run that is the worse the farther its rate is from 0.1."""
    luck = random.Random(run_id).random()
    accuracy = 0.95 - 0.02 * abs(config["optim.lr"] - 0.1) / (0.1 + config["optim.lr"])
    accuracy -= 0.01 * luck
    steps = config["train.steps"]
    curve = [{"step": s, "accuracy": accuracy, "loss": 0.2} for s in (steps // 2, steps)]
    final = {f"{part}_accuracy": accuracy for part in ("validation", "test", "train_set")}
    final |= {f"{part}_loss": 0.2 for part in ("validation", "test", "train_set")}
    origin = {name: FACTS[kinds[0]] for name, kinds in SCHEMA.items()}
    origin |= {"training_version": TRAINING_VERSION, "config_sha256": config_sha256(config)}
    return Record(run_id, config, "trained", final, curve, None, 1.0, origin)


def write(store: Store, run: Record) -> None:
    store.run_dir(run.run_id).mkdir(exist_ok=True)
    names = ("config", "status", "final", "diverged_at", "seconds", "provenance")
    result = {name: getattr(run, name) for name in names} | {"skipped_steps": 0}
    store.finish(run.run_id, result, run.curve)


class MadeUpEngine:
    """Workers that return a population as soon as it is sent. `began`: when the first was, in CPU
    time, and later by the time that the workers took."""

    is_remote, lost_retries, slots = True, 0, SLOTS

    def __init__(self, store: Store):
        self.store, self.ended, self.began = store, 0, 0.0
        self.events: queue.Queue[tuple[WorkerHandle, Facts]] = queue.Queue()

    def adopt(self) -> list[WorkerHandle]:
        return []

    def send(self, worker: WorkerHandle, request: Mapping[str, Any]) -> None:
        began = time.process_time()
        self.began = self.began or began
        self.ended += 1
        if self.ended > ENDED:
            raise Enough
        records = {name: made_up(name, c) for name, c in request["configs"].items()}
        facts = {"event": "done", "ids": list(records), "busy": [], "records": records}
        self.events.put((worker, facts))
        self.began += time.process_time() - began

    def stop(self, worker: WorkerHandle) -> None: ...

    def kill(self, worker: WorkerHandle) -> None: ...

    def close(self) -> None: ...


def make_job(store: Store) -> Job:
    return Job(load_studies([STUDY]), "quick", store)


def fill(store: Store) -> None:
    """Write the first runs of the study, as if they had been trained."""
    job, written = make_job(store), 0
    with patch("os.fsync", lambda handle: None):
        while written < STORED:
            for name, config in list(job.missing().items())[: STORED - written]:
                write(store, made_up(name, config))
                written += 1


def time_planning(store: Store) -> tuple[float, float]:
    """Return the CPU seconds of the command for each population, and those of one whole plan."""
    job = make_job(store)
    job.missing()  # reads all records
    began = time.process_time()
    form_populations(job.missing(), job.turns.__getitem__)
    whole = time.process_time() - began
    engine = MadeUpEngine(store)
    try:
        job.run(engine=engine)
    except Enough:
        pass
    return (time.process_time() - engine.began) / ENDED, whole


def time_commits(folder: Path) -> tuple[float, float]:
    """Return the seconds of a run that arrives: one after another, and with several threads."""
    there, configs = Store(folder / "there").open(), {}
    job = make_job(Store(folder / "empty").open())
    with patch("os.fsync", lambda handle: None):
        for name, config in list(job.missing().items())[:COMMITTED]:
            configs[name] = config
            write(there, made_up(name, config))
    contents = {name: run_contents(there, name) for name in configs}
    found = []
    for threads in (1, WRITERS):
        here = Store(folder / f"here-{threads}").open()
        names = list(configs)[: 64 if threads == 1 else None]
        for name in names:
            files.make_folder(here.root, "runs", name)
        began = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            adopt = partial(adopt_run, here)
            list(pool.map(adopt, names, map(configs.get, names), map(contents.get, names)))
        found.append((time.monotonic() - began) / len(names))
        assert here.done() == set(names)
    return found[0], found[1]


def time_worker(folder: Path) -> tuple[float, float]:
    """Return the seconds until a worker is ready, and those of its first compilation."""
    job = Job(load_studies(["convergence"]), "quick", Store(folder).open())
    config = next(iter(job.missing().items()))
    began, ready = time.monotonic(), 0.0

    def on_event(worker: WorkerHandle, event: str, facts: Facts) -> None:
        nonlocal ready
        ready = time.monotonic() - began if event == "ready" else ready

    store = job.store
    cache = {"NORMLAB_CACHE": str(folder / "cache")}
    with patch.dict("os.environ", cache):
        engine = LocalEngine(store, processes=1)
        with Supervisor(store, engine=engine, on_event=on_event) as supervisor:
            supervisor.run(lambda: {} if store.is_done(config[0]) else dict([config]))
    return ready, store.read(config[0]).provenance["compile_seconds"]


def run(options: Options) -> str:
    """Measure, simulate, print the tables; return the section of the page."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ready, compiling = time_worker(folder / "worker")
        emit(f"a worker: ready after {ready:.1f} s, compiles for {compiling:.1f} s")
        alone, threaded = time_commits(folder)
        emit(f"a run that arrives: {1e3 * alone:.1f} ms, {1e3 * threaded:.1f} ms with threads")
        store = Store(folder / "results").open()
        fill(store)
        emit(f"{len(store.done()):,} runs are stored")
        plan, whole = time_planning(store)
        emit(f"a population: {1e3 * plan:.1f} ms of planning; all at once {1e3 * whole:.0f} ms")
    costs = Costs(plan, threaded, EVENT_S, GIVE_S, ready, compiling)
    return report(costs, alone, whole)


def report(costs: Costs, alone: float, whole: float) -> str:
    """Return the tables of the costs and of the simulation."""
    rows = [
        ["planning and giving, CPU time for each population", f"{1e3 * costs.plan:.1f} ms"],
        ["one plan of all that is known, CPU time", f"{1e3 * whole:.0f} ms"],
        [f"writing a run, {WRITERS} threads", f"{1e3 * costs.commit:.1f} ms"],
        ["writing a run, one thread", f"{1e3 * alone:.1f} ms"],
        ["a worker until it is ready", f"{costs.start:.1f} s"],
        ["its compilation of a program, empty cache", f"{costs.compile_cold:.1f} s"],
    ]
    measured = runner.table(f"The command, {STORED:,} stored runs", ("what", "time"), rows)
    lines = []
    slow = replace(costs, plan=whole, commit=alone)
    for median in MEDIANS:
        for name, own in (("as measured", costs), (SLOW, slow)):
            found = [simulate(nodes, own, Load(median)) for nodes in NODES]
            cells = [f"{one.efficiency:.2f}" for one in found]
            lines.append([f"{median:.0f} s", name, *cells])
    columns = ("median population", "command", *(f"{nodes:,} nodes" for nodes in NODES))
    simulated = runner.table("Simulated: the nodes' time that is training", columns, lines)
    return runner.publish([runner.machine()], [measured, simulated])
