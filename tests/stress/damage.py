"""Files that are not as they were written: flipped bits; cut, missing and exchanged files.

A reader returns undamaged bytes or refuses in one line. A stopped population never starts silently.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from unittest.mock import patch

from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import Damaged, NoCheckpoint
from normlab.runs.store import Store
from stress.campaign import Broken, Report, Workspace, error_of, report
from stress.mutants import READERS
from stress.states import NAME, OTHER, OTHER_NAME, OWN, States, bits, train, train_states

Damage = Mapping[str, bytes | None]
"""File below the results -> its content from now on; None: it is deleted."""


def checkpoint_files(step: int, population: str = NAME) -> tuple[str, str]:
    start = f"populations/{population}/checkpoint-{step:010d}"
    return f"{start}.safetensors", f"{start}.json"


def run_files(run: str) -> tuple[str, str]:
    return f"runs/{run}/result.json", f"runs/{run}/curve.jsonl"


NEWEST, OLDER, OTHERS = (
    checkpoint_files(15),
    checkpoint_files(10),
    checkpoint_files(15, OTHER_NAME),
)
MARK, MANIFEST = f"populations/{NAME}/unfinished", f"populations/{NAME}/manifest.json"
OTHER_MANIFEST = f"populations/{OTHER_NAME}/manifest.json"


class Patient:
    """Results with a population that stopped, and two finished runs."""

    def __init__(self, states: States, place: Path):
        self.states, self.place = states, place
        self.whole = states.copy(place.with_name("whole"))
        for run in OTHER:
            folder = self.whole.run_dir(run)
            shutil.copytree(states.done.run_dir(run), folder, dirs_exist_ok=True)

    def damages(self, rng: random.Random, flips: int, cuts: int) -> dict[str, Damage]:
        """Return name -> damage, of every file."""
        one, two = map(run_files, OTHER)
        names = [*NEWEST, *OLDER, *OTHERS, *one, *two, MANIFEST, OTHER_MANIFEST]
        content = {name: (self.whole.root / name).read_bytes() for name in names}
        found: dict[str, Damage] = {f"{MARK} deleted": {MARK: None}}
        found["all checkpoints deleted"] = dict.fromkeys((NEWEST[1], OLDER[1]))
        pairs = [(MANIFEST, OTHER_MANIFEST)]
        for files, others in ((NEWEST, OLDER), (NEWEST, OTHERS), (one, two)):
            pairs += zip(files, others, strict=True)
            both = zip(files + others, others + files, strict=True)
            found[f"{files} and {others} exchanged"] = {a: content[b] for a, b in both}
        for a, b in pairs:
            found[f"{a} and {b} exchanged"] = {a: content[b], b: content[a]}
        for name in (*NEWEST, *OLDER, MANIFEST, *one, *two):
            data = content[name]
            found[f"{name} deleted"] = {name: None}
            for i in range(flips):
                byte, bit = rng.randrange(200 if i % 4 == 0 else len(data)), rng.randrange(8)
                flipped = data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]
                found[f"bit {bit} of byte {byte} of {name} flipped"] = {name: flipped}
            for tenths in [0, *rng.sample(range(1, 10), cuts - 1)]:
                found[f"{name} cut to {tenths} tenths"] = {name: data[: len(data) * tenths // 10]}
        for a in NEWEST:
            for b in OLDER:
                halves = {name: content[name][: len(content[name]) // 2] for name in (a, b)}
                found[f"{a} and {b} cut to their halves"] = halves
                found[f"{a} and {b} cut to their halves, {MARK} deleted"] = halves | {MARK: None}
        return found

    def harmed(self, damage: Damage) -> Store:
        """Return a copy of the results directory after a damage."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.whole.root, self.place)
        for name, content in damage.items():
            if content is None:
                (self.place / name).unlink()
            else:
                (self.place / name).write_bytes(content)
        return Store(self.place)

    def check(self, damage: Damage) -> None:
        """Raise Broken where a reader gives anything of a file that is not as it was written."""
        store = self.harmed(damage)
        for run in OTHER:
            try:
                found = store.read(run)
            except Damaged as error:
                if "\n" in str(error) or str(self.place) not in str(error):
                    raise Broken(f"not one line that names the place: {error}") from error
            else:
                if found != self.whole.read(run) or not damage.keys().isdisjoint(run_files(run)):
                    raise Broken(f"wrong data loaded of run {run}")
        self.check_population(PopulationFolder(store, NAME), damage)

    def usable(self, damage: Damage) -> Checkpoint | None:
        """Return the newest checkpoint whose files are as they were written."""
        steps = (s for s in (15, 10) if damage.keys().isdisjoint(checkpoint_files(s)))
        return self.states.saves.get(next(steps, 0))

    def check_population(self, population: PopulationFolder, damage: Damage) -> None:
        """Raise Broken unless the newest whole checkpoint is used, and the damaged ones kept."""
        runs, usable = population.runs_if_known(), self.usable(damage)
        is_known = not damage.keys() >= {MANIFEST, NEWEST[1], OLDER[1]}
        if runs != OWN and (runs or is_known):
            raise Broken(f"it has the runs {sorted(runs)}, not {sorted(OWN)}")
        newer = [step for step in population.steps() if step > (usable.step if usable else 0)]
        paths = [self.place / name for step in newer for name in checkpoint_files(step)]
        before = {path: path.read_bytes() for path in paths if path.exists()}
        for expected in (len(newer), 0):
            warnings = warnings_of(population, usable)
            if len(warnings) != expected:
                raise Broken(f"{len(warnings)} warnings of {expected} damaged checkpoints")
        for path, content in before.items():
            kept = path.with_name(f"{path.name}.corrupt")
            if not kept.exists() or kept.read_bytes() != content:
                raise Broken(f"{kept} was not kept")

    def check_trained(self, damage: Damage) -> None:
        """Raise Broken unless the real trainer continues to the bits of an undisturbed run."""
        store, usable = self.harmed(damage), self.usable(damage)
        try:
            train(store, OWN)
        except NoCheckpoint:
            if usable:
                raise
            return
        if not usable:
            raise Broken("it started over without a message")
        for run in OWN:
            if not self.states.is_as_recorded(store, run):
                raise Broken(f"run {run} ended with other bits")


def warnings_of(population: PopulationFolder, expected: Checkpoint | None) -> list[str]:
    """Return what newest() warned of; raises Broken where it is not the expected one."""
    warnings: list[str] = []
    try:
        found = population.newest(warnings.append)
    except NoCheckpoint:
        if expected is not None:
            raise
        return warnings
    if found is None or bits(found) != bits(expected):
        raise Broken(f"it starts over, or wrong data is loaded: {found and found.step}")
    return warnings


def run(workspace: Workspace) -> Report:
    """Damage the checkpoints of a population that stopped and finished runs, one after another."""
    states = train_states(workspace.folder / "states")
    patient, rng = Patient(states, workspace.folder / "harmed"), workspace.generator("damages")
    flips, cuts, trained = (60, 10, 30) if workspace.is_long else (2, 2, 2)
    damages = patient.damages(rng, flips, cuts)
    continued = rng.sample(sorted(damages), trained)
    wrong = {name: error_of(partial(patient.check, damages[name])) for name in damages}
    wrong |= {
        f"{name}, trained": error_of(partial(patient.check_trained, damages[name]))
        for name in continued
    }
    few, missed = list(patient.damages(rng, 4, 2).values()), []
    for name, mutant in READERS.items():
        rng.shuffle(few)
        with patch.object(*mutant):
            if not any(error_of(partial(patient.check, damage)) for damage in few):
                missed.append(name)
    failures = [f"seed {workspace.seed}: {name}: {text}" for name, text in wrong.items() if text]
    figures = {"damages": len(damages), "trained to the end after one": len(continued)}
    return report(figures, failures, missed, READERS)
