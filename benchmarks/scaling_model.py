"""Many nodes and one command, simulated: how much of their time the nodes spend on training.

The command is one server: it gives a population to a free node, takes its reports and its end.
Nodes start, compile each program once, train, and are lost now and then.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Costs:
    """Seconds of the command (the first four) and of a node."""

    plan: float
    """Planning, for each population."""
    commit: float
    """For each run."""
    event: float
    """For each report of progress."""
    give: float
    """Handing out a population."""
    start: float
    compile_cold: float
    """Tracing and compilation of a program that is not in the node's cache."""


@dataclass(frozen=True)
class Load:
    """What there is to train: some populations for each node."""

    median_s: float = 60.0
    populations: int = 20
    runs: int = 32
    spread: float = 0.8
    """Standard deviation of the logarithm of a population's seconds."""
    programs: int = 40
    event_gap_s: float = 10.0
    lost_after_s: float = WEEK_S
    """Mean time until a node is lost."""
    noticed_s: float = 60.0
    checkpoint_s: float = 60.0


@dataclass(frozen=True)
class Outcome:
    efficiency: float
    """The share of the nodes' time that is training."""
    command_load: float
    """The share of its time for which the command was busy."""
    lost: int


def simulate(nodes: int, costs: Costs, load: Load, seed: int = 0) -> Outcome:
    """Let `nodes` nodes of one slot train all populations, the longest first."""
    rng = random.Random(seed)
    todo = sorted(
        (rng.lognormvariate(math.log(load.median_s), load.spread), rng.randrange(load.programs))
        for _ in range(nodes * load.populations)
    )
    useful, busy, lost, free_at = sum(seconds for seconds, _ in todo), 0.0, 0, 0.0
    compiled: list[set[int]] = [set() for _ in range(nodes)]

    def serve(now: float, work: float) -> float:
        """Let the command do some work as soon as it can; return when it is done."""
        nonlocal busy, free_at
        busy += work
        free_at = max(now, free_at) + work
        return free_at

    def train(node: int, given: float) -> float:
        """Return when a node has trained its next population."""
        nonlocal lost
        seconds, program = todo.pop()
        extra = 0.0 if compiled[node] else costs.start
        extra += 0.0 if program in compiled[node] else costs.compile_cold
        compiled[node].add(program)
        if rng.random() < -math.expm1(-seconds / load.lost_after_s):
            lost += 1
            extra += min(seconds, load.checkpoint_s) / 2 + load.noticed_s
            extra += costs.start + costs.compile_cold
        reports = costs.event * seconds / load.event_gap_s
        serve(given, reports)
        return given + extra + seconds

    ends = [(train(node, serve(0.0, costs.give)), node) for node in range(nodes)]
    heapq.heapify(ends)
    now = 0.0
    while ends:
        at, node = heapq.heappop(ends)
        now = serve(at, costs.commit * load.runs + costs.plan)
        if todo:
            heapq.heappush(ends, (train(node, serve(now, costs.give)), node))
    return Outcome(useful / (now * nodes), busy / now, lost)
