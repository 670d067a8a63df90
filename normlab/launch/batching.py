"""What trains together: runs of one cohort, or a population that stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property

from normlab.runs.checkpoints import unfinished
from normlab.runs.config import cohort_id, run_id
from normlab.runs.errors import Drift
from normlab.runs.store import Store
from normlab.settings import Config, defaults, program_key

WORTH_SHARING = 20_000
"""Run-steps of a population that take longer than the second worker's compilation, 5 to 10 s."""


Turn = tuple[int, int]
"""When a run has its turn: first by the tier, which no population crosses, then within it."""


@dataclass(frozen=True)
class PlannedPopulation:
    """Runs to train together: one cohort, at most the width of a population."""

    configs: dict[str, Config]
    resumes: bool = False
    """Whether they are a population that stopped after a checkpoint."""
    turn: Turn = (0, 0)
    """The first turn of its runs."""

    @property
    def config(self) -> Config:
        return next(iter(self.configs.values()))

    @cached_property
    def program(self) -> tuple:
        """What the compiled program depends on."""
        return program_key(self.config)

    @property
    def run_steps(self) -> int:
        return len(self.configs) * self.config["train.steps"]

    @property
    def label(self) -> str:
        c = self.config
        stats = f"/{c['norm.stats_batch']}" if c["norm.stats_batch"] else ""
        return (
            f"{c['data.name']} {c['model.name']} {c['norm.name']}{stats}, "
            f"batch {c['data.batch']}, {len(self.configs)} runs"
        )


def form_populations(
    configs: dict[str, Config], turn: Callable[[str], Turn] = lambda run: (0, 0)
) -> list[PlannedPopulation]:
    """Return the runs as populations of one cohort and tier each, at most host.width wide."""
    cohorts: dict[tuple[str, int, int], dict[str, Config]] = {}
    for name, config in configs.items():
        key = (cohort_id(config), config["host.width"], turn(name)[0])
        cohorts.setdefault(key, {})[name] = config
    populations = []
    for (_, width, _), runs in cohorts.items():
        names = sorted(runs, key=turn)
        count = -(-len(names) // width)
        size = -(-len(names) // count)
        for i in range(0, len(names), size):
            part = {n: runs[n] for n in names[i : i + size]}
            populations.append(PlannedPopulation(part, turn=turn(names[i])))
    return populations


def halve_largest(populations: list[PlannedPopulation], workers: int) -> list[PlannedPopulation]:
    """Return the populations, the largest halved while there are more workers than populations,
    down to WORTH_SHARING."""
    populations = list(populations)
    while 0 < len(populations) < workers:
        largest = max(populations, key=lambda p: 0 if p.resumes else p.run_steps)
        half = len(largest.configs) // 2
        if half == 0 or largest.resumes or largest.run_steps < WORTH_SHARING:
            break
        populations.remove(largest)
        runs = list(largest.configs.items())
        populations += [replace(largest, configs=dict(p)) for p in (runs[:half], runs[half:])]
    return populations


def stopped_populations(store: Store, required: Collection[str]) -> list[PlannedPopulation]:
    """Return the populations that stopped after a checkpoint and hold a required run, as they were
    formed. Raises Drift where the settings of one are not those that its runs are named by."""
    populations = []
    for folder in unfinished(store):
        runs = {name: defaults() | config for name, config in folder.runs_if_known().items()}
        if runs.keys().isdisjoint(required):
            continue
        wrong = [name for name, config in runs.items() if not _is_named_by(name, config)]
        if wrong:
            raise Drift(
                f"population {folder.name}: the settings of run {wrong[0]} are not those that it "
                f"was begun with; move {str(folder.path)!r} away to restart it"
            )
        populations.append(PlannedPopulation(runs, resumes=True))
    return populations


def _is_named_by(name: str, config: Config) -> bool:
    try:
        return run_id(config) == name
    except (ValueError, KeyError, TypeError, AttributeError):  # of values of other types
        return False
