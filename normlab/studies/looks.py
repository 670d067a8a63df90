"""How far the seeds of a study have to grow: from look to look, until every contrast may stop.

Planning is a function of the study and of the records alone. Each contrast is read at its own
looks, so that the seeds that another contrast needs do not change its word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from normlab.runs.record import Record
from normlab.studies.averages import averages_of
from normlab.studies.decisions import Contrast, look_at
from normlab.studies.effects import TRAINED_SEEDS, Claim
from normlab.studies.intervals import DISCORDANT
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.setup import Setup
from normlab.studies.study import Study

Measure = Callable[[SetupRuns], None]
"""Adds to a setup what is measured outside of its runs."""


class SetupLooks:
    """One setup at growing numbers of seeds."""

    def __init__(
        self,
        setup: Setup,
        records: Mapping[str, Record],
        cache: ConfigCache,
        measure: Measure = lambda runs: None,
    ):
        self.setup, self.records, self.cache, self.measure = setup, records, cache, measure
        self.known: dict[int, SetupRuns] = {}
        self.settled: set[str] = set()
        """Ids of the claims whose contrast needs no more runs."""

    def at(self, n: int) -> SetupRuns:
        if n not in self.known:
            self.known[n] = SetupRuns(replace(self.setup, seeds=n), self.records, self.cache)
            self.measure(self.known[n])
        return self.known[n]

    def follow(self, claim: Claim, profile: str, with_averages: bool = False) -> list[Contrast]:
        """Return the contrast at each of its looks, up to the one at which it may stop."""
        path, runs = self._follow(claim, profile)
        if runs.can_decide:
            self.settled.add(claim.id)
        if with_averages and self.setup.grows:
            read = self.at(claim.setup_seeds or path[-1].looks[len(path) - 1])
            path[-1] = replace(path[-1], averages=averages_of(claim, read, profile))
        return path

    def _follow(self, claim: Claim, profile: str) -> tuple[list[Contrast], SetupRuns]:
        """Return the contrast at each of its looks, and the runs of the last look."""
        if not self.setup.grows:
            runs = self.at(self.setup.seeds)
            return [claim.contrast(runs, profile)], runs
        path: list[Contrast] = []
        runs = self.at(claim.setup_seeds or claim.looks[0])
        for n in claim.looks:
            runs = self.at(claim.setup_seeds or n)
            contrast = claim.contrast(runs, profile)
            if not runs.can_decide:
                return path or [contrast], runs
            if contrast.estimator is DISCORDANT:
                return self._trained(claim, profile, contrast)
            path.append(contrast)
            if contrast.unmet or len(contrast.effects) < 2 or look_at(contrast)[1]:
                break
        return path, runs

    def _trained(
        self, claim: Claim, profile: str, so_far: Contrast
    ) -> tuple[list[Contrast], SetupRuns]:
        """Return the one look of a contrast that compares whether runs train at all."""
        runs = self.at(TRAINED_SEEDS)
        found = claim.contrast(runs, profile) if runs.can_decide else so_far
        return [replace(found, looks=(TRAINED_SEEDS,))], runs

    @property
    def furthest(self) -> SetupRuns:
        """The setup at the most seeds that a contrast has asked for.

        It also wants the runs of the other looks: with fewer seeds a window can lie elsewhere.
        """
        if not self.known:
            self.at(self.setup.seeds)
        looks = [self.known[n] for n in sorted(self.known)]
        furthest = copy(looks[-1])
        furthest.wanted = {name: run for runs in looks for name, run in runs.wanted.items()}
        furthest.users = {name: users for runs in looks for name, users in runs.users.items()}
        furthest.deciding = set[str]().union(*(runs.deciding for runs in looks))
        return furthest


@dataclass(frozen=True)
class StudyRuns:
    """The runs of a study in one profile, and each of its contrasts at its looks."""

    setups: Mapping[str, SetupRuns]
    paths: Sequence[Sequence[Contrast]]
    settled: frozenset[str] = frozenset()
    """Ids of the claims whose contrast needs no more runs."""
    ranked: frozenset[str] = frozenset()
    """Setups whose schemes are ranked for a purpose."""

    @property
    def wanted(self) -> dict[str, RequiredRun]:
        found: dict[str, RequiredRun] = {}
        for runs in self.setups.values():
            found |= runs.wanted
        return found


def look_at_study(
    study: Study,
    profile: str,
    records: Mapping[str, Record],
    cache: ConfigCache | None = None,
    measure: Measure = lambda runs: None,
    with_averages: bool = False,
) -> StudyRuns:
    """Return what is known of a study, and what it still wants. `with_averages`: also what each
    contrast would say with running averages, which planning does not need."""
    cache = cache or ConfigCache()
    looks = {s.name: SetupLooks(s, records, cache, measure) for s in study.setups.get(profile, ())}
    claims = [claim for claim in study.claims if claim.setup in looks]
    paths = [looks[claim.setup].follow(claim, profile, with_averages) for claim in claims]
    setups = {name: found.furthest for name, found in looks.items()}
    settled = frozenset[str]().union(*(found.settled for found in looks.values()))
    ranked = frozenset(ranking.setup for ranking in study.rankings)
    return StudyRuns(setups, paths, settled, ranked)
