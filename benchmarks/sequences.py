"""How fast normlab trains networks over sequences, compared with the loops a user would write.

Every contender has one thread on one core, and steps are counted per second of the processor. All
start from the same weights and see the same batches, and their first losses have to agree.
docs/benchmarks.md says how to read the table.
"""

from __future__ import annotations

from benchmarks import runner, training
from benchmarks.loops.contender import Contender, Workspace
from benchmarks.loops.network import Job
from benchmarks.loops.sequence import NETWORKS, SequenceNetwork, as_sequences
from benchmarks.runner import Options, emit
from benchmarks.training import Key
from normlab.runs.provenance import available_cores

MEMBERS, LENGTH = 4, 25
"""Runs of normlab's population, and steps of its chunk."""
REPEATS = 7
AGREEMENT = 1e-5
"""The largest relative difference of the first losses that is rounding."""
FORMS = {
    ("flax", ""): "Flax nn.RNN",
    ("flax", "plain"): "Flax nn.RNN, a product for each gate",
    ("torch", "padded"): "PyTorch's layer, padded",
    ("torch", "packed"): "PyTorch's layer, packed",
    ("torch", "cell"): "PyTorch, your own cell",
    ("torch", "unbound cell"): "PyTorch, your own cell, steps unbound",
}
"""(library, form) -> words."""


def forms_of(network: SequenceNetwork, libraries: list[str]) -> list[Key]:
    """Return the loops that can train a network: with batch norm, only your own cell."""
    keys = [key for key in FORMS if key[0] in libraries]
    if network.norm != "none":
        return [key for key in keys if "cell" in key[1]]
    return [key for key in keys if key[1] != "plain" or network.cell == "lstm"]


def make_job(network: SequenceNetwork) -> Job:
    job = training.make_job(network)
    return job._replace(images=as_sequences(network, job.images))


def measure(network: SequenceNetwork, libraries: list[str], rounds: int) -> dict[Key, list[float]]:
    """Return the rates of normlab, first, and of the loops; raises Disagreement and Broken."""
    with Workspace(available_cores()[-1:], "spend") as space:
        job = space.save(make_job(network))
        own = space.start(unit=MEMBERS * LENGTH)
        own.make(training.OWN, job, {"seeds": [*range(MEMBERS)], "length": LENGTH})
        contenders: dict[Key, Contender] = {(training.OWN, ""): own}
        for library, form in forms_of(network, libraries):
            contender = contenders[library, form] = space.start()
            contender.make(f"{library}_sequence", job, {"form": form})
        losses = {" ".join(k): c.ask("losses", training.CHECKED)[0] for k, c in contenders.items()}
        training.check_losses(network.name, losses, AGREEMENT)
        emit(f"{network.name}: the losses of {len(contenders)} contenders agree")
        return training.take_turns(contenders, rounds)


def run(options: Options) -> str:
    """Measure; print the progress and the table; return the section of the page."""
    by_name = {network.name: network for network in NETWORKS}
    libraries, missing = runner.find_libraries(
        options.against, {"flax": "Flax loop", "torch": "PyTorch"}
    )
    lines, ratios = [], []
    for name in runner.select("network", options.networks, by_name):
        (own, ours), *others = measure(by_name[name], libraries, options.repeats or REPEATS).items()
        rates = [(own[0], ours, "-")]
        for key, found in others:
            ratios.append(runner.ratio_of(ours, found))
            rates.append((FORMS[key], found, ratios[-1].text))
        for words, found, ratio in rates:
            rate = training.number(sorted(found)[len(found) // 2])
            lines.append([by_name[name].title, words, rate, ratio])
            emit(", ".join(lines[-1]))
    columns = ("network", "loop", "steps/CPU s", "normlab / it")
    where = runner.machine(["flax", "optax", *libraries])
    head = [where, runner.spread_text(ratios), *missing]
    return runner.publish(head, [runner.table("Sequences", columns, lines)])
