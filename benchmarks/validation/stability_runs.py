"""Replications of real contrasts: a pool of real runs, and what each replication draws from it.

A pool has the runs of TUNING and of 96 or 48 reporting seeds, each in two roundings. A replication
draws its seeds from these with replacement, so that the pool is the population. It is then planned
and read by the project's own code: search, window, looks and word. That code asks for runs by
their seeds, and gets those of the seeds that were drawn.

So the pool needs no plan of its own. It has the runs that the replications and the truth ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.runner import emit
from benchmarks.validation.calibration_runs import train_missing
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.settings import Config
from normlab.studies.decisions import Contrast
from normlab.studies.effects import TRAINED_SEEDS, Claim
from normlab.studies.looks import SetupLooks
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.protocols import Edges, Grid, Tuning
from normlab.studies.setup import FIRST_SEED, Setup
from normlab.studies.study import load_study

ROUNDINGS: Mapping[str, Config] = {
    "map": {"host.mode": "map"},
    "vmap": {"host.mode": "vmap", "host.width": 16},
}
"""Members one after another, or at once: they round differently. Under vmap all members of a
population cost time, also those that only fill it up, so it is a small one."""
TUNING = tuple(range(1000, 1024))
"""Seeds that replications draw their tuning seeds from. No reporting seed is among them."""
OLD_SEEDS = 12
"""Reporting seeds of the first rules."""
UNUSED = {"small-batch-cnn": ("none", "none/64", "batch/64")}
"""Setup -> primary arms that none of its contrasts here compares."""


class Source(NamedTuple):
    """Contrasts of one study whose pools have as many reporting seeds."""

    study: str
    profile: str
    claims: tuple[str, ...]
    seeds: int = 96


SOURCES = (
    Source("placement", "quick", ("C13",)),
    Source("batch_size", "quick", ("C8b",)),
    Source("learning_rate", "standard", ("C2-mlp",)),
    Source("batch_size", "standard", ("C8a",)),
    Source("convergence", "standard", ("C1a-85", "C1a-90", "C1a")),
    Source("batch_size", "standard", ("C10a-layer", "C10a-group")),
    Source("regularization", "standard", ("C4a",), 48),
    Source("batch_size", "standard", ("C10b-layer", "C10b-group", "C10b-instance"), 48),
)


@dataclass(frozen=True)
class BestOfGrid(Tuning):
    """The first rules: an arm's rate is the best of the coarse grid, without a parabola."""

    def chosen(self, grid: Grid, target: float) -> float:
        return self.best(grid, target)


@dataclass(frozen=True)
class Row:
    """A contrast, and the number of reporting seeds in its pool."""

    setup: Setup
    claim: Claim
    profile: str
    seeds: int

    @property
    def sesoi(self) -> float:
        found = self.claim.sesoi
        return found[self.profile] if isinstance(found, Mapping) else found

    @property
    def pool_seeds(self) -> range:
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    @property
    def tuning(self) -> Tuning | None:
        """None: the rates are those of every reporting seed."""
        return None if isinstance(self.setup.protocol, Edges) else self.setup.protocol

    @property
    def old_setup(self) -> Setup:
        """The setup under the first rules: three tuning seeds, one rate."""
        tuning = self.tuning
        if tuning is None:
            return self.setup
        first = BestOfGrid(tuning.exponents, metric=tuning.metric, seeds=tuning.seeds[:3])
        return replace(self.setup, protocol=first)

    @property
    def whole(self) -> Setup:
        """The setup with all seeds of the pool, which gives the truth."""
        tuning = self.tuning
        protocol = replace(tuning, seeds=TUNING) if tuning else self.setup.protocol
        return replace(self.setup, protocol=protocol, seeds=self.seeds)


def deciding(setup: Setup) -> Setup:
    """Return the setup with its deciding arms, and without runs that follow from them.

    Where steps are counted, reporting runs stop at the highest target, as tuning runs do. The curve
    up to there has the steps to all targets.
    """
    unused = UNUSED.get(setup.name, ())
    arms = tuple(arm for arm in setup.arms if arm.is_primary and arm.name not in unused)
    stop = {"train.stop_at": setup.stop_at} if setup.protocol.times_steps else {}
    return replace(setup, arms=arms, follows=(), report_settings=setup.report_settings | stop)


def rows() -> list[Row]:
    """Return the contrasts of SOURCES."""
    found = []
    for source in SOURCES:
        study = load_study(source.study)
        setups = {setup.name: deciding(setup) for setup in study.setups[source.profile]}
        claims = {claim.id: claim for claim in study.claims}
        for name in source.claims:
            claim = claims[name]
            found.append(Row(setups[claim.setup], claim, source.profile, source.seeds))
    return found


@dataclass
class Pool:
    """The runs that are there."""

    records: dict[str, Mapping[str, Record]]
    """Rounding -> run -> its record."""
    cache: ConfigCache


class Drawn(ConfigCache):
    """Gives the seeds of a replication the runs of the pool's seeds."""

    def __init__(self, pool: ConfigCache, seeds: Mapping[int, int]):
        super().__init__()
        self.pool, self.seeds = pool, seeds

    def look_up(self, setup: Setup, settings: Config) -> tuple[str, Config]:
        return self.pool.look_up(setup, settings | {"seed": self.seeds[settings["seed"]]})


def draw_seeds(row: Row, random: np.random.Generator) -> dict[int, int]:
    """Return seed of the replication -> seed of the pool: tuning seeds from TUNING, reporting seeds
    from the others."""
    tuning = row.setup.protocol.seeds
    most = max(row.claim.looks[-1], TRAINED_SEEDS, OLD_SEEDS)
    reporting = range(FIRST_SEED, FIRST_SEED + most)
    found = dict(zip(tuning, random.choice(TUNING, len(tuning)).tolist(), strict=True))
    drawn = random.choice(row.pool_seeds, len(reporting)).tolist()
    return found | dict(zip(reporting, drawn, strict=True))


class Replication(NamedTuple):
    """What one replication reads."""

    rounding: str
    path: Sequence[Contrast]
    """The contrast at each of its looks."""
    old: Contrast
    """The same under the first rules."""
    wanted: Mapping[str, Config]
    """Run -> its configuration, as far as they are known."""


def replicate(row: Row, pool: Pool, number: int) -> Replication:
    """Return the replication of this number: its seeds are drawn, its rounding takes turns."""
    rounding = [*ROUNDINGS][number % len(ROUNDINGS)]
    cache = Drawn(pool.cache, draw_seeds(row, np.random.default_rng(number)))
    records = pool.records[rounding]
    looks, old = SetupLooks(row.setup, records, cache), SetupLooks(row.old_setup, records, cache)
    path = looks.follow(row.claim, row.profile)
    first = row.claim.contrast(old.at(OLD_SEEDS), row.profile)
    runs = looks.furthest.wanted | old.furthest.wanted
    return Replication(rounding, path, first, {name: run.config for name, run in runs.items()})


def whole_pool(row: Row, pool: Pool, rounding: str) -> SetupRuns:
    """Return the runs of all seeds of the pool."""
    return SetupRuns(row.whole, pool.records[rounding], pool.cache)


def effect_of(row: Row, pool: Pool) -> float:
    """Return the effect over the whole pool, the mean of both roundings."""
    found = []
    for rounding in ROUNDINGS:
        effects = row.claim.contrast(whole_pool(row, pool, rounding), row.profile).effects
        found.append(np.mean([*effects.values()]))
    return float(np.mean(found))


Wanted = Mapping[str, Mapping[str, Config]]
"""Rounding -> run -> its configuration."""


def wanted(row: Row, pool: Pool, replications: Sequence[Replication]) -> Wanted:
    """Return the runs that the truth and the replications ask for by now."""
    found: dict[str, dict[str, Config]] = {}
    for rounding in ROUNDINGS:
        runs = whole_pool(row, pool, rounding).wanted
        found[rounding] = {name: run.config for name, run in runs.items()}
    for replication in replications:
        found[replication.rounding] |= replication.wanted
    return found


def missing(of: Wanted, pool: Pool) -> dict[str, dict[str, Config]]:
    """Return those of these runs that are not there."""
    return {
        rounding: {n: c for n, c in runs.items() if n not in pool.records[rounding]}
        for rounding, runs in of.items()
    }


def look_at_pool(row: Row, pool: Pool, times: int) -> tuple[list[Replication], Wanted]:
    """Return this many replications, and the runs that they and the truth ask for by now."""
    replications = [replicate(row, pool, number) for number in range(times)]
    return replications, wanted(row, pool, replications)


def open_pool(results: str) -> Pool:
    stores = {rounding: Store(Path(results) / rounding).open() for rounding in ROUNDINGS}
    records: dict[str, Mapping[str, Record]] = {r: Records(s) for r, s in stores.items()}
    return Pool(records, ConfigCache(needs_data=False))


def train(row: Row, pool: Pool, times: int) -> None:
    """Train until no replication asks for a run that is not there; raises RuntimeError."""
    while True:
        _, known = look_at_pool(row, pool, times)
        left = missing(known, pool)
        if not any(left.values()):
            return
        for rounding, configs in left.items():
            if configs:
                train_rounding(row, pool, rounding, configs, len(known[rounding]))


def train_rounding(
    row: Row, pool: Pool, rounding: str, configs: Mapping[str, Config], known: int
) -> None:
    """Train runs in one rounding, and print how many are left after each population."""
    records = pool.records[rounding]
    assert isinstance(records, Records)
    asked = {name: config | ROUNDINGS[rounding] for name, config in configs.items()}

    def show(worker: object, event: str, facts: object) -> None:
        if event == "done":
            left = sum(not records.store.is_done(name) for name in asked)
            emit(f"{row.claim.id}, {rounding}: {left:,} of {known:,} runs are left for this stage")

    steps = sum(int(config["train.steps"]) for config in asked.values())
    emit(f"{row.claim.id}, {rounding}: {len(asked):,} runs of at most {steps:,} steps are missing")
    train_missing(records.store, lambda: asked, show)
    records.ids = records.store.done()
