"""How fast normlab trains populations, compared with the loops that a user would write.

Every contender is a process of its own (normlab: one for each core, as in a study) and they take
turns. All start from the same weights and see the same batches. The losses of their first steps
have to agree before anything is timed. docs/benchmarks.md says how to read the tables.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import runner
from benchmarks.loops.contender import Broken, Contender, Workspace
from benchmarks.loops.matmul_loop import FLOPS
from benchmarks.loops.network import BATCHES, EXAMPLES, NETWORKS, Job, Network, random_images
from benchmarks.loops.normlab_loop import first_rows, first_weights
from benchmarks.runner import BadSelection, Options, Ratio, emit
from normlab.report.tables import Table
from normlab.runs.provenance import available_cores

OWN, FLOOR = "normlab", "matmul"
LIBRARIES = {
    "flax": "Flax loop",
    "torch": "PyTorch eager",
    "torch-compiled": "torch.compile",
    "keras": "Keras (JAX)",
}
POPULATIONS, FEW = (1, 8, 16, 64), (1, 4)
LARGE = 1e10
"""Operations of a step from which on only FEW train together: a turn would take minutes."""
REPEATS = 5
SECONDS = 0.5
"""About what one turn of a contender takes."""
CHUNK = 100
"""Most steps between two looks of the host at a population, as in a study."""
SHARE = 0.25
"""Of the matmul rate, about what a population reaches: it only chooses the length of a turn."""
CHECKED, AGREEMENT = 5, 1e-3
"""Steps whose losses are compared, and the largest relative difference that is rounding."""
SMALL = 1e9
"""Operations of a step below which PyTorch is also tried with one thread."""
WORDS = {"last": "channels last", "one": "one thread", "device": "batches indexed by JAX"}

Key = tuple[str, str]
"""(library, form); normlab's form is the population."""


class Disagreement(RuntimeError):
    """Two contenders do not train the same network."""


class Result(NamedTuple):
    network: Network
    library: str
    form: str
    rates: Sequence[float]
    """Steps of single runs per second, of each round."""
    floor: float
    """The median as a fraction of what matrix products at the machine's rate would reach."""
    compile: float = 0.0
    """Seconds."""
    memory: float = 0.0
    """Host memory of all its processes at most, MB."""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def forms_of(library: str, network: Network) -> list[str]:
    """Return the ways to run a network that are tried, as options of its loop."""
    if library == "keras":
        return ["fit", "train_on_batch"]
    if library == "flax":
        return ["", "device"]
    forms = ["", "last"] if network.is_convolutional else [""]
    if library == "torch-compiled":
        return [f"compile {form}".strip() for form in forms]
    return [*forms, "one"] if network.step_flops < SMALL else forms


def form_text(network: Network, library: str, form: str) -> str:
    words = [WORDS.get(word, word) for word in form.split() if word != "compile"]
    if library.startswith("torch") and network.is_convolutional and "last" not in form:
        words.insert(0, "channels first")
    return ", ".join(words)


def make_job(network: Network) -> Job:
    images, labels = random_images(network)
    rows = first_rows(network, EXAMPLES, BATCHES)
    return Job(network, images, labels, rows, first_weights(network))


def start_population(
    space: Workspace, network: Network, job: Path, size: int, peak: float
) -> Contender:
    """Start normlab's. On a CPU its members are divided over one process for each core."""
    is_cpu = jax.default_backend() == "cpu"
    cores: list[int | None] = list(available_cores()) if is_cpu else [None]
    workers = min(size, len(cores))
    seeds = [list(range(size))[i::workers] for i in range(workers)]
    work = network.step_flops * len(seeds[0]) * len(cores)
    length = int(np.clip(SECONDS * SHARE * peak / work, 1, CHUNK))
    contender = space.start(cores[:workers], size * length)
    contender.make(OWN, job, *({"seeds": own, "length": length} for own in seeds))
    return contender


def start_libraries(
    space: Workspace, network: Network, job: Path, libraries: Sequence[str]
) -> dict[Key, Contender]:
    """Start each library in each of its forms. One that breaks is left out with a line."""
    contenders: dict[Key, Contender] = {}
    for library, form in [(name, form) for name in libraries for form in forms_of(name, network)]:
        contender = space.start()
        try:
            contender.make(library, job, {"form": form})
            contender.ask("losses", 1)
        except Broken as error:
            name = [LIBRARIES[library], form_text(network, library, form)]
            emit(f"{', '.join(filter(None, name))} is left out at {network.name}: {error}")
        else:
            contenders[library, form] = contender
    return contenders


def check_losses(
    network: str, losses: Mapping[str, Sequence[float]], agreement: float = AGREEMENT
) -> None:
    """Raise Disagreement where a contender's losses are not those of the first one."""
    (reference, right), *others = losses.items()
    for name, found in others:
        for step, (a, b) in enumerate(zip(found, right, strict=True), 1):
            if not abs(a - b) <= agreement * abs(b):
                raise Disagreement(
                    f"{network}: the loss of {name} at step {step} is {a:.6g}, that of {reference} "
                    f"{b:.6g}; they may differ by {agreement:g} of it: not the same training"
                )


def calibrate(contender: Contender, seconds: float) -> int:
    """Return how many of its units take about that long, after some to warm up."""
    count, spent = 1, contender.run(1)
    spent = contender.run(1)
    while spent < seconds / 4:
        count *= 2
        spent = contender.run(count)
    return max(1, round(count * seconds / spent))


def take_turns(contenders: Mapping[Key, Contender], rounds: int) -> dict[Key, list[float]]:
    """Return the rates of each contender in rounds of turns of one length."""

    def rate(contender: Contender, count: int) -> float:
        return count * contender.unit / contender.run(count)

    turns = {key: partial(rate, c, calibrate(c, SECONDS)) for key, c in contenders.items()}
    return runner.take_turns(turns, rounds)


def measure(
    network: Network, sizes: Sequence[int], libraries: Sequence[str], repeats: int
) -> list[Result]:
    """Return the results at one network; raises Disagreement and, where normlab fails, Broken."""
    with Workspace() as space:
        job = space.save(make_job(network))
        floor = space.start(unit=FLOPS)
        floor.make(FLOOR, job, {})
        floor.run(1)
        peak = FLOPS / floor.run(1)
        sizes = sizes or (FEW if network.step_flops > LARGE else POPULATIONS)
        contenders = {
            (OWN, str(size)): start_population(space, network, job, size, peak) for size in sizes
        }
        contenders |= start_libraries(space, network, job, libraries)
        losses = {" ".join(k): c.ask("losses", CHECKED)[0] for k, c in contenders.items()}
        check_losses(network.name, losses)
        emit(f"{network.name}: the losses of {len(contenders)} contenders agree")
        rates = take_turns({(FLOOR, ""): floor, **contenders}, repeats)
        peak = statistics.median(rates.pop((FLOOR, "")))
        emit(f"{network.name}: {peak / 1e9:.0f} GFLOP/s in float32 products of 2048 x 2048")
        results = []
        for (library, form), found in rates.items():
            fraction = statistics.median(found) * network.step_flops / peak
            result = Result(network, library, form, found, fraction)
            if library == OWN:
                seconds, memory = zip(*contenders[library, form].ask("costs"), strict=True)
                result = result._replace(compile=max(seconds), memory=sum(memory))
            results.append(result)
            emit(f"{network.name}, {library} {form}: {result.rate:.4g} steps/s, {fraction:.1%}")
        return results


def ratio_to(result: Result, results: Sequence[Result], library: str) -> Ratio | None:
    """Return how many times as fast a result is as the best form of a library."""
    forms = [r for r in results if r.network == result.network and r.library == library]
    best = max(forms, key=lambda r: r.rate, default=None)
    return best and runner.ratio_of(result.rates, best.rates)


def number(value: float) -> str:
    """Return three significant digits, none of them after the point from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def population_table(
    results: Sequence[Result], libraries: Sequence[str]
) -> tuple[Table, list[Ratio]]:
    """Return a line for each population, and its ratios."""
    columns = ["network", "population", "run-steps/s", *(f"/ {LIBRARIES[n]}" for n in libraries)]
    columns += ["of the floor", "compilation, s", "memory, MB"]
    rows: list[list[str]] = []
    found: list[Ratio] = []
    for r in [result for result in results if result.library == OWN]:
        ratios = [ratio_to(r, results, library) for library in libraries]
        found += filter(None, ratios)
        cells = [ratio.text if ratio else "-" for ratio in ratios]
        cells += [f"{r.floor:.1%}", f"{r.compile:.1f}", f"{r.memory:.0f}"]
        rows.append([r.network.title, r.form, number(r.rate), *cells])
    return runner.table("Training", columns, rows), found


def library_table(results: Sequence[Result]) -> Table:
    columns = ("network", "loop", "form", "steps/s", "of the floor")
    rows = []
    for r in [result for result in results if result.library != OWN]:
        names = [r.network.title, LIBRARIES[r.library], form_text(r.network, r.library, r.form)]
        rows.append([*names, number(r.rate), f"{r.floor:.1%}"])
    return runner.table("Training: single runs", columns, rows)


def run(options: Options) -> str:
    """Measure; print the progress and the tables; return the section of the page."""
    by_name = {network.name: network for network in NETWORKS}
    networks = runner.select("network", options.networks, by_name)
    for size in options.populations:
        if not size.isdecimal() or int(size) < 1:
            raise BadSelection(f"population {size!r} is no number of runs; use 1 or more")
    sizes = sorted(map(int, options.populations))
    libraries, missing = runner.find_libraries(options.against, LIBRARIES)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the contenders need it
    results: list[Result] = []
    for name in networks:
        results += measure(by_name[name], sizes, libraries, options.repeats or REPEATS)
    table, ratios = population_table(results, libraries)
    where = runner.machine(sorted({"flax", "optax", *libraries}))
    head = [where, runner.spread_text(ratios), *missing]
    return runner.publish(head, [table, library_table(results)])
