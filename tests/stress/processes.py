"""Commands in processes of their own, which can be killed, and a log of what they did.

Child processes find a sitecustomize.py on PYTHONPATH. It makes them log what they train and record
(`witness`), and may plant a mutant. The package does not depend on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from workspace import ROOT

from normlab.runs.checkpoints import PopulationFolder
from normlab.runs.store import Store
from normlab.settings import Config
from stress.campaign import Workspace

CHUNK = 5
"""Steps between two checkpoints."""
DIE_WITH_PARENT = 1
"""Linux: PR_SET_PDEATHSIG, the signal that a process gets when the one that started it ends."""


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def witness(log: str) -> None:
    """Make this process append to a log, by single writes, what it trains and records."""
    if os.getpid() == os.getpgid(0):  # started by a campaign, whose end must not leave it running
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    form, append, finish = PopulationFolder.form, Store.append_curve, Store.finish

    def emit(kind: str, run: str, step: int = 0) -> None:
        os.write(handle, f"{kind} {os.getpgid(0)} {run} {step}\n".encode())

    def logged_form(self: PopulationFolder, configs: Mapping[str, Config], facts: Any) -> None:
        for run in configs:
            emit("trains", run)
        form(self, configs, facts)

    def logged_append(self: Store, run_id: str, rows: list[dict[str, float]]) -> None:
        append(self, run_id, rows)
        emit("row", run_id, int(rows[-1]["step"]))

    def logged_finish(self: Store, run_id: str, result: Any, curve: Any) -> None:
        emit("again" if self.is_done(run_id) else "finishing", run_id)
        finish(self, run_id, result, curve)
        emit("finished", run_id)

    PopulationFolder.form = logged_form
    Store.append_curve, Store.finish = logged_append, logged_finish


class Note(NamedTuple):
    """A line of the log about a run."""

    kind: str
    """trains (in a population), row (of its curve), finishing, finished; again instead of
    finishing where the run is recorded already."""
    group: int
    """The process group that wrote it."""
    run: str
    step: int


class Log:
    def __init__(self, path: Path):
        self.path = path

    def notes(self) -> list[Note]:
        """Return all notes so far; a last line without its end is left out."""
        text = self.path.read_text() if self.path.exists() else ""
        fields = (line.split() for line in text.splitlines(True) if line.endswith("\n"))
        return [Note(kind, int(group), run, int(step)) for kind, group, run, step in fields]

    def judge(self) -> tuple[list[str], dict[str, int]]:
        """Return what is wrong: runs that were recorded or trained twice, or lost more than a
        chunk. Return too for each run the most steps that were done again."""
        finished, wrong = set[str](), list[str]()
        owner, seen, redone = dict[str, int](), dict[str, int](), dict[str, int]()
        fresh = set[str]()
        for kind, group, run, step in self.notes():
            if kind == "again" or (kind == "finished" and run in finished):
                wrong.append(f"run {run} was recorded twice")
            elif kind == "finished":
                finished.add(run)
            elif kind == "trains":
                owner[run] = group
                fresh.add(run)
            elif kind == "row":
                if owner.get(run) != group:
                    wrong.append(f"run {run} was trained by two at once")
                if run in fresh and run in seen:
                    redone[run] = max(redone.get(run, 0), seen[run] - (step - CHUNK))
                fresh.discard(run)
                seen[run] = max(step, seen.get(run, 0))
        lost = [
            f"run {run} did {steps} steps again" for run, steps in redone.items() if steps > CHUNK
        ]
        return sorted(set(wrong)) + lost, redone


def members(group: int) -> dict[int, int]:
    """Return pid -> parent of the living processes of a group."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        facts = of_process(int(name), "stat").decode().rpartition(")")[2].split()
        if facts and int(facts[2]) == group and facts[0] not in "ZX":
            found[int(name)] = int(facts[1])
    return found


def of_process(pid: int, what: str) -> bytes:
    """Return a file of /proc about a process, nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


@dataclass
class Child:
    """A command in a process group of its own: a supervisor and its worker, or one process."""

    process: subprocess.Popen[bytes]
    out: Path
    since: int
    """How many notes there were when it began, or when a part of it was last killed."""
    hits: int = 0
    """How often a part of it was killed."""

    @property
    def group(self) -> int:
        return self.process.pid

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def is_empty(self) -> bool:
        """Return whether it has ended and left no process."""
        return self.has_ended() and not members(self.group)

    def worker(self) -> int | None:
        """Return the pid of its worker process, None while there is none."""
        pids = [pid for pid, parent in members(self.group).items() if parent == self.group]
        is_worker = (b"normlab.launch.worker" in of_process(pid, "cmdline") for pid in pids)
        return next((pid for pid, yes in zip(pids, is_worker, strict=True) if yes), None)

    def kill(self, part: str) -> bool:
        """Kill all of it, or its supervisor or worker alone; return whether there was one."""
        target = self.worker() if part == "worker" else self.group
        if target is None or self.has_ended():
            return False
        try:
            (os.killpg if part == "all" else os.kill)(target, signal.SIGKILL)
        except ProcessLookupError:
            return False  # the worker has just ended
        self.hits += 1
        return True

    def end(self) -> None:
        """End it and its processes; others that have its number since then are spared."""
        if not self.has_ended():
            os.killpg(self.group, signal.SIGKILL)
            self.process.wait()
        for pid in members(self.group):
            if os.fsencode(self.out.parent / "site") in of_process(pid, "environ"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def table(self) -> str:
        """Return the verdicts that scripts/study.py printed, "" for other commands."""
        text = self.out.read_text(encoding="utf-8", errors="replace")
        return text.partition(" runs trained in ")[2].partition("\n")[2].partition("page:")[0]

    def last_words(self) -> str:
        """Return its exit code and the end of its errors, on one line."""
        errors = self.out.with_suffix(".err").read_text(encoding="utf-8", errors="replace")
        return f"exit code {self.process.poll()}: {' | '.join(errors.strip().splitlines()[-3:])}"


class Stage:
    """A results directory, the commands that work on it and their log; leaves no process running.

    `mutant()`, a function of a module, breaks something in every child when it starts. The function
    `witness` of the module `witness_of` makes them write the log.
    """

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        mutant: Callable[[], None] | None = None,
        witness_of: str = __name__,
    ):
        if sys.platform != "linux":
            raise RuntimeError(f"this campaign reads /proc, which {sys.platform} lacks; use Linux")
        self.folder, self.workspace = workspace.folder / name, workspace
        (self.folder / "site").mkdir(parents=True)
        self.log, self.store = Log(self.folder / "log"), Store(self.folder / "results")
        self.children: list[Child] = []
        hooks = [f"import {witness_of}", f"{witness_of}.witness({str(self.log.path)!r})", ""]
        if mutant:
            hooks[1:1] = [f"import {mutant.__module__} as m", f"m.{mutant.__name__}()"]
        (self.folder / "site" / "sitecustomize.py").write_text("\n".join(hooks), encoding="utf-8")
        path = [self.folder / "site", ROOT, ROOT / "tests", os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "NORMLAB_CACHE": os.environ.get("NORMLAB_CACHE") or str(workspace.folder / "cache"),
            "JAX_PLATFORMS": "cpu",
        }

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.end()

    def start(self, *command: str) -> Child:
        """Start Python with a command."""
        out = self.folder / f"{len(self.children)}.out"
        with open(out, "wb") as messages, open(out.with_suffix(".err"), "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=errors,
                env=self.environment,
                start_new_session=True,
            )
        self.children.append(Child(process, out, len(self.log.notes())))
        return self.children[-1]
