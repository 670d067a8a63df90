"""How long a whole study takes: normlab's, and a loop of another library over the same runs.

The loops train one run after another in one process, the rate an argument of the compiled step; or
every run in a process of its own, as scripts that start sweeps do. Compilation and evaluation are
included. A loop trains every `share`-th run of each arm; the rest is taken to last as long.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import select
from benchmarks.loops.contender import Broken, Contender
from benchmarks.loops.network import Job, Network, save_job
from benchmarks.loops.stepwise import Run
from benchmarks.page import Table, cores, machine
from benchmarks.training import LIBRARIES, find_libraries, form_text, forms_of, number
from normlab.data import load
from normlab.settings import Config

LOOPS = ("flax", "torch", "torch-compiled")
SHARE = 5
FRESH = 3
"""Processes of one run each that are timed for each setup."""
FULL_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
Tell = Callable[[str], None]
Forms = dict[tuple[str, str], str]
"""(library, setup) -> the form that is fastest there."""


class Group(NamedTuple):
    """The planned runs of one arm of one setup."""

    setup: str
    arm: str
    configs: list[Config]

    @property
    def run_steps(self) -> int:
        return sum(config["train.steps"] for config in self.configs)

    @property
    def network(self) -> Network:
        c, shape = self.configs[0], load(self.configs[0]["data.name"]).shape
        name, widths, act = (c[f"model.{o}"] for o in ("name", "widths", "act"))
        return Network(self.setup, "", name, shape, c["data.batch"], widths, act, c["norm.name"])

    def runs(self) -> list[Run]:
        names = ("optim.lr", "seed", "train.steps", "train.eval_every")
        return [Run(*(config[name] for name in names)) for config in self.configs]


class Timed(NamedTuple):
    """One loop over one group."""

    group: Group
    library: str
    form: str
    trained: int
    """Runs that were trained."""
    start: float
    """Seconds until the first run could begin, compilation included."""
    each: float
    """Mean seconds of a run."""

    @property
    def seconds(self) -> float:
        """What all runs of the group take."""
        return self.start + self.each * len(self.group.configs)


class Whole(NamedTuple):
    """One way to carry out the study."""

    title: str
    runs: int
    run_steps: int
    seconds: float


class Plan(NamedTuple):
    groups: list[Group]
    command: list[str]
    """What makes normlab carry out the study, but for its results directory."""
    against: list[str]
    share: int


def plan(
    groups: list[Group],
    command: list[str],
    against: Sequence[str] | None = None,
    share: int = SHARE,
) -> Plan:
    """Return what to measure; raises BadSelection."""
    libraries = [] if against == [] else select("library", list(against or []), list(LOOPS))
    return Plan(groups, command, libraries, share)


def time_normlab(title: str, command: Sequence[str], folder: Path, cache: Path) -> Whole:
    """Return what the study takes in a new results directory; raises Broken."""
    began = time.perf_counter()
    environment = os.environ | {"NORMLAB_CACHE": str(cache)}
    whole = [*command, f"--results={folder}"]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Broken(f"the study failed: {last[0]}")
    files = folder.glob("runs/*/result.json")
    steps = [json.loads(f.read_text(encoding="utf-8"))["config"]["train.steps"] for f in files]
    return Whole(title, len(steps), sum(steps), seconds)


class Workshop:
    """Files and environment of the loops' processes."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "log"
        self.environment = {
            "OMP_NUM_THREADS": str(cores()),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }

    def job(self, group: Group) -> Path:
        path = self.folder / f"{group.configs[0]['data.name']}.npz"
        if not path.exists():
            data = load(group.configs[0]["data.name"])
            rows = np.zeros((1, 1), np.int32)
            save_job(Job(group.network, data.images, data.labels, rows, {}), path)
        return path

    def start(self, cache: Path | None = None) -> Contender:
        """Start a process; with `cache`, jax keeps what it compiles there."""
        own = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        if cache:
            own = {**FULL_CACHE, "JAX_COMPILATION_CACHE_DIR": str(cache)}
            own["JAX_ENABLE_COMPILATION_CACHE"] = "true"
        return Contender(self.log, self.environment | own)

    def prepare(self, contender: Contender, library: str, form: str, group: Group) -> None:
        loop, job = library.partition("-")[0], self.job(group)
        contender.make(loop, group.network, job, [{"form": form}])

    def train(self, contender: Contender, group: Group, run: Run) -> tuple[float, float]:
        """Return the run's test accuracy and its seconds."""
        name = group.configs[0]["data.name"]
        return tuple(contender.ask("train", run=run, data=name)[0])


def time_group(
    shop: Workshop, contender: Contender, library: str, form: str, group: Group, share: int
) -> tuple[Timed, float]:
    """Return what every share-th run of a group takes, and the best accuracy of them."""
    chosen = group.runs()[::share]
    began = time.perf_counter()
    shop.prepare(contender, library, form, group)
    start = time.perf_counter() - began
    _, cold = shop.train(contender, group, chosen[0])
    accuracies, seconds = zip(*(shop.train(contender, group, r) for r in chosen), strict=True)
    start += max(0.0, cold - seconds[0])
    timed = Timed(group, library, form, len(chosen), start, statistics.fmean(seconds))
    return timed, np.nanmax([0.0, *accuracies])


def choose_form(shop: Workshop, library: str, group: Group, tell: Tell) -> str:
    """Return the form whose second run of the group takes least; raises Broken if one fails."""
    seconds: dict[str, float] = {}
    forms = forms_of(library, group.network)
    for form in forms if len(forms) > 1 else []:
        contender = shop.start()
        try:
            shop.prepare(contender, library, form, group)
            run = group.runs()[0]
            seconds[form] = [shop.train(contender, group, run)[1] for _ in range(2)][1]
        finally:
            contender.close()
    form = min(forms, key=lambda f: seconds.get(f, 0.0))
    text = form_text(group.network, library, form)
    tell(f"{LIBRARIES[library]}, {group.setup}: {text or 'its plain form'}")
    return form


def choose_forms(shop: Workshop, plan: Plan, tell: Tell) -> Forms:
    """Return the fastest forms; a library that fails is left out with a line."""
    forms: Forms = {}
    for library in plan.against:
        try:
            forms |= {(library, g.setup): choose_form(shop, library, g, tell) for g in middle(plan)}
        except Broken as error:
            tell(f"{LIBRARIES[library]} is left out: {error}")
    return forms


def middle(plan: Plan) -> list[Group]:
    """Return of each setup the arm with batch norm, or its first one."""
    setups = {g.setup: g for g in reversed(plan.groups)}
    return list((setups | {g.setup: g for g in plan.groups if g.arm == "batch"}).values())


def time_loops(shop: Workshop, plan: Plan, forms: Forms, tell: Tell) -> list[Timed]:
    """Return the times of one process for each library, which take turns at the groups."""
    libraries = list(dict.fromkeys(library for library, _ in forms))
    contenders: dict[str, Contender] = {}
    found: list[Timed] = []
    try:
        for group in plan.groups:
            for library in libraries:
                if library not in contenders:
                    contenders[library] = shop.start()
                contender = contenders[library]
                form = forms[library, group.setup]
                timed, best = time_group(shop, contender, library, form, group, plan.share)
                found.append(timed)
                tell(
                    f"{LIBRARIES[library]}, {group.setup}, {group.arm}: {timed.trained} of "
                    f"{len(group.configs)} runs, {timed.start:.1f} s and {timed.each:.2f} s a run, "
                    f"best accuracy {best:.1%}"
                )
    finally:
        for contender in contenders.values():
            contender.close()
    return found


def time_fresh(shop: Workshop, library: str, form: str, group: Group) -> float:
    """Return the median seconds of a process that trains one run, its cache warm."""
    cache, seconds = shop.folder / "cache", []
    for run in [group.runs()[0], *group.runs()[:FRESH]]:
        began = time.perf_counter()
        contender = shop.start(cache)
        shop.prepare(contender, library, form, group)
        shop.train(contender, group, run)
        contender.finish()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def whole_loops(times: Sequence[Timed]) -> list[Whole]:
    """Return what the whole study takes each library, one run after another."""
    wholes = []
    for library in dict.fromkeys(t.library for t in times):
        own = [t for t in times if t.library == library]
        runs = sum(len(t.group.configs) for t in own)
        steps = sum(t.group.run_steps for t in own)
        seconds = sum(t.seconds for t in own)
        wholes.append(Whole(f"{LIBRARIES[library]}, one process", runs, steps, seconds))
    return wholes


def whole_fresh(shop: Workshop, plan: Plan, forms: Forms, tell: Tell) -> list[Whole]:
    """Return what the study takes with one process for each run; not torch.compile, which would
    compile in each."""
    wholes = []
    for library in dict.fromkeys(name for name, _ in forms if name != "torch-compiled"):
        seconds = 0.0
        for group in middle(plan):
            each = time_fresh(shop, library, forms[library, group.setup], group)
            tell(f"{LIBRARIES[library]}, {group.setup}: {each:.1f} s for a process with one run")
            seconds += each * sum(len(g.configs) for g in plan.groups if g.setup == group.setup)
        runs, steps = (
            sum(len(g.configs) for g in plan.groups),
            sum(g.run_steps for g in plan.groups),
        )
        title = f"{LIBRARIES[library]}, one process for each run"
        wholes.append(Whole(title, runs, steps, seconds))
    return wholes


def ways_table(own: Sequence[Whole], others: Sequence[Whole], note: str) -> Table:
    """Return a line for each way, with its time a run-step over each of normlab's."""
    columns = ["way", "runs", "run-steps", "seconds", "run-steps/s"]
    columns += [f"/ {whole.title}" for whole in own]
    rows = []
    for w in [*own, *others]:
        ratios = [w.seconds / w.run_steps * o.run_steps / o.seconds for o in own]
        cells = [w.title, f"{w.runs:,}", f"{w.run_steps:,}", f"{w.seconds:,.0f}"]
        rows.append([*cells, number(w.run_steps / w.seconds), *(f"{r:.2f}" for r in ratios)])
    return Table("A whole study", columns, rows, note)


def loops_table(times: Sequence[Timed]) -> Table:
    """Return what was measured of each loop, by setup."""
    columns = ("setup", "loop", "form", "runs measured", "start, s", "a run, s", "all runs, s")
    rows = []
    for setup, library in dict.fromkeys((t.group.setup, t.library) for t in times):
        own = [t for t in times if (t.group.setup, t.library) == (setup, library)]
        runs, start = sum(len(t.group.configs) for t in own), sum(t.start for t in own)
        seconds = sum(t.seconds for t in own)
        form = form_text(own[0].group.network, library, own[0].form)
        measured = f"{sum(t.trained for t in own)} of {runs}"
        each = (seconds - start) / runs
        cells = [setup, LIBRARIES[library], form, measured, f"{start:.1f}", f"{each:.2f}"]
        rows.append([*cells, f"{seconds:,.0f}"])
    return Table("A whole study: the loops", columns, rows)


def run(plan: Plan, tell: Tell) -> str:
    """Measure; tell the progress and the tables; return the section of the page."""
    libraries, missing = find_libraries(plan.against)
    for line in missing:
        tell(line)
    plan = plan._replace(against=libraries)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop, cache = Workshop(folder), folder / "normlab"
        own = [time_normlab("normlab, empty cache", plan.command, folder / "a", cache)]
        tell(f"normlab: {own[0].runs} runs in {own[0].seconds:.0f} s with an empty cache")
        forms = choose_forms(shop, plan, tell)
        times = time_loops(shop, plan, forms, tell)
        others = [*whole_loops(times), *whole_fresh(shop, plan, forms, tell)]
        own.append(time_normlab("normlab, warm cache", plan.command, folder / "b", cache))
        tell(f"normlab: {own[1].runs} runs in {own[1].seconds:.0f} s with a warm cache")
    packages = {"flax", *(name.partition("-")[0] for name in libraries)}
    where = machine(sorted(packages))
    note = INTRODUCTION.format(share=plan.share, fresh=FRESH) + where
    tables = [ways_table(own, others, note), loops_table(times)]
    tables = [table for table in tables if table.rows]
    tell("\n".join(["", where, *(table.terminal() for table in tables)]))
    return "\n\n".join([*(table.markdown() for table in tables), *missing])


INTRODUCTION = """The quick study of learning rates, compilation and evaluation included. normlab
carries it out with `scripts/study.py`: the planned grid, what it is extended by, the runs at ten
times the rate, and the report. The loops train the planned grid alone, so the last columns compare
seconds of a run-step: how many times as long it takes as with normlab. One process: one run
after another on all cores, the rate an argument of the compiled step, in the form that is fastest
for the setup; of each arm one run in {share} was measured, the others are taken to last as long as
those do on average, start and compilation count once for each arm, and a run whose loss is not
finite at an evaluation ends there. One process for each run: the median of {fresh} processes for
each setup, batch norm, times its runs; Flax with a warm compilation cache. Evaluation: the
validation split every 100 steps, the test split at the end, running statistics as each library
keeps them. What a library has no layer for costs it nothing: the arm `affine` runs as `none` does.
"""
