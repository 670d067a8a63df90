"""Files that are not as they were written: flipped bits; cut, missing and exchanged files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from normlab.norms.outside import OutsideNorm, add_norms
from normlab.norms.table import NORMS
from normlab.runs import files as disk
from normlab.runs.checkpoints import Checkpoint, PopulationFolder
from normlab.runs.errors import NoCheckpoint, StorageError
from normlab.runs.store import Store
from stress.campaign import Report, Workspace
from stress.corruptions import Injury, both, cut, delete, exchange, injuries_of
from stress.mutants import CHECKPOINT_READERS, RESULT_READERS, Fault, planted
from stress.real_runs import SAVED, Broken, Real, same, train, train_real


class Stopped:
    """A population that stopped with two checkpoints, and what must be found of it after harm."""

    def __init__(self, real: Real, place: Path):
        self.real, self.place, self.base = real, place, place.with_name("base")
        store = real.copy("stopped", self.base)
        for name, saves in ((real.name, real.saves[1:]), (real.other, real.other_saves)):
            folder = PopulationFolder(store, name)
            folder.finish()
            for c in saves:  # anew: a planted writer has a format of its own
                folder.save(c.step, c.arrays, c.facts)
        self.pristine = self.files(store)

    def files(self, store: Store) -> dict[str, bytes]:
        folder = self.real.population(store).path
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def injuries(self, dice: random.Random, flips: int, cuts: int) -> list[Injury]:
        """Return injuries of each file, `flips` bits of each checkpoint's, and exchanged files."""
        own = f"populations/{self.real.name}/"
        newest, older = (
            [f"{own}checkpoint-{step:010d}.{kind}" for kind in ("safetensors", "json")]
            for step in (15, 10)
        )
        other = [name.replace(self.real.name, self.real.other) for name in newest]
        manifest, mark = f"{own}manifest.json", f"{own}unfinished"
        out = [delete(mark)]
        for name, share in [*((n, 1) for n in newest), *((n, 3) for n in (*older, manifest))]:
            out += injuries_of(self.base, name, dice, -(-flips // share), cuts)
        pairs = [list(zip(newest, names, strict=True)) for names in (older, other)]
        out += [exchange(pair) for both_files in pairs for pair in both_files]
        out += [exchange(*both_files) for both_files in pairs]
        out.append(exchange((manifest, manifest.replace(self.real.name, self.real.other))))
        all_bad = [both(cut(a, 5), cut(b, 5)) for a in newest for b in older]
        return [*out, *all_bad, *(both(injury, delete(mark)) for injury in all_bad)]

    def harm(self, injury: Injury) -> Store:
        return harmed(self.base, self.place, injury)

    def good(self, files: dict[str, bytes]) -> list[Checkpoint]:
        """Return the checkpoints whose files are as they were written, newest first."""
        return [
            c
            for c in self.real.saves[:0:-1]
            if all(files.get(n) == self.pristine[n] for n in _names(c.step))
        ]

    def check(self, injury: Injury) -> None:
        """Raise Broken where anything but the undamaged bytes is used, or nothing in silence."""
        store = self.harm(injury)
        files, folder = self.files(store), self.real.population(store)
        good = self.good(files)
        expected = good[0] if good else None
        sources = ["manifest.json", *(_names(step)[1] for step in SAVED[1:])]
        runs = folder.runs_if_known()
        is_known = any(files.get(name) == self.pristine[name] for name in sources)
        if runs != self.real.configs and (runs or is_known):
            raise Broken(f"it knows of the runs {sorted(runs)}, not {sorted(self.real.configs)}")
        damaged = [s for s in SAVED[1:] if s > (expected.step if expected else 0)]
        damaged = [step for step in damaged if _names(step)[1] in files]
        for attempt in range(2):
            told = self.ask(folder, expected)
            if len(told) != (len(damaged) if attempt == 0 else 0):
                raise Broken(
                    f"{len(told)} warnings at look {attempt + 1} of {len(damaged)} damaged"
                )
        kept = self.files(store)
        for name in (n for step in damaged for n in _names(step) if n in files):
            if kept.get(f"{name}.corrupt") != files[name]:
                raise Broken(f"{name} was not kept as .corrupt")

    def ask(self, folder: PopulationFolder, expected: Checkpoint | None) -> list[str]:
        """Return what newest() warned of; raises Broken where it is not the expected one."""
        told: list[str] = []
        try:
            found = folder.newest(told.append)
        except NoCheckpoint:
            if expected is not None:
                raise
            return told
        if found is None:
            raise Broken("it begins again in silence")
        if not same(found, expected):
            raise Broken(f"wrong data loaded, of step {found.step}")
        return told

    def check_trained(self, injury: Injury) -> None:
        """Raise Broken where the real trainer does not get, from there, the bits of a run that was
        never stopped."""
        store = self.harm(injury)
        good = self.good(self.files(store))
        try:
            train(store, self.real.configs)
        except NoCheckpoint:
            if good:
                raise
            return
        if not good:
            raise Broken("it began again in silence")
        for run, result in self.real.results.items():
            record = store.read(run)
            if (record.final, record.curve) != (result["final"], self.real.curves[run]):
                raise Broken(f"run {run} ended with other bits")


def _names(step: int) -> tuple[str, str]:
    return f"checkpoint-{step:010d}.safetensors", f"checkpoint-{step:010d}.json"


def harmed(base: Path, place: Path, injury: Injury) -> Store:
    """Return a copy of a results directory after an injury."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place)
    injury.harm(place)
    return Store(place)


def checkpoints(desk: Workspace) -> Report:
    """Damage the checkpoints of a population that stopped, one injury after another."""
    real = train_real(desk.folder / "real")
    stopped = Stopped(real, desk.folder / "harmed")
    flips, cuts, trained = (100, 10, 30) if desk.is_long else (2, 2, 2)
    injuries = stopped.injuries(desk.dice("checkpoints"), flips, cuts)
    continued = desk.dice("trained").sample(injuries, trained)
    wrong = wrong_after(injuries, stopped.check) | wrong_after(continued, stopped.check_trained)
    missed = missed_faults(desk, CHECKPOINT_READERS, partial(Stopped, real), wrong)
    return report(
        desk,
        "Damaged checkpoints",
        "undamaged bytes, or a stop with NoCheckpoint: no other arrays, no silent restart",
        {"injuries": len(injuries), "trained to the end after an injury": len(continued)},
        wrong,
        missed,
        len(CHECKPOINT_READERS),
    )


class Patient(Protocol):
    """Files that can be harmed."""

    def injuries(self, dice: random.Random, flips: int, cuts: int) -> list[Injury]: ...
    def check(self, injury: Injury) -> None: ...


def wrong_after(injuries: Sequence[Injury], check: Callable[[Injury], None]) -> dict[str, str]:
    """Return injury -> what a check found wrong after it."""
    wrong = {}
    for injury in injuries:
        try:
            check(injury)
        except Exception as error:  # a reader that crashes on a damaged file has not understood it
            wrong[injury.told] = f"{type(error).__name__}: {error}"
    return wrong


def missed_faults(
    desk: Workspace,
    faults: dict[str, Fault],
    make: Callable[[Path], Patient],
    known: Collection[str],
) -> list[str]:
    """Return the planted faults that some injuries do not reveal; those after which something is
    wrong without a fault, `known`, reveal nothing."""
    missed = []
    for name, fault in faults.items():
        with planted(fault):
            patient = make(desk.folder / "broken")
            few = [i for i in patient.injuries(desk.dice(name), 4, 2) if i.told not in known]
            desk.dice("order").shuffle(few)
            if not any(wrong_after([injury], patient.check) for injury in few):
                missed.append(name)
    return missed


def report(
    desk: Workspace,
    title: str,
    goal: str,
    counts: dict[str, int],
    wrong: dict[str, str],
    missed: list[str],
    faults: int,
) -> Report:
    caught = f"{faults - len(missed)} of {faults}"
    failures = [f"seed {desk.seed}: {told}: {text}" for told, text in wrong.items()]
    failures += [f"a planted fault was not noticed: {name}" for name in missed]
    figures = {**counts, "bad": len(wrong), "planted faults caught": caught}
    return Report(title, goal, figures, failures)


NORM = '''"""Two norms of somebody's own."""

from normlab.norms import Norm
from normlab.norms.plain import Affine

NORMS = {
    name: Norm(title=f"{name} norm", family="none", module=Affine, over=(), source="made up")
    for name in ("first_own", "second_own")
}
'''
OWN = ("first_own", "second_own")


class Finished:
    """A results directory whose runs are finished, with all else that is kept beside them."""

    def __init__(self, real: Real, place: Path):
        self.real, self.place, self.base = real, place, place.with_name("whole")
        store = real.copy("done", self.base)
        file = place.with_name("own_norms.py")
        file.write_text(NORM)
        forget_norms()
        try:
            add_norms([str(file)])
            store.open()  # keeps the norms
        finally:
            forget_norms()
        disk.write_json(store.root / "steptimes.json", {"A processor": {"p1": 1.25, "p2": 0.5}})
        (store.root / "studies").mkdir()
        rule = {"rule_hash": "0123456789abcdef", "file": "made_up", "written": "2026-11-20"}
        disk.write_json(store.root / "studies" / "made_up-quick.json", rule)
        self.code = next(path.name for path in (store.root / "norms").glob("*.py"))
        self.whole = {name: read(store) for name, read in self.readers().items()}

    def readers(self) -> dict[str, Callable[[Store], str]]:
        """Return for each file what it says, by those who read it; they raise StorageError."""
        readers = {f"norms/{name}.json": partial(read_norm, name) for name in OWN}
        for run in self.real.configs:
            for name in ("result.json", "curve.jsonl"):
                readers[f"runs/{run}/{name}"] = partial(read_run, run)
        for name in ("steptimes.json", "studies/made_up-quick.json"):
            readers[name] = partial(read_facts, name)
        return readers | {f"norms/{self.code}": self.read_code}

    def read_code(self, store: Store) -> str:
        """Return what a worker gets of the file of a norm."""
        path = store.root / "norms" / self.code
        forget_norms()
        try:
            return " ".join(add_norms([str(path)], [path.stem])) + path.read_text()
        except ValueError as error:
            raise StorageError(str(error)) from error
        finally:
            forget_norms()

    def injuries(self, dice: random.Random, flips: int, cuts: int) -> list[Injury]:
        first, second = (f"runs/{run}/" for run in self.real.configs)
        results, curves = ((first + name, second + name) for name in ("result.json", "curve.jsonl"))
        out = [exchange(results), exchange(curves), exchange(results, curves)]
        out.append(exchange((f"norms/{OWN[0]}.json", f"norms/{OWN[1]}.json")))
        for name in self.readers():
            if not name.startswith(second) and OWN[1] not in name:
                out += injuries_of(self.base, name, dice, flips, cuts)
        return out

    def check(self, injury: Injury) -> None:
        """Raise Broken where a file that is not as it was written gives anything."""
        store = harmed(self.base, self.place, injury)
        for name, read in self.readers().items():
            try:
                found = read(store)
            except StorageError as error:
                if "\n" in str(error) or str(self.place) not in str(error):
                    raise Broken(f"not one line that names the place: {error}") from error
                continue
            except FileNotFoundError:
                continue
            if found != self.whole[name]:
                raise Broken(f"wrong data loaded from {name}: {found[:200]}")
            path, original = store.root / name, self.base / name
            if not path.exists() or path.read_bytes() != original.read_bytes():
                raise Broken(f"{name} is damaged, and nobody noticed")


def read_run(run: str, store: Store) -> str:
    return json.dumps(asdict(store.read(run)))


def read_facts(name: str, store: Store) -> str:
    return json.dumps(disk.read_json(store.root / name))


def read_norm(name: str, store: Store) -> str:
    """Return the row of a norm as reports recall it."""
    forget_norms()
    try:
        store.recall_norms()
        row = NORMS.get(name)
        if not isinstance(row, OutsideNorm):
            raise FileNotFoundError(name)
        return json.dumps(row.facts())
    finally:
        forget_norms()


def forget_norms() -> None:
    for name in OWN:
        NORMS.pop(name, None)


def results(desk: Workspace) -> Report:
    """Damage what is kept of finished runs, one injury after another."""
    real = train_real(desk.folder / "real")
    finished = Finished(real, desk.folder / "harmed")
    flips, cuts = (40, 10) if desk.is_long else (2, 2)
    injuries = finished.injuries(desk.dice("results"), flips, cuts)

    wrong = wrong_after(injuries, finished.check)
    missed = missed_faults(desk, RESULT_READERS, partial(Finished, real), wrong)
    return report(
        desk,
        "Damaged results",
        "wrong data loaded: none; the refusal is one line that names the place",
        {"injuries": len(injuries)},
        wrong,
        missed,
        len(RESULT_READERS),
    )
