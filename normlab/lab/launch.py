"""Carry out studies: find the runs that are missing, have them trained, until none is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from normlab.lab.config import ConfigError, program_id
from normlab.lab.evidence import Memory, SetupEvidence, Wanted
from normlab.lab.progress import Board, choose_display
from normlab.lab.store import (
    Records,
    Store,
    code_hash,
    host_facts,
    now,
    read_json,
    timing_place,
    write_atomic,
)
from normlab.lab.study import Study, load_study
from normlab.lab.supervisor import Failure, Hand, Supervisor
from normlab.settings import Config


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
    memory: Memory = field(init=False)
    records: Records = field(init=False)
    trained: int = 0

    def __post_init__(self) -> None:
        self.memory = Memory(self.data_dir)
        self.records = Records(self.store)
        self._missing: dict[str, Config] = {}
        self._known = 0

    def wanted(self) -> dict[str, Wanted]:
        """Return all runs that the studies ask for as far as they can be planned by now."""
        wanted: dict[str, Wanted] = {}
        for study in self.studies:
            for setup in study.setups[self.profile]:
                if not self.setups or setup.name in self.setups:
                    wanted |= SetupEvidence(setup, self.records, self.memory).wanted
        chosen = {n: w for n, w in wanted.items() if self._is_chosen(w.config)}
        if wanted and not chosen:
            raise ConfigError(self._no_match(wanted))
        return chosen

    def _no_match(self, wanted: dict[str, Wanted]) -> str:
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
        stale = [
            n
            for n in self.wanted()
            if n in self.records and self.records[n].provenance["code"] != code_hash()
        ]
        for name in stale:
            self.records.forget(name)
        return len(stale)

    def write_rules(self) -> None:
        """Keep the hash of each study's rule as it was before its first run."""
        folder = self.store.root / "studies"
        folder.mkdir(exist_ok=True)
        for study in self.studies:
            path = folder / f"{study.name}-{self.profile}.json"
            if not path.exists():
                facts = {"rule_hash": study.rule_hash, "file": study.file, "written": now()}
                write_atomic(path, json.dumps(facts, indent=1))

    def run(self) -> list[Failure]:
        """Train everything that is missing; return the populations that failed."""
        self.store.open()
        if self.is_as_planned:
            self.write_rules()
        if not self.missing():
            return []
        display = choose_display(Board(self.left))

        def on_event(hand: Hand, event: str, facts: dict[str, Any]) -> None:
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
        known = read_json(path)
        entry = known.setdefault(timing_place(host_facts()), {})
        for configs in self._timed_setups():
            names = {arm: program_id(config) for arm, config in configs.items()}
            if any(name not in entry for name in names.values()):
                tell()
                with Supervisor(self.store, data_dir=self.data_dir) as supervisor:
                    seconds = supervisor.time_steps(configs)
                entry |= {names[arm]: value for arm, value in seconds.items()}
                write_atomic(path, json.dumps(known, indent=1))

    def _timed_setups(self) -> list[dict[str, Config]]:
        """Return arm -> one of its runs, for each finished setup that is tuned for speed."""
        setups = [s for study in self.studies for s in study.setups[self.profile]]
        evidences = [SetupEvidence(s, self.records, self.memory) for s in setups]
        return [
            {arm: next(iter(runs.values())).config for arm, runs in e.reports.items()}
            for e in evidences
            if e.times_steps and e.is_complete
        ]


def started_studies(store: Store) -> list[tuple[Study, str]]:
    """Return (study, profile) of everything that was ever started as planned and is still there."""
    found = []
    for path in sorted((store.root / "studies").glob("*.json")):
        name, _, profile = path.stem.rpartition("-")
        try:
            study = load_study(read_json(path).get("file") or name)
        except ConfigError:
            continue  # its file was moved or renamed: its runs stay, its page goes
        found.append((study, profile))
    return found
