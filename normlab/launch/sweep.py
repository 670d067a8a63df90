"""Carry out studies: find the runs that are missing, have them trained, until none is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from normlab.launch.progress import ProgressState, choose_display
from normlab.launch.supervisor import Failure, Supervisor, WorkerProcess
from normlab.runs.checkpoints import tidy, unfinished
from normlab.runs.config import program_id
from normlab.runs.errors import ConfigError, Damaged
from normlab.runs.files import read_json, write_json
from normlab.runs.provenance import host_facts, timing_place
from normlab.runs.record import is_stale
from normlab.runs.store import Records, Store
from normlab.settings import Config
from normlab.studies.planning import ConfigCache, RequiredRun, SetupRuns
from normlab.studies.rules import write_rule
from normlab.studies.study import Study, load_study, study_names


@dataclass
class Job:
    """Studies of one profile on one results directory."""

    studies: Sequence[Study]
    profile: str
    store: Store
    data_dir: str | None = None
    only: Config = field(default_factory=dict)
    setups: Sequence[str] = ()
    """Names of the setups to run; () for all."""
    is_as_planned: bool = True
    """False for variants and first looks, which register no rule."""
    processes: int = 0
    retries: int = 1
    restart: bool = False
    """Whether populations that stopped begin again instead of going on."""
    warn: Callable[[str], None] = lambda message: None
    cache: ConfigCache = field(init=False)
    records: Records = field(init=False)
    trained: int = 0

    def __post_init__(self) -> None:
        self.cache = ConfigCache(self.data_dir)
        self.records = Records(self.store)
        self._missing: dict[str, Config] = {}
        self._known = 0

    def wanted(self) -> dict[str, RequiredRun]:
        """Return all runs that the studies ask for as far as they can be planned by now."""
        wanted: dict[str, RequiredRun] = {}
        for study in self.studies:
            for setup in study.setups[self.profile]:
                if not self.setups or setup.name in self.setups:
                    wanted |= SetupRuns(setup, self.records, self.cache).wanted
        chosen = {n: w for n, w in wanted.items() if self._is_chosen(w.config)}
        if wanted and not chosen:
            raise ConfigError(self._no_match(wanted))
        return chosen

    def _no_match(self, wanted: dict[str, RequiredRun]) -> str:
        told = ", ".join(f"{name}={value}" for name, value in self.only.items())
        values = {
            name: sorted({w.config[name] for w in wanted.values()}, key=str) for name in self.only
        }
        there = "; ".join(f"{n}: {', '.join(map(str, v[:20]))}" for n, v in values.items())
        return f"--only {told} matches no run of the study (there are {there})"

    def _is_chosen(self, config: Config) -> bool:
        return all(config[name] == value for name, value in self.only.items())

    def missing(self) -> dict[str, Config]:
        self.records.ids |= self.store.done()  # other processes may be at work here too
        wanted = self.wanted()
        self._missing = {n: w.config for n, w in wanted.items() if n not in self.records}
        self._known = len(wanted)
        return self._missing

    def left(self) -> tuple[int, int, int]:
        """Return runs done, runs known, run-steps still to do."""
        todo = [c["train.steps"] for n, c in self._missing.items() if n not in self.records]
        return self._known - len(todo), self._known, sum(todo)

    def set_stale_aside(self) -> int:
        """Let runs that older training code made be repeated; return how many."""
        stale = [n for n in self.wanted() if n in self.records and is_stale(self.records[n])]
        for name in stale:
            self.records.forget(name)
        return len(stale)

    def set_damaged_aside(self) -> None:
        """Let runs whose record is damaged be repeated: no damage goes into a verdict unseen."""
        while True:
            try:
                for name in self.wanted():
                    self.records.get(name)
                return
            except Damaged as error:
                self.warn(str(error))
                self.records.forget(error.run_id, "corrupt")

    def prepare(self) -> None:
        """Look at what is there before anything is trained."""
        for doubt in self.store.doubts():
            self.warn(doubt)
        self.set_damaged_aside()
        tidy(self.store)
        wanted = self.wanted()
        for folder in unfinished(self.store):
            runs = folder.runs_if_known()
            if not runs:
                self.warn(f"{str(folder.path)!r} cannot be read; its runs begin again")
            elif self.restart and not wanted.keys().isdisjoint(runs):
                folder.set_aside()

    def write_rules(self) -> None:
        """Keep the rule of each study as it is before its first run."""
        for study in self.studies:
            write_rule(self.store, study, self.profile, self.cache)

    def run(self) -> list[Failure]:
        """Train everything that is missing; return the populations that failed."""
        self.store.open()
        if self.is_as_planned:
            self.write_rules()
        self.prepare()
        if not self.missing():
            return []
        display = choose_display(ProgressState(self.left))

        def on_event(hand: WorkerProcess, event: str, facts: dict[str, Any]) -> None:
            if event == "done":
                self.trained += len(facts["ids"])
                self.records.ids |= set(facts["ids"])
                self.records.ids |= {n for n in facts["busy"] if self.store.is_done(n)}
            display.show(hand, event, facts)

        with (
            display,
            Supervisor(
                self.store,
                processes=self.processes,
                data_dir=self.data_dir,
                retries=self.retries,
                on_event=on_event,
            ) as supervisor,
        ):
            supervisor.run(self.missing)
            return supervisor.failures

    def time_steps(self, tell: Callable[[], None]) -> None:
        """Measure the step time of a single run of every tuned-for-speed arm, once for each
        machine and code; the arms of a setup in turn, so all of them as soon as one is missing."""
        path = self.store.root / "steptimes.json"
        known = read_json(path) if path.exists() else {}
        entry = known.setdefault(timing_place(host_facts()), {})
        for configs in self._timed_setups():
            names = {arm: program_id(config) for arm, config in configs.items()}
            if any(name not in entry for name in names.values()):
                tell()
                with Supervisor(self.store, data_dir=self.data_dir) as supervisor:
                    seconds = supervisor.time_steps(configs)
                entry |= {names[arm]: value for arm, value in seconds.items()}
                write_json(path, known)

    def _timed_setups(self) -> list[dict[str, Config]]:
        """Return arm -> one of its runs, for each finished setup that is tuned for speed."""
        setups = [s for study in self.studies for s in study.setups[self.profile]]
        evidences = [SetupRuns(s, self.records, self.cache) for s in setups]
        return [
            {arm: next(iter(runs.values())).config for arm, runs in e.reports.items()}
            for e in evidences
            if e.times_steps and e.is_complete
        ]


def started_studies(store: Store) -> list[tuple[Study, str]]:
    """Return (study, profile) of every study of experiments/ that was ever started as planned."""
    found = []
    for path in sorted((store.root / "studies").glob("*.json")):
        name, _, profile = path.stem.rpartition("-")
        if name in study_names():  # one of somebody's own is run only where the command names it
            found.append((load_study(name), profile))
    return found
