"""How fast normlab trains populations, beside the loops that a user would write instead.

Every contender is a process of its own (normlab: one for each core, as in a study) and they take
turns. All start from the same weights and see the same batches, and the losses of their first
steps have to agree before anything is timed.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import BadSelection, select
from benchmarks.loops.contender import Broken, Contender
from benchmarks.loops.matmul_loop import FLOPS
from benchmarks.loops.network import (
    BATCHES,
    EXAMPLES,
    NETWORKS,
    Job,
    Network,
    random_images,
    save_job,
    step_flops,
)
from benchmarks.loops.normlab_loop import first_rows, first_weights
from benchmarks.page import Table, core_numbers, cores, machine

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
"""Most steps between two looks of the host at a population: what a study has."""
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
    rate: float
    """Steps of single runs per second."""
    floor: float
    """The same as a share of what matrix products at the machine's rate would reach."""
    compile: float = 0.0
    """Seconds."""
    memory: float = 0.0
    """Host memory of all its processes at most, MB."""


class Plan(NamedTuple):
    networks: list[Network]
    populations: list[int]
    """[]: those that suit the network."""
    against: list[str]
    repeats: int
    seconds: float = SECONDS


def plan(
    networks: Sequence[str] = (),
    populations: Sequence[str] = (),
    against: Sequence[str] | None = None,
    repeats: int = REPEATS,
) -> Plan:
    """Return what to measure, () being all there is; raises BadSelection."""
    by_name = {network.name: network for network in NETWORKS}
    chosen = select("network", list(networks), list(by_name))
    for size in populations:
        if not size.isdecimal() or int(size) < 1:
            raise BadSelection(f"population {size!r} is no number of runs; use 1 or more")
    sizes = sorted(map(int, populations))
    libraries = [] if against == [] else select("library", list(against or []), list(LIBRARIES))
    return Plan([by_name[name] for name in chosen], sizes, libraries, repeats)


def find_libraries(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return those that are installed, and a line for each that is not."""
    found = [n for n in wanted if importlib.util.find_spec(n.partition("-")[0])]
    return found, [f"{LIBRARIES[n]} is left out: not installed" for n in wanted if n not in found]


def forms_of(library: str, network: Network) -> list[str]:
    """Return the ways to run a network that are tried, as options of its loop."""
    if library == "keras":
        return ["fit", "train_on_batch"]
    if library == "flax":
        return ["", "device"]
    forms = ["", "last"] if network.is_convolutional else [""]
    if library == "torch-compiled":
        return [f"compile {form}".strip() for form in forms]
    return [*forms, "one"] if step_flops(network) < SMALL else forms


def form_text(network: Network, library: str, form: str) -> str:
    words = [WORDS.get(word, word) for word in form.split() if word != "compile"]
    if library.startswith("torch") and network.is_convolutional and "last" not in form:
        words.insert(0, "channels first")
    return ", ".join(words)


def make_job(network: Network) -> Job:
    images, labels = random_images(network)
    rows = first_rows(network, EXAMPLES, BATCHES)
    return Job(network, images, labels, rows, first_weights(network))


class Field:
    """The contenders at one network, started one by one; leaving it ends their processes."""

    def __init__(self, job: Job, plan: Plan, tell: Callable[[str], None]):
        self.job, self.plan, self.tell = job, plan, tell
        self.network = job.network
        self.contenders: dict[Key, Contender] = {}
        self.stack = ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.path, self.log = folder / "job.npz", folder / "log"
        save_job(job, self.path)

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def add(
        self,
        key: Key,
        options: Sequence[dict[str, Any]],
        unit: float = 1,
        bound: Sequence[int | None] = (None,),
    ) -> Contender:
        """Start a contender with one process for each of `options`, bound to those cores."""
        environment = {
            "OMP_NUM_THREADS": str(cores()),
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(self.path.with_name("inductor")),
        }
        contender = Contender(self.log, environment, bound, unit)
        self.stack.callback(contender.close)
        contender.make(key[0].partition("-")[0], self.network, self.path, options)
        self.contenders[key] = contender
        return contender

    def add_population(self, size: int, peak: float) -> Contender:
        """Start normlab's: on a CPU its members divided over one process for each core."""
        is_cpu = jax.default_backend() == "cpu"
        places: list[int | None] = list(core_numbers()) if is_cpu else [None]
        workers = min(size, len(places))
        shares = [list(range(size))[i::workers] for i in range(workers)]
        work = step_flops(self.network) * len(shares[0]) * len(places)
        length = int(np.clip(self.plan.seconds * SHARE * peak / work, 1, CHUNK))
        options = [{"seeds": seeds, "length": length} for seeds in shares]
        return self.add((OWN, str(size)), options, size * length, places[:workers])

    def add_library(self, library: str, form: str) -> None:
        """Start a library's; one that breaks is left out with a line."""
        options = {"form": form} if library != FLOOR else {}
        try:
            self.add((library, form), [options]).losses(1)
        except Broken as error:
            self.contenders.pop((library, form), None)
            name = ", ".join(
                filter(None, [LIBRARIES[library], form_text(self.network, library, form)])
            )
            self.tell(f"{name} is left out at {self.network.name}: {error}")


def check_losses(network: str, losses: dict[str, list[float]]) -> None:
    """Raise Disagreement where a contender's losses are not those of the first one."""
    (reference, right), *others = losses.items()
    for name, found in others:
        for step, (a, b) in enumerate(zip(found, right, strict=True), 1):
            if not abs(a - b) <= AGREEMENT * abs(b):
                raise Disagreement(
                    f"{network}: the loss of {name} at step {step} is {a:.6g}, that of {reference} "
                    f"{b:.6g}; they may differ by {AGREEMENT:g} of it: not the same training"
                )


def calibrate(contender: Contender, seconds: float) -> int:
    """Return how many of its units take about that long, after some to warm up."""
    count, spent = 1, contender.run(1)
    spent = contender.run(1)
    while spent < seconds / 4:
        count *= 2
        spent = contender.run(count)
    return max(1, round(count * seconds / spent))


def take_turns(field: Field) -> dict[Key, float]:
    """Return the median rate of each contender over rounds in which each has a turn."""
    counts = {k: calibrate(c, field.plan.seconds) for k, c in field.contenders.items()}
    rates: dict[Key, list[float]] = {key: [] for key in counts}
    for _ in range(field.plan.repeats):
        for key, contender in field.contenders.items():
            count = counts[key]
            rates[key].append(count * contender.unit / contender.run(count))
    return {key: statistics.median(values) for key, values in rates.items()}


def measure(network: Network, plan: Plan, tell: Callable[[str], None]) -> list[Result]:
    """Return the results at one network; raises Disagreement and, where normlab fails, Broken."""
    with Field(make_job(network), plan, tell) as field:
        floor = field.add((FLOOR, ""), [{}], FLOPS)
        floor.run(1)
        peak = FLOPS / floor.run(1)
        sizes = plan.populations or (FEW if step_flops(network) > LARGE else POPULATIONS)
        populations = {size: field.add_population(size, peak) for size in sizes}
        for library in plan.against:
            for form in forms_of(library, network):
                field.add_library(library, form)
        contenders = {k: c for k, c in field.contenders.items() if k[0] != FLOOR}
        check_losses(network.name, {" ".join(k): c.losses(CHECKED) for k, c in contenders.items()})
        tell(f"{network.name}: the losses of {len(contenders)} contenders agree")
        rates = take_turns(field)
        peak = rates.pop((FLOOR, ""))
        tell(f"{network.name}: {peak / 1e9:.0f} GFLOP/s in float32 products of 2048 x 2048")
        results = []
        for (library, form), rate in rates.items():
            share = rate * step_flops(network) / peak
            result = Result(network, library, form, rate, share)
            if library == OWN:
                facts = populations[int(form)].ask("facts")
                result = result._replace(
                    compile=max(f["compile"] for f in facts),
                    memory=sum(f["memory"] for f in facts),
                )
            tell(f"{network.name}, {library} {form}: {rate:.4g} steps/s, {share:.1%} of the floor")
            results.append(result)
        return results


def best(results: Sequence[Result], network: Network, library: str) -> float:
    """Return the rate of a library's best form at a network; NaN where it has none."""
    rates = [r.rate for r in results if r.network == network and r.library == library]
    return max(rates, default=float("nan"))


def number(value: float) -> str:
    """Return three significant digits, none of them after the point from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def population_table(results: Sequence[Result], libraries: Sequence[str], note: str) -> Table:
    titles = [f"/ {LIBRARIES[library]}" for library in libraries]
    columns = ["network", "population", "run-steps/s", *titles]
    columns += ["of the floor", "compilation, s", "memory, MB"]
    rows = []
    for r in results:
        if r.library == OWN:
            ratios = [r.rate / best(results, r.network, library) for library in libraries]
            cells = ["-" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
            rows.append(
                [r.network.title, r.form, number(r.rate), *cells]
                + [f"{r.floor:.1%}", f"{r.compile:.1f}", f"{r.memory:.0f}"]
            )
    return Table("Training", columns, rows, note)


def peer_table(results: Sequence[Result]) -> Table:
    columns = ("network", "loop", "form", "steps/s", "of the floor")
    rows = [
        [
            r.network.title,
            LIBRARIES[r.library],
            form_text(r.network, r.library, r.form),
            number(r.rate),
            f"{r.floor:.1%}",
        ]
        for r in results
        if r.library != OWN
    ]
    return Table("Training: single runs", columns, rows)


def run(plan: Plan, tell: Callable[[str], None]) -> str:
    """Measure; tell the progress and the tables; return the section of the page."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the contenders need it
    libraries, missing = find_libraries(plan.against)
    for line in missing:
        tell(line)
    plan = plan._replace(against=libraries)
    results = [r for network in plan.networks for r in measure(network, plan, tell)]
    packages = {"flax", "optax", *(name.partition("-")[0] for name in libraries)}
    where = machine(sorted(packages))
    tables = [population_table(results, libraries, INTRODUCTION + where), peer_table(results)]
    tables = [table for table in tables if table.rows]
    tell("\n".join(["", where, *(table.terminal() for table in tables)]))
    return "\n\n".join([*(table.markdown() for table in tables), *missing])


INTRODUCTION = """Steps of single runs per second (members times steps) of a population with a
batch per member, and how many times as fast that is as the best form of each loop, which trains one
run with all cores. SGD with momentum and batch norm; every loop starts from the same weights, sees
the same batches and has the same first losses. normlab: on a CPU its members are divided over one
worker for each core, as in a study; the slowest counts. Floor: the matrix products of the step
(forward and both gradients) at the rate of float32 products of 2048 x 2048, measured in the same
rounds. Compilation: seconds without a cache; memory: of all workers together, at most. Medians over
rounds in which all contenders take turns, each in processes of its own. """
