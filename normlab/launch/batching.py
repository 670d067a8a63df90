"""What trains together: runs of one cohort, or a population that stopped."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from normlab.runs.checkpoints import unfinished
from normlab.runs.config import cohort_id, run_id
from normlab.runs.errors import Drift
from normlab.runs.store import Store
from normlab.settings import Config, defaults

WORTH_SHARING = 20_000
"""Run-steps of a group that take longer than the second worker's compilation, 5 to 10 seconds."""


@dataclass(frozen=True)
class Group:
    """Runs to train together: one cohort, at most the width of a population."""

    configs: dict[str, Config]
    resumes: bool = False
    """Whether they are a population that stopped after a checkpoint."""

    @property
    def config(self) -> Config:
        return next(iter(self.configs.values()))

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


def group_runs(configs: dict[str, Config]) -> list[Group]:
    """Return the runs as groups of one cohort each, at most host.width wide."""
    cohorts: dict[tuple[str, int], dict[str, Config]] = {}
    for name, config in configs.items():
        key = (cohort_id(config), config["host.width"])
        cohorts.setdefault(key, {})[name] = config
    groups = []
    for (_, width), runs in cohorts.items():
        names = list(runs)
        parts = -(-len(names) // width)
        size = -(-len(names) // parts)
        groups += [
            Group({n: runs[n] for n in names[i : i + size]}) for i in range(0, len(names), size)
        ]
    return groups


def spread(groups: list[Group], workers: int) -> list[Group]:
    """Return the groups, the largest ones halved while there are more workers than groups, down to
    WORTH_SHARING."""
    groups = list(groups)
    while 0 < len(groups) < workers:
        largest = max(groups, key=lambda group: 0 if group.resumes else group.run_steps)
        runs, half = list(largest.configs.items()), len(largest.configs) // 2
        if half == 0 or largest.resumes or largest.run_steps < WORTH_SHARING:
            break
        groups.remove(largest)
        groups += [Group(dict(runs[:half])), Group(dict(runs[half:]))]
    return groups


def stopped_groups(store: Store, wanted: Collection[str]) -> list[Group]:
    """Return the populations that stopped after a checkpoint and hold a run that is wanted, as they
    were formed; raises Drift where the settings of one are not those that its runs are named by."""
    groups = []
    for folder in unfinished(store):
        runs = {name: defaults() | config for name, config in folder.runs_if_known().items()}
        if runs.keys().isdisjoint(wanted):
            continue
        wrong = [name for name, config in runs.items() if not _is_named_by(name, config)]
        if wrong:
            raise Drift(
                f"population {folder.name}: the settings of run {wrong[0]} are not those that it "
                f"was begun with; move {str(folder.path)!r} away to begin it again"
            )
        groups.append(Group(runs, resumes=True))
    return groups


def _is_named_by(name: str, config: Config) -> bool:
    try:
        return run_id(config) == name
    except (ValueError, KeyError, TypeError):
        return False
