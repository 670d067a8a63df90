"""Files that are not as they were written: flipped bits; cut, missing and exchanged files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from normlab.runs import files
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import NoCheckpoint, StorageError
from normlab.runs.store import Store
from stress.campaign import Broken, Report, Workspace, caught, error_of
from stress.mutants import READERS, planted
from stress.states import SAVED, States, same, train, train_states


class Injury(NamedTuple):
    name: str
    harm: Callable[[Path], object]
    """Gets the results directory."""


def flip(name: str, byte: int, bit: int) -> Injury:
    def harm(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[byte] ^= 1 << bit
        (root / name).write_bytes(content)

    return Injury(f"bit {bit} of byte {byte} of {name} flipped", harm)


def cut(name: str, tenths: int) -> Injury:
    def harm(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) * tenths // 10])

    return Injury(f"{name} cut to {tenths} tenths", harm)


def delete(name: str) -> Injury:
    return Injury(f"{name} deleted", lambda root: (root / name).unlink())


def exchange(one: str, two: str) -> Injury:
    def harm(root: Path) -> None:
        first, second = (root / one).read_bytes(), (root / two).read_bytes()
        (root / one).write_bytes(second)
        (root / two).write_bytes(first)

    return Injury(f"{one} and {two} exchanged", harm)


def together(*injuries: Injury) -> Injury:
    def harm(root: Path) -> None:
        for injury in injuries:
            injury.harm(root)

    return Injury("; ".join(injury.name for injury in injuries), harm)


class Patient:
    """Results with a population that stopped, two finished runs and all else that is kept."""

    def __init__(self, states: States, place: Path):
        self.states, self.place, self.whole = states, place, place.with_name("whole")
        store = states.copy("stopped", self.whole)
        for name, saves in ((states.name, states.saves[1:]), (states.other, states.other_saves)):
            population = PopulationFolder(store, name)
            population.finish()
            for c in saves:  # saved again, since a mutant may have a format of its own
                population.save(c.step, c.arrays, c.facts)
        for run in states.other_configs:
            folder = Store(states.folder / "done").run_dir(run)
            shutil.copytree(folder, store.run_dir(run), dirs_exist_ok=True)
        (store.root / "studies").mkdir()
        for name in ("steptimes.json", "studies/made_up-quick.json"):
            files.write_json(store.root / name, {"p1": 1.25, "name": name})
        self.values = {name: read(store) for name, read in self.readers().items()}

    def readers(self) -> dict[str, Callable[[Store], str]]:
        """Return what reads each file; it raises StorageError."""
        found: dict[str, Callable[[Store], str]] = {}
        for run in self.states.other_configs:
            for name in ("result.json", "curve.jsonl"):
                found[f"runs/{run}/{name}"] = partial(read_run, run)
        for name in ("steptimes.json", "studies/made_up-quick.json"):
            found[name] = partial(read_facts, name)
        return found

    def injuries(self, rng: random.Random, flips: int, cuts: int) -> list[Injury]:
        """Return injuries of every file, and exchanged files."""
        own, other = f"populations/{self.states.name}/", f"populations/{self.states.other}/"
        newest, older = ([f"{own}{name}" for name in _names(step)] for step in (15, 10))
        others = [name.replace(own, other) for name in newest]
        first, second = (f"runs/{run}/" for run in self.states.other_configs)
        out = [exchange(newest[i], names[i]) for names in (older, others) for i in range(2)]
        out += [together(*map(exchange, newest, names)) for names in (older, others)]
        out.append(exchange(f"{own}manifest.json", f"{other}manifest.json"))
        results, curves = ((first + n, second + n) for n in ("result.json", "curve.jsonl"))
        out += [exchange(*results), together(exchange(*results), exchange(*curves))]
        out.append(exchange(*curves))
        for name in (*newest, *older, f"{own}manifest.json", *self.readers()):
            size = (self.whole / name).stat().st_size
            places = [rng.randrange(min(200, size) if i % 4 == 0 else size) for i in range(flips)]
            out += [flip(name, place, rng.randrange(8)) for place in places]
            out += [cut(name, tenths) for tenths in [0, *rng.sample(range(1, 10), cuts - 1)]]
            out.append(delete(name))
        mark = delete(f"{own}unfinished")
        all_bad = [together(cut(a, 5), cut(b, 5)) for a in newest for b in older]
        return [*out, mark, *all_bad, *(together(injury, mark) for injury in all_bad)]

    def harmed(self, injury: Injury) -> Store:
        """Return a copy of the results directory after an injury."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.whole, self.place)
        injury.harm(self.place)
        return Store(self.place)

    def check(self, injury: Injury) -> None:
        """Raise Broken where a reader gives anything of a file that is not as it was written."""
        store = self.harmed(injury)
        for name, read in self.readers().items():
            try:
                found = read(store)
            except StorageError as error:
                if "\n" in str(error) or str(self.place) not in str(error):
                    raise Broken(f"not one line that names the place: {error}") from error
                continue
            except FileNotFoundError:
                continue
            if found != self.values[name] or not self.is_whole(name):
                raise Broken(f"wrong data loaded from {name}: {found[:200]}")
        self.check_population(store)

    def is_whole(self, name: str) -> bool:
        path = self.place / name
        return path.exists() and path.read_bytes() == (self.whole / name).read_bytes()

    def usable(self) -> list[Checkpoint]:
        """Return the checkpoints whose files are as they were written, newest first."""
        own, saves = f"populations/{self.states.name}/", reversed(self.states.saves[1:])
        return [c for c in saves if all(self.is_whole(own + name) for name in _names(c.step))]

    def check_population(self, store: Store) -> None:
        """Raise Broken unless the newest whole checkpoint is used, and the damaged ones kept."""
        population, usable = self.states.population(store), self.usable()
        own = f"populations/{self.states.name}/"
        runs, sources = population.runs_if_known(), [_names(step)[1] for step in SAVED[1:]]
        is_known = any(self.is_whole(own + name) for name in ("manifest.json", *sources))
        if runs != self.states.configs and (runs or is_known):
            raise Broken(f"it has the runs {sorted(runs)}, not {sorted(self.states.configs)}")
        newer = [s for s in population.steps() if s > (usable[0].step if usable else 0)]
        damaged = {f"{n}.corrupt": population.path / n for s in newer for n in _names(s)}
        before = {name: path.read_bytes() for name, path in damaged.items() if path.exists()}
        for expected in (len(newer), 0):
            warnings = self.warnings_of(population, usable[0] if usable else None)
            if len(warnings) != expected:
                raise Broken(f"{len(warnings)} warnings of {expected} damaged checkpoints")
        for name, content in before.items():
            path = population.path / name
            if not path.exists() or path.read_bytes() != content:
                raise Broken(f"{name} was not kept")

    def warnings_of(self, population: PopulationFolder, expected: Checkpoint | None) -> list[str]:
        """Return what newest() warned of; raises Broken where it is not the expected one."""
        warnings: list[str] = []
        try:
            found = population.newest(warnings.append)
        except NoCheckpoint:
            if expected is not None:
                raise
            return warnings
        if found is None or not same(found, expected):
            raise Broken(f"it begins again, or wrong data is loaded: {found and found.step}")
        return warnings

    def check_trained(self, injury: Injury) -> None:
        """Raise Broken unless the real trainer goes on to the bits of an undisturbed run."""
        store = self.harmed(injury)
        usable = self.usable()
        try:
            train(store, self.states.configs)
        except NoCheckpoint:
            if usable:
                raise
            return
        if not usable:
            raise Broken("it began again in silence")
        for run in self.states.configs:
            if not self.states.is_as_recorded(store, run):
                raise Broken(f"run {run} ended with other bits")


def _names(step: int) -> tuple[str, str]:
    return f"checkpoint-{step:010d}.safetensors", f"checkpoint-{step:010d}.json"


def read_run(run: str, store: Store) -> str:
    return json.dumps(asdict(store.read(run)))


def read_facts(name: str, store: Store) -> str:
    return json.dumps(files.read_json(store.root / name))


def wrong_after(injuries: list[Injury], check: Callable[[Injury], None]) -> dict[str, str]:
    """Return injury -> what a check found wrong after it."""
    found = {injury.name: error_of(partial(check, injury)) for injury in injuries}
    return {name: wrong for name, wrong in found.items() if wrong}


def missed_mutants(states: States, workspace: Workspace) -> list[str]:
    """Return the mutants after which no injury leads to anything wrong."""
    missed = []
    for name, mutant in READERS.items():
        with planted(mutant):
            patient, rng = Patient(states, workspace.folder / "mutant"), workspace.generator(name)
            injuries = patient.injuries(rng, 4, 2)
            rng.shuffle(injuries)
            if not any(wrong_after([injury], patient.check) for injury in injuries):
                missed.append(name)
    return missed


def run(workspace: Workspace) -> Report:
    """Damage the checkpoints of a population that stopped and what is kept of finished runs, one
    injury after another."""
    states = train_states(workspace.folder / "states")
    patient = Patient(states, workspace.folder / "harmed")
    flips, cuts, trained = (60, 10, 30) if workspace.is_long else (2, 2, 2)
    injuries = patient.injuries(workspace.generator("injuries"), flips, cuts)
    continued = workspace.generator("trained").sample(injuries, trained)
    wrong = wrong_after(injuries, patient.check) | wrong_after(continued, patient.check_trained)
    missed = missed_mutants(states, workspace)
    figures = {
        "injuries": len(injuries),
        "trained to the end after an injury": len(continued),
        "bad": len(wrong),
        "mutants caught": caught(missed, READERS),
    }
    failures = [f"seed {workspace.seed}: {injury}: {text}" for injury, text in wrong.items()]
    failures += [f"a mutant was not caught: {name}" for name in missed]
    goal = "undamaged bytes or a refusal in one line; a stopped population never begins in silence"
    return Report("Damaged files", goal, figures, failures)
