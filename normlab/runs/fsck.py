"""Examine a results directory and change nothing: what is there, what is damaged, what to do.

Only plain files are opened, to be read; a lock is looked at through a descriptor that cannot write.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS, find_norm
from normlab.runs import files as disk
from normlab.runs.checkpoints import NAME as CHECKPOINT
from normlab.runs.checkpoints import POPULATION, PopulationFolder, population_id
from normlab.runs.config import config_sha256, run_id
from normlab.runs.errors import BadResultsDirectory, Damaged, LabError
from normlab.runs.provenance import missing_facts
from normlab.runs.store import Store
from normlab.settings import Config, defaults, from_json

DAMAGE = ("damaged", "provenance", "misnamed", "duplicate", "lost", "link", "name")
"""Kinds of findings that are damage or loss; the others only say what there is."""
LONGEST_TEXT = 320
TEMPORARY = re.compile(r"\..+\.tmp")
ASIDE = re.compile(r"result\.\w+(-\d+)?\.json|.+\.corrupt|[0-9a-f]{16}(-\d+)?\.aside")
FILES = {
    "": re.compile(r"steptimes\.json"),
    "runs": re.compile(r"result\.json|curve\.jsonl|failure\.json|\.lock"),
    "populations": re.compile(r"manifest\.json|unfinished|checkpoint-\d{10}\.(json|safetensors)"),
    "norms": re.compile(r"[^\W\d]\w*\.json|[0-9a-f]{64}\.py"),
    "studies": re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=-]*\.json"),
    "bench": re.compile(r"[a-z]+\.json"),
    "report": re.compile(r"[^.].*"),
}
FOLDERS = ("runs", "populations", "norms", "studies", "bench", "report", "report-exploratory")


@dataclass(frozen=True)
class Finding:
    kind: str
    path: str
    """Below the results directory."""
    told: str
    """What it is and what to do, one line."""


def shown(text: str) -> str:
    """Return a text as one line that no terminal obeys and that is not too long."""
    line = text if text.isprintable() else ascii(text)[1:-1]
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def reason(error: Exception) -> str:
    """Return why something could not be read."""
    return error.why if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"


def may_be_older(config: Config) -> bool:
    """Tell whether the norm of a run may have had another version or file, and the run its name."""
    row = find_norm(config["norm.name"])
    return row.version > 1 or isinstance(row, OutsideNorm)


def is_held(path: Path) -> bool:
    """Tell whether a process holds a lock file."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class Examination:
    """What stands in one results directory; raises BadResultsDirectory where it is none."""

    def __init__(self, root: str | Path):
        self.store = Store(root)
        self.root = self.store.root
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.runs: dict[str, set[str]] = {}
        """Run -> its files."""
        self.held: set[str] = set()
        self.resumes: dict[str, str] = {}
        """Run -> where it goes on."""
        self.owners: dict[str, list[str]] = {}
        """Identity -> the folders that hold a result of it."""
        if not os.access(self.root / "runs", os.R_OK | os.X_OK):
            told = "has no readable folder runs/: no results directory; give one with --results=DIR"
            raise BadResultsDirectory(f"{str(self.root)!r} {told}")
        self._examine_root()
        for name in sorted(self._files("norms", "norms")):
            self._guard("norms", self._examine_norm, name)
        for name in self._folders("runs"):
            self._guard("runs", self._list_run, name)
        for name in self._folders("populations"):
            self._guard("populations", self._examine_population, name)
        for name in self.runs:
            self._guard("runs", self._examine_run, name)
        self._examine_owners()

    @property
    def is_whole(self) -> bool:
        return not any(finding.kind in DAMAGE for finding in self.findings)

    def _tell(self, kind: str, path: str, told: str) -> None:
        self.findings.append(Finding(kind, shown(path), shown(told)))

    def _guard(self, room: str, examine: Callable[[str], None], name: str) -> None:
        """Let nothing that one file holds end the examination of the others."""
        try:
            examine(name)
        except Exception as error:
            self._tell("damaged", f"{room}/{name}", f"{reason(error)}; move it away")

    def _entries(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield (name, file or folder) of what is plain in a folder; tell of all else."""
        if folder and (self.root / folder).is_symlink():
            return
        try:
            with os.scandir(self.root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell("damaged", folder, f"cannot be read ({error.strerror}); give it rights")
            return
        for entry in entries:
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.is_symlink():
                self._tell_link(path)
            elif entry.is_file() or entry.is_dir():
                yield entry.name, "file" if entry.is_file() else "folder"
            else:
                self._tell("link", path, "neither file nor folder: reading it waits; remove it")

    def _tell_link(self, path: str) -> None:
        target = Path(os.path.realpath(self.root / path))
        if target.is_relative_to(os.path.realpath(self.root)):
            self._tell("unknown", path, "a link, not looked at; put a copy in its place")
        else:
            self._tell("link", path, "a link that leads out of the results; remove it")

    def _files(self, folder: str, room: str) -> set[str]:
        """Return the names of the files that belong into a folder; tell of all others."""
        names = set()
        for name, what in self._entries(folder):
            path = f"{folder}/{name}".lstrip("/")
            if what == "file" and FILES[room].fullmatch(name):
                names.add(name)
            elif what == "folder" and room == "report":
                self._files(path, room)
            elif not (what == "folder" and path in FOLDERS):
                self._tell_other(path, name, what)
        return names

    def _tell_other(self, path: str, name: str, what: str) -> None:
        if what == "file" and TEMPORARY.fullmatch(name):
            self._tell("leftover", path, "being written now, or by a process that died: remove it")
        elif ASIDE.fullmatch(name):
            self._tell("kept", path, "set aside and never read again; may be removed")
        else:
            self._tell("unknown", path, f"a {what} that belongs to nobody; never read")

    def _folders(self, room: str) -> list[str]:
        """Return the names of the folders of runs or populations; tell of all else in there."""
        names, known = [], POPULATION if room == "populations" else disk.NAME
        for name, what in self._entries(room):
            if what == "folder" and known.fullmatch(name):
                names.append(name)
            elif what == "folder" and not disk.NAME.fullmatch(name):
                self._tell("name", f"{room}/{name}", "no command sees it; rename or remove it")
            else:
                self._tell_other(f"{room}/{name}", name, what)
        return names

    def _read(self, path: str, advice: str) -> dict[str, Any] | None:
        """Return a file of JSON; where it is damaged tell of it and return None."""
        try:
            return disk.read_json(self.root / path)
        except FileNotFoundError:
            return None  # somebody finished with it since the folder was listed
        except LabError as error:
            self._tell("damaged", path, f"{reason(error)}; {advice}")
            return None

    def _examine_root(self) -> None:
        for name in self._files("", ""):
            self._read(name, "remove it: step times are measured again")
        for name in sorted(self._files("studies", "studies")):
            self._read(f"studies/{name}", "the date of its study's rule is lost; move it away")
        for folder in ("report", "report-exploratory"):
            self._files(folder, "report")

    def _examine_norm(self, name: str) -> None:
        """Check what is kept of a norm from outside, and know its row from now on."""
        path, stem = f"norms/{name}", name.partition(".")[0]
        again = "move it away; --norms=FILE of the next study writes it again"
        if name.endswith(".py"):
            content = disk.read_bytes(self.root / path, disk.LARGEST_JSON)
            if hashlib.sha256(content).hexdigest() != stem:
                self._tell("damaged", path, f"not what it was, so no worker runs it; {again}")
            return
        facts = self._read(path, again)
        if facts is not None and stem not in NORMS:
            NORMS[stem] = OutsideNorm.from_facts(facts)

    def _list_run(self, name: str) -> None:
        self.runs[name] = self._files(f"runs/{name}", "runs")
        if ".lock" in self.runs[name]:
            self.held |= {name} if is_held(self.root / "runs" / name / ".lock") else set()
            self.counts["locks held" if name in self.held else "locks free"] += 1

    def _is_done(self, name: str) -> bool:
        return "result.json" in self.runs.get(name, ())

    def _examine_population(self, name: str) -> None:
        path, files = f"populations/{name}", self._files(f"populations/{name}", "populations")
        folder = PopulationFolder(self.store, name)
        steps = sorted((int(m[1]) for m in map(CHECKPOINT.fullmatch, files) if m), reverse=True)
        is_unfinished = "unfinished" in files or bool(steps)
        if "manifest.json" in files:
            told = "only checkpoints name its runs; move it away"
            manifest = self._read(f"{path}/manifest.json", told) or {"runs": {}}
            self._check_members(path, name, manifest["runs"])
        runs = folder.runs_if_known() if files else {}
        self.counts["populations"] += 1
        if not runs:
            told = "nobody knows its runs, which begin again; move it away"
            return self._tell("lost" if is_unfinished else "unknown", path, told)
        if not self.held.isdisjoint(runs):
            self.counts["populations trained now"] += 1
        elif is_unfinished and all(map(self._is_done, runs)):
            self._tell("leftover", path, "its runs are finished; the next study removes it")
        elif is_unfinished:
            self._examine_checkpoints(folder, steps, runs)

    def _check_members(self, path: str, name: str, runs: dict[str, Config]) -> None:
        if runs and population_id(runs) != name:
            self._tell("misnamed", path, "its manifest is that of another population; move it away")
        for run, config in runs.items():
            if not disk.NAME.fullmatch(run):
                self._tell("name", path, f"names a run {run!r}, which cannot be; move it away")
                continue
            try:
                if run_id(defaults() | from_json(config)) != run:
                    kind = "note" if may_be_older(config) else "misnamed"
                    self._tell(kind, path, f"run {run} has other settings; move it away")
            except (ValueError, KeyError) as error:
                self._tell("note", path, f"the names of its runs are not checked: {error}")
            if run not in self.runs and not os.path.lexists(self.root / "runs" / run):
                self._tell("lost", path, f"run {run} has no folder; what wants it trains it again")

    def _examine_checkpoints(
        self, folder: PopulationFolder, steps: list[int], runs: dict[str, Config]
    ) -> None:
        path, usable = f"populations/{folder.name}", []
        for step in steps:
            try:
                folder.read(step)
                usable.append(step)
            except Exception as error:  # whatever the reader trips over is damage
                self._tell("damaged", f"{path}/checkpoint-{step:010d}", f"{reason(error)}; unused")
        bad = len(steps) - len(usable) + len(folder.corrupt())
        if not usable:
            told = f"--restart begins its {len(runs)} runs again"
            return self._tell("lost", path, f"{bad} damaged checkpoints, none can be used; {told}")
        left = [run for run in runs if not self._is_done(run)]
        told = f"{len(left)} of {len(runs)} runs go on at step {usable[0]}"
        told += f", {bad} damaged checkpoints" if bad else ""
        self._tell("stopped", path, f"{told}; the command that began them continues")
        for run in left:
            self.resumes[run] = f"goes on at step {usable[0]} from population {folder.name}"

    def _examine_run(self, name: str) -> None:
        path = f"runs/{name}"
        if self._is_done(name):
            self._examine_result(name)
        elif self.store.is_done(name):
            self.counts["finished"] += 1  # while this looked at others
        elif name in self.held:
            self.counts["trained now"] += 1
            self._tell("half", path, "is being trained now")
        elif "failure.json" in self.runs[name]:
            self._examine_failure(name)
        elif "curve.jsonl" in self.runs[name]:
            self.counts["stopped"] += 1
            self._tell("half", path, self.resumes.get(name, "begins again: it has no checkpoint"))
        else:
            self.counts["never begun"] += 1

    def _examine_failure(self, name: str) -> None:
        self.counts["failed"] += 1
        facts = self._read(f"runs/{name}/failure.json", "the run is tried again; remove it")
        if facts is not None:
            last, count = facts["attempts"][-1], len(facts["attempts"])
            told = f"{count} attempts; the next one {self.resumes.get(name, 'begins again')}"
            ended = shown(f"{last['status']}: {last['message']}")[:200]
            self._tell("failed", f"runs/{name}", f"{ended} ({told})")

    def _examine_result(self, name: str) -> None:
        path, again = f"runs/{name}", "the next study repeats it"
        result, before = self._read(f"{path}/result.json", again), len(self.findings)
        if result is None:
            return
        missing = ", ".join(missing_facts(result["provenance"]))
        if missing:
            self._tell("provenance", path, f"{missing} missing or of another type; move it away")
        self._check_identity(name, from_json(result["config"]), result["provenance"])
        try:
            self.counts["diverged"] += self.store.read(name).diverged_at is not None
            self.counts["finished"] += 1
        except LabError as error:
            if not any(finding.kind in DAMAGE for finding in self.findings[before:]):
                self._tell("damaged", path, f"{reason(error)}; {again}")

    def _check_identity(self, name: str, config: Config, origin: dict[str, Any]) -> None:
        """Compare a run's name with its settings, or else with what the result says of itself."""
        path, sealed, known = f"runs/{name}", origin.get("config_sha256"), []
        try:
            known = [config_sha256(defaults() | config)]
            is_older = may_be_older(defaults() | config)
        except (ValueError, KeyError) as error:
            self._tell("note", path, f"its name is not checked: {error}")
            is_older = True
        known += [sealed] if is_older and isinstance(sealed, str) else []
        if known and not any(identity[:16] == name for identity in known):
            self._tell("misnamed", path, f"it holds run {known[-1][:16]}; move the folder away")
        elif known and known[0][:16] != name:
            self._tell("note", path, "of an earlier version of its norm; no study asks for it now")
        if known:
            self.owners.setdefault(known[-1], []).append(name)

    def _examine_owners(self) -> None:
        for identity, names in self.owners.items():
            for name in names if len(names) > 1 else ():
                others = ", ".join(other for other in names if other != name)
                told = f"the same run is in {others}; keep the folder {identity[:16]}"
                self._tell("duplicate", f"runs/{name}", told)
