"""Carry out studies: find the runs that are missing, have them trained, until none is missing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any

from normlab.launch.backlog import Backlog
from normlab.launch.batching import Turn
from normlab.launch.engines.engine import Engine, WorkerHandle
from normlab.launch.failures import Failure
from normlab.launch.progress import Display, clock
from normlab.launch.remaining import TimeLeft
from normlab.launch.step_times import measure_steps, unmeasured
from normlab.launch.supervisor import Supervisor
from normlab.runs.checkpoints import tidy, unfinished
from normlab.runs.errors import ConfigError, Damaged
from normlab.runs.record import is_stale
from normlab.runs.store import Records, Store
from normlab.settings import Config
from normlab.studies.forecast import expected_runs
from normlab.studies.looks import StudyRuns, look_at_study
from normlab.studies.measurements import measurements
from normlab.studies.planning import ConfigCache, RequiredRun
from normlab.studies.rules import write_rule
from normlab.studies.study import Study


class Job:
    """Studies of one profile on one results directory."""

    def __init__(
        self,
        studies: Sequence[Study],
        profile: str,
        store: Store,
        *,
        data_dir: str | None = None,
        only: Config | None = None,
        setups: Collection[str] = (),
        warn: Callable[[str], None] = lambda message: None,
        on_settled: Callable[[Study, StudyRuns, Collection[str]], None] = lambda *_: None,
        on_done: Callable[[Sequence[str]], None] = lambda ids: None,
    ):
        """`only`: settings of the runs to train; `setups`: names of the setups, () for all.
        `on_settled(study, runs, ids)` gets the claims that need no more runs, each once.
        `on_done(ids)` gets the runs of a population that ended."""
        self.on_settled, self.on_done = on_settled, on_done
        self.studies, self.profile, self.store, self.data_dir = studies, profile, store, data_dir
        self.only, self.setups, self.warn = only or {}, setups, warn
        self.is_planned = all(study.is_planned for study in studies)
        """Whether no command line changed a study."""
        self.cache = ConfigCache(data_dir)
        self.records = Records(store)
        self.trained = 0
        self.serves: dict[str, Study] = {}
        """Run -> the first study that asks for it."""
        self.turns: dict[str, Turn] = {}
        """Run -> when it has its turn: study by study, what decides before what does not."""
        self._required: dict[str, RequiredRun] = {}
        self._looks: dict[str, StudyRuns] = {}
        """Study -> what was last known of it."""
        self._complete: set[str] = set()
        """Setups that want no more runs but known ones."""
        self._settled: dict[str, Collection[str]] = {}
        """Study -> the claims that `on_settled` got."""

    def required(self) -> dict[str, RequiredRun]:
        """Return all runs that the studies ask for as far as they can be planned by now."""
        required: dict[str, RequiredRun] = {}
        for i, study in enumerate(self.studies):
            self._looks[study.name] = self._look(study)
            for j, (name, setup_runs) in enumerate(self._looks[study.name].setups.items()):
                if self.setups and name not in self.setups:
                    continue
                for run_id, run in setup_runs.wanted.items():
                    required.setdefault(run_id, run)
                    self.serves.setdefault(run_id, study)
                    turn = (2 * i + (run_id not in setup_runs.deciding), j)
                    self.turns[run_id] = min(turn, self.turns.get(run_id, turn))
        chosen = {n: run for n, run in required.items() if self.only.items() <= run.config.items()}
        if required and not chosen:
            raise ConfigError(self._no_match(required))
        return chosen

    def _look(self, study: Study) -> StudyRuns:
        """Return what is known of a study, as far as its seeds have to grow by now."""
        measure = measurements(self.store, study)
        return look_at_study(study, self.profile, self.records, self.cache, measure)

    def _report_settled(self, report: Callable[[Study, StudyRuns, Collection[str]], None]) -> None:
        """Report the claims that need no more runs, each once."""
        for study in self.studies:
            runs = self._looks[study.name]
            new = runs.settled.difference(self._settled.get(study.name, ()))
            self._settled[study.name] = runs.settled
            if new:
                report(study, runs, new)

    def _no_match(self, required: dict[str, RequiredRun]) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.only.items())
        values = {
            name: sorted({run.config[name] for run in required.values()}, key=str)
            for name in self.only
        }
        there = "; ".join(f"{n}: {', '.join(map(str, v[:20]))}" for n, v in values.items())
        return f"--only {given} matches no run of the study (there are {there})"

    def missing(self) -> dict[str, Config]:
        self.records.ids |= self.store.done()  # other processes may be at work here too
        self._required = self.required()
        setups = [runs for look in self._looks.values() for runs in look.setups.values()]
        self._complete = {runs.setup.name for runs in setups if runs.is_complete}
        return {n: run.config for n, run in self._required.items() if n not in self.records}

    @cached_property
    def expected(self) -> dict[str, RequiredRun]:
        """All runs that the studies are expected to ask for, from what is known at first. Only
        results that planning has read already count."""
        found: dict[str, RequiredRun] = {}
        for study in self.studies:
            for name, runs in self._look(study).setups.items():
                if not self.setups or name in self.setups:
                    found = expected_runs(runs.setup, self.records.kept, self.cache) | found
        return {n: run for n, run in found.items() if self.only.items() <= run.config.items()}

    def left(self) -> tuple[dict[str, Config], dict[str, Config]]:
        """Return the known runs that are not done, and those that are expected to follow."""
        known = Counter(run.place for run in self._required.values())
        ahead = {}
        for name, run in self.expected.items():
            if known[run.place] > 0:
                known[run.place] -= 1
            elif run.setup not in self._complete:
                ahead[name] = run.config
        return {n: r.config for n, r in self._required.items() if n not in self.records}, ahead

    def set_stale_aside(self) -> int:
        """Let runs that older training code made be repeated; return how many."""
        stale = [n for n in self.required() if n in self.records and is_stale(self.records[n])]
        for name in stale:
            self.records.forget(name)
        return len(stale)

    def set_damaged_aside(self) -> None:
        """Let runs whose record is damaged be repeated: no damage goes into a verdict unseen."""
        while True:
            try:
                for name in self.required():
                    self.records.get(name)
                return
            except Damaged as error:
                self.warn(str(error))
                self.records.forget(error.run_id, "corrupt")

    def prepare(self, restart: bool = False) -> None:
        """Check what is there before anything is trained. `restart`: populations that stopped
        restart at step 0."""
        for doubt in self.store.doubts():
            self.warn(doubt)
        self.set_damaged_aside()
        tidy(self.store)
        required = self.required()
        for folder in unfinished(self.store):
            runs = folder.runs_if_known()
            if not runs:
                self.warn(f"{str(folder.path)!r} cannot be read; its runs restart")
            elif restart and not required.keys().isdisjoint(runs):
                folder.set_aside()

    def write_rules(self) -> None:
        """Keep the rule of each study as it is before its first run."""
        for study in self.studies:
            write_rule(self.store, study, self.profile, self.cache)

    def run(
        self,
        *,
        processes: int = 0,
        retries: int = 1,
        engine: Engine | None = None,
        on_timing: Callable[[], None] | None = None,
    ) -> list[Failure]:
        """Train everything that is missing; return the populations that failed.

        With `on_timing`, a worker of this machine then measures single steps, and it is called
        before. `engine`: of the workers that train, if they are not on this machine."""
        began, costs, looks = time.monotonic(), TimeLeft(), self._looks
        backlog = Backlog(lambda: [self._required[name] for name in self.missing()], looks)
        backlog.plan()
        if not backlog.left and not (on_timing and unmeasured(self.store, looks.values())):
            return []
        self._report_settled(lambda *_: None)  # what was known before is no news

        def summary() -> str:
            return self._summary(time.monotonic() - began, costs, supervisor.engine.slots)

        display = Display(summary, self.serves)

        def report(study: Study, runs: StudyRuns, claims: Collection[str]) -> None:
            display.close()
            self.on_settled(study, runs, claims)

        def missing() -> dict[str, Config]:
            if backlog.is_due(bool(supervisor.waiting), supervisor.is_stuck):
                backlog.plan()
                self._report_settled(report)
            return backlog.left

        def on_event(worker: WorkerHandle, event: str, facts: dict[str, Any]) -> None:
            if event == "done":
                self.trained += len(facts["ids"])
                backlog.note(facts, self.records)
                self.on_done(facts["ids"])
            costs.note(worker, event, facts)
            display.show(worker, event, facts)

        options: dict[str, Any] = {"turn": self.turns.__getitem__, "on_event": on_event}
        options |= {"data_dir": self.data_dir, "processes": processes, "retries": retries}
        with closing(display), Supervisor(self.store, engine=engine, **options) as supervisor:
            supervisor.run(missing)
            display.close()
            if on_timing and (setups := unmeasured(self.store, looks.values())):
                on_timing()
                measure_steps(self.store, supervisor, setups, self.warn)
            return supervisor.failures

    def _summary(self, seconds: float, costs: TimeLeft, workers: int) -> str:
        """Return how far all is."""
        so_far = f"{clock(seconds)} so far"
        if not costs.has_measured:
            return f"{so_far}, estimating the time left"
        left, ahead = self.left()
        done, known = len(self._required) - len(left), len(self._required) + len(ahead)
        seconds = costs.seconds([*left.items(), *ahead.items()], workers)
        return f"{done:,} of about {known:,} runs, {so_far}, about {clock(seconds)} left"
