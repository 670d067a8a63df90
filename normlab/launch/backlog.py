"""Which known runs are left, and when planning again is worth its time.

Planning reads all that is known: 1 s of CPU for a study of 17,000 runs. It finds new
runs only once a stage is complete. Arms that look for edges are an exception: each of their runs
may lead to others.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from normlab.runs.store import Records
from normlab.settings import Config
from normlab.studies.looks import StudyRuns
from normlab.studies.planning import RequiredRun
from normlab.studies.protocols import Edges

PLAN_S = 0.003
"""CPU seconds of planning for each population that has ended."""
REPLAN_S = 60.0
"""Seconds after which runs that other commands have finished are looked for."""


class Backlog:
    """The runs that are left since they were last planned."""

    def __init__(self, find: Callable[[], Iterable[RequiredRun]], looks: Mapping[str, StudyRuns]):
        """`find()` plans: it returns the runs that are left, and renews `looks`."""
        self.find, self.looks = find, looks
        self.left: dict[str, Config] = {}
        self.places: dict[str, tuple[str, str, str]] = {}
        self.open: Counter[tuple[str, str, str]] = Counter()
        """Setup, arm and stage -> how many of its runs are left."""
        self.eager: Collection[str] = ()
        """Setups of which any run may lead to others."""
        self.has_news = True
        self.ended = 0
        """Populations since then."""
        self.cost, self.planned = 0.0, -math.inf

    def plan(self) -> None:
        """Find the runs that are left."""
        began = time.process_time()
        runs = list(self.find())
        self.left = {run.run_id: run.config for run in runs}
        self.places = {run.run_id: run.place for run in runs}
        self.open = Counter(self.places.values())
        setups = [runs.setup for look in self.looks.values() for runs in look.setups.values()]
        self.eager = {setup.name for setup in setups if isinstance(setup.protocol, Edges)}
        self.cost, self.planned = time.process_time() - began, time.monotonic()
        self.has_news, self.ended = False, 0

    def note(self, facts: Mapping[str, Any], records: Records) -> None:
        """Note a population that has ended: its runs, and others that are done by now."""
        self.ended += 1
        done = [*facts["ids"], *filter(records.store.is_done, facts["busy"])]
        records.ids.update(done)
        records.kept |= facts.get("records", {})
        for name in done:
            if self.left.pop(name, None) is not None:
                place = self.places[name]
                self.open[place] -= 1
                self.has_news |= self.open[place] == 0 or place[0] in self.eager

    def is_due(self, has_work: bool, is_stuck: bool = False) -> bool:
        """Return whether to plan again. `has_work`: whether populations wait for a worker;
        `is_stuck`: whether no worker trains."""
        since = time.monotonic() - self.planned
        if is_stuck or since > REPLAN_S or (self.ended and not self.left):
            return True
        if not self.has_news:
            return False
        return self.ended * PLAN_S >= self.cost or (not has_work and since >= self.cost)
