"""How long a whole study takes: normlab's, and a loop of another library over the same runs.

The loops train one run after another in one process, and the rate is an argument of the compiled
step. Or every run has a process of its own, as with scripts that start sweeps. Compilation and
evaluation are included. A loop trains every n-th run of each arm; the others are taken to last as
long. docs/benchmarks.md says how to read the tables.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import runner
from benchmarks.loops.contender import Broken, Contender, Workspace
from benchmarks.loops.network import Job, Network
from benchmarks.loops.stepwise import Run
from benchmarks.runner import Options, emit
from benchmarks.training import LIBRARIES, form_text, forms_of, number
from normlab.data import load
from normlab.report.tables import Table
from normlab.settings import Config
from normlab.shipped import ROOT
from normlab.studies.checks import check_study
from normlab.studies.planning import SetupRuns
from normlab.studies.study import adapt, load_study

STUDY, PROFILE = "learning_rate", "quick"
LOOPS = {name: LIBRARIES[name] for name in ("flax", "torch", "torch-compiled")}
FRESH = 3
"""Processes of one run each that are timed for each setup."""
FULL_CACHE = {
    "JAX_ENABLE_COMPILATION_CACHE": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Group(NamedTuple):
    """The planned runs of one arm of one setup."""

    setup: str
    arm: str
    configs: list[Config]

    @property
    def run_steps(self) -> int:
        return sum(config["train.steps"] for config in self.configs)

    @property
    def data_name(self) -> str:
        return self.configs[0]["data.name"]

    @property
    def network(self) -> Network:
        c, shape = self.configs[0], load(self.data_name).shape
        name, widths, act = (c[f"model.{o}"] for o in ("name", "widths", "act"))
        return Network(self.setup, "", name, shape, c["data.batch"], widths, act, c["norm.name"])

    def runs(self) -> list[Run]:
        names = ("optim.lr", "seed", "train.steps", "train.eval_every")
        return [Run(*(config[name] for name in names)) for config in self.configs]


class Timed(NamedTuple):
    """One loop over one group."""

    group: Group
    library: str
    trained: int
    """Runs that were trained."""
    start: float
    """Seconds until the first run could begin, compilation included."""
    each: float
    """Mean seconds of a run."""
    accuracy: float
    """The best one on the test split."""

    @property
    def seconds(self) -> float:
        """Return what all runs of the group take."""
        return self.start + self.each * len(self.group.configs)


class Whole(NamedTuple):
    """One way to carry out the study."""

    title: str
    runs: int
    run_steps: int
    seconds: float


def whole(library: str, way: str, groups: Sequence[Group], seconds: float) -> Whole:
    runs = sum(len(group.configs) for group in groups)
    steps = sum(group.run_steps for group in groups)
    return Whole(f"{LIBRARIES[library]}, {way}", runs, steps, seconds)


def planned_groups(arms: Sequence[str]) -> list[Group]:
    """Return the groups of the study, all of its arms or these; raises ConfigError."""
    study = adapt(load_study(STUDY), arms=tuple(arms))
    check_study(study, PROFILE)
    groups: dict[tuple[str, str], list[Config]] = {}
    for setup in study.setups[PROFILE]:
        for run in SetupRuns(setup, {}).wanted.values():
            groups.setdefault((run.setup, run.arm), []).append(run.config)
    return [Group(*names, configs) for names, configs in groups.items()]


def time_normlab(title: str, arms: Sequence[str], folder: Path, cache: Path) -> Whole:
    """Return what the study takes in a new results directory; raises Broken."""
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), f"--study={STUDY}"]
    command += [f"--profile={PROFILE}", f"--results={folder}"]
    command += [f"--arms={','.join(arms)}"] if arms else []
    environment = os.environ | {"NORMLAB_CACHE": str(cache)}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Broken(f"the study failed: {last[0]}")
    files = folder.glob("runs/*/result.json")
    steps = [json.loads(f.read_text(encoding="utf-8"))["config"]["train.steps"] for f in files]
    emit(f"{title}: {len(steps)} runs in {seconds:.0f} s")
    return Whole(title, len(steps), sum(steps), seconds)


def prepare(space: Workspace, contender: Contender, library: str, group: Group) -> None:
    """Let a contender make the loop of a group, in its plain form."""
    data, network = load(group.data_name), group.network
    job = Job(network, data.images, data.labels, np.zeros((1, 1), np.int32), {})
    contender.make(library, space.save(job), {"form": forms_of(library, network)[0]})


def train(contender: Contender, group: Group, run: Run) -> tuple[float, float]:
    """Return the run's test accuracy and its seconds."""
    return contender.ask("train", run, group.data_name)[0]


def time_group(
    space: Workspace, contender: Contender, library: str, group: Group, stride: int
) -> Timed:
    """Return what every stride-th run of a group takes."""
    chosen = group.runs()[::stride]
    began = time.perf_counter()
    prepare(space, contender, library, group)
    start = time.perf_counter() - began
    _, cold = train(contender, group, chosen[0])
    accuracies, seconds = zip(*(train(contender, group, run) for run in chosen), strict=True)
    start += max(0.0, cold - seconds[0])
    best = float(np.nanmax([0.0, *accuracies]))
    return Timed(group, library, len(chosen), start, statistics.fmean(seconds), best)


def middle(groups: Sequence[Group]) -> list[Group]:
    """Return of each setup the arm with batch norm, or its first one."""
    first = {g.setup: g for g in reversed(groups)}
    return list((first | {g.setup: g for g in groups if g.arm == "batch"}).values())


def time_loops(
    space: Workspace, groups: Sequence[Group], libraries: Sequence[str], stride: int
) -> list[Timed]:
    """Return the times of one process for each library. The libraries take turns at the groups; one
    that fails is left out with a line."""
    contenders = {library: space.start() for library in libraries}
    found: list[Timed] = []
    for group in groups:
        for library, contender in list(contenders.items()):
            try:
                timed = time_group(space, contender, library, group, stride)
            except Broken as error:
                emit(f"{LIBRARIES[library]} is left out: {error}")
                del contenders[library]
                continue
            found.append(timed)
            emit(
                f"{LIBRARIES[library]}, {group.setup}, {group.arm}: {timed.trained} of "
                f"{len(group.configs)} runs, {timed.start:.1f} s and {timed.each:.2f} s a run, "
                f"best accuracy {timed.accuracy:.1%}"
            )
    return [timed for timed in found if timed.library in contenders]


def time_fresh(space: Workspace, library: str, group: Group) -> float:
    """Return the median seconds of a process that trains one run, its cache warm."""
    environment = FULL_CACHE | {"JAX_COMPILATION_CACHE_DIR": str(space.folder / "cache")}
    seconds = []
    for run in [group.runs()[0], *group.runs()[:FRESH]]:
        began = time.perf_counter()
        contender = space.start(environment=environment)
        prepare(space, contender, library, group)
        train(contender, group, run)
        contender.finish()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def whole_loops(times: Sequence[Timed]) -> list[Whole]:
    """Return what the whole study takes each library, one run after another."""
    wholes = []
    for library in dict.fromkeys(t.library for t in times):
        own = [t for t in times if t.library == library]
        groups = [t.group for t in own]
        wholes.append(whole(library, "one process", groups, sum(t.seconds for t in own)))
    return wholes


def whole_fresh(space: Workspace, groups: Sequence[Group], libraries: Iterable[str]) -> list[Whole]:
    """Return what the study takes with one process for each run. torch.compile is not among them,
    because it would compile in each."""
    wholes = []
    for library in [name for name in libraries if name != "torch-compiled"]:
        seconds = 0.0
        for group in middle(groups):
            each = time_fresh(space, library, group)
            emit(f"{LIBRARIES[library]}, {group.setup}: {each:.1f} s for a process with one run")
            seconds += each * sum(len(g.configs) for g in groups if g.setup == group.setup)
        wholes.append(whole(library, "one process for each run", groups, seconds))
    return wholes


def ways_table(own: Sequence[Whole], others: Sequence[Whole]) -> Table:
    """Return a line for each way, with its time a run-step over each of normlab's."""
    columns = ["way", "runs", "run-steps", "seconds", "run-steps/s"]
    columns += [f"/ {way.title}" for way in own]
    rows = []
    for way in [*own, *others]:
        ratios = [way.seconds / way.run_steps * o.run_steps / o.seconds for o in own]
        cells = [way.title, f"{way.runs:,}", f"{way.run_steps:,}", f"{way.seconds:,.0f}"]
        rows.append([*cells, number(way.run_steps / way.seconds), *(f"{r:.2f}" for r in ratios)])
    return runner.table("A whole study", columns, rows)


def loops_table(times: Sequence[Timed]) -> Table:
    """Return what was measured of each loop, by setup."""
    columns = ("setup", "loop", "form", "runs measured", "start, s", "a run, s", "all runs, s")
    rows = []
    for setup, library in dict.fromkeys((t.group.setup, t.library) for t in times):
        own = [t for t in times if (t.group.setup, t.library) == (setup, library)]
        runs, start = sum(len(t.group.configs) for t in own), sum(t.start for t in own)
        seconds = sum(t.seconds for t in own)
        form = form_text(own[0].group.network, library, "")
        measured = f"{sum(t.trained for t in own)} of {runs}"
        each = (seconds - start) / runs
        cells = [setup, LIBRARIES[library], form, measured, f"{start:.1f}", f"{each:.2f}"]
        rows.append([*cells, f"{seconds:,.0f}"])
    return runner.table("A whole study: the loops", columns, rows)


def run(options: Options) -> str:
    """Measure; print the progress and the tables; return the section of the page."""
    groups, arms = planned_groups(options.schemes), options.schemes
    libraries, missing = runner.find_libraries(options.against, LOOPS)
    with Workspace() as space:
        cache = space.folder / "normlab"
        own = [time_normlab("normlab, empty cache", arms, space.folder / "a", cache)]
        times = time_loops(space, groups, libraries, options.stride)
        left = dict.fromkeys(timed.library for timed in times)
        others = [*whole_loops(times), *whole_fresh(space, groups, left)]
        own.append(time_normlab("normlab, warm cache", arms, space.folder / "b", cache))
    measured = f"Of each arm one run in {options.stride} was measured."
    head = [runner.machine(sorted({"flax", *libraries})), measured, *missing]
    return runner.publish(head, [ways_table(own, others), loops_table(times)])
