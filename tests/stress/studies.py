"""Tiny runs and studies in processes of their own, which can be killed, and a log of what they did.

Child processes find a sitecustomize.py on PYTHONPATH: it lets them write down what they train
and record (`witness`), and may break them on purpose. The product knows nothing of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normlab.runs.checkpoints import PopulationFolder
from normlab.runs.store import Store
from normlab.settings import Config
from stress.campaign import Workspace

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 5
"""Steps between two checkpoints."""
SETTINGS: Config = {
    "data.name": "synthetic",
    "model.widths": (16,),
    "train.eval_every": CHUNK,
    "eval.curve_examples": 100,
    "eval.stats_examples": 64,
}
"""A net of no size, evaluated after every chunk, so that its curve shows how far it came."""
HOST: Config = {"host.chunk": CHUNK, "train.checkpoint_seconds": 0, "host.processes": 1}
STUDY = '''
"""A study of seconds: three norms, two rates, two seeds on generated images."""

from normlab.studies.hypothesis_tests import PAIRED_T
from normlab.studies.units import POINTS
from normlab.studies.metrics import error_points
from normlab.studies.study import Arm, Setup, Study, Tuning
from normlab.studies.decisions import Contrast

SETUP = Setup(
    name="tiny", title="tiny MLP", base="digits_mlp", settings=SETTINGS, seeds=2,
    arms=tuple(Arm(n, {"norm.name": n}, is_primary=True) for n in ("none", "batch", "layer")),
    protocol=Tuning((-1.0, -0.5), 0.5, "error", seeds=(1000, 1001), extensions=0),
)


def claims(evidence, profile):
    none, batch = (evidence["tiny"].runs_of(arm) for arm in ("none", "batch"))
    pairs = {s: (none[s], batch[s]) for s in none.keys() & batch.keys()}
    effects = {s: error_points(a) - error_points(b) for s, (a, b) in pairs.items()}
    return [Contrast(
        id="T", claim="T", sentence="It is better", comparison="none - batch", scope="tiny",
        effects=effects, unit=POINTS, sesoi=1.0, n=2, test=PAIRED_T, setup="tiny",
    )]


STUDY = Study(
    name="tiny", title="Tiny", question="?", fair_test="f", source="s", expect="e",
    refuted_if="r", cost="c", setups={"quick": (SETUP,), "standard": (SETUP,)}, claims=claims,
)
'''
RUNS = 3 * 2 * 2 + 3 * 2
"""Of that study: arms x rates x tuning seeds, then arms x seeds."""
STUDY_STEPS = 100, 400
"""Of each of them, in short versions and in long ones."""


DIE_WITH_PARENT = 1
"""Linux: PR_SET_PDEATHSIG, the signal that a process gets when the one that started it ends."""


def need_linux() -> None:
    """Raise RuntimeError where processes cannot be seen as these campaigns must."""
    if sys.platform != "linux":
        raise RuntimeError(
            f"campaigns that kill processes read /proc, which {sys.platform} has not; use Linux"
        )


def until(is_so: Callable[[], object], seconds: float) -> bool:
    """Wait until something is so; return whether it came to be in time."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def witness(log: str) -> None:
    """Let this process append to a log, by single writes, what it trains and records."""
    if os.getpid() == os.getpgid(0):  # started by a campaign, whose end must not leave it behind
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(kind: str, name: str, detail: int | str = 0) -> None:
        os.write(handle, f"{kind} {os.getpgid(0)} {name} {detail}\n".encode())

    form, append, finish = PopulationFolder.form, Store.append_curve, Store.finish

    def told_form(self: PopulationFolder, configs: Mapping[str, Config], facts: dict[str, Any]):
        for name in configs:
            tell("trains", name, self.name)
        form(self, configs, facts)

    def told_append(self: Store, run_id: str, rows: list[dict[str, float]]):
        append(self, run_id, rows)
        tell("row", run_id, int(rows[-1]["step"]))

    def told_finish(self: Store, run_id: str, result: dict[str, Any], curve: list[Any]):
        tell("again" if self.is_done(run_id) else "finishing", run_id)
        finish(self, run_id, result, curve)
        tell("finished", run_id)

    PopulationFolder.form = told_form
    Store.append_curve, Store.finish = told_append, told_finish


@dataclass(frozen=True)
class Note:
    """A line of the log, of a run: trains (in a population), row (of its curve, the step),
    finishing, again (the same where it is recorded already), finished."""

    kind: str
    group: int
    """The process group that wrote it."""
    name: str
    detail: str


@dataclass(frozen=True)
class Start:
    """A run that was begun again or continued."""

    name: str
    step: int
    """From which it went on: one chunk before its next row."""
    before: int
    """The largest step that its curve had shown until then."""


class Log:
    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self.notes: list[Note] = []

    def read(self) -> list[Note]:
        """Return all notes so far; a last line without its end is left for the next time."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.position)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self.position += len(new)
            for line in new.decode().splitlines():
                kind, group, name, detail = line.split()
                self.notes.append(Note(kind, int(group), name, detail))
        return self.notes

    def starts(self) -> list[Start]:
        """Return each time that a run with progress was begun again or continued, and got on."""
        found: list[Start] = []
        fresh: set[str] = set()
        seen: dict[str, int] = {}
        for note in self.read():
            if note.kind == "trains":
                fresh.add(note.name)
            elif note.kind == "row":
                name, step = note.name, int(note.detail)
                if name in fresh and name in seen:
                    found.append(Start(name, step - CHUNK, seen[name]))
                fresh.discard(name)
                seen[name] = max(step, seen.get(name, 0))
        return found

    def count(self, kind: str) -> Counter[str]:
        """Return how many notes of a kind there are of each name."""
        return Counter(note.name for note in self.read() if note.kind == kind)

    def recorded_twice(self) -> list[str]:
        """Return the runs that were recorded again, or by two processes at once."""
        often = {name for name, count in self.count("finished").items() if count > 1}
        return sorted(often | self.count("again").keys())

    def trained_by_two(self) -> list[str]:
        """Return the runs whose curves grew after another process had taken them over."""
        owner: dict[str, int] = {}
        found = set()
        for note in self.read():
            if note.kind == "trains":
                owner[note.name] = note.group
            elif note.kind == "row" and owner.get(note.name) != note.group:
                found.add(note.name)
        return sorted(found)


def members(group: int) -> dict[int, int]:
    """Return pid -> parent of the living processes of a group."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            facts = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        state, parent, its_group = facts[:3]
        if int(its_group) == group and state not in "ZX":
            found[int(name)] = int(parent)
    return found


def told(pid: int, what: str) -> bytes:
    """Return what /proc tells of a process, nothing once it has ended."""
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
        """Tell whether it has ended and left no process behind."""
        return self.has_ended() and not members(self.group)

    def worker(self) -> int | None:
        """Return the pid of its worker process, None while there is none."""
        pids = [pid for pid, parent in members(self.group).items() if parent == self.group]
        return next((pid for pid in pids if b"normlab.launch.worker" in told(pid, "cmdline")), None)

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
        """Leave nothing of it; others that have got its number since then are spared."""
        if not self.has_ended():
            os.killpg(self.group, signal.SIGKILL)
            self.process.wait()
        for pid in members(self.group):
            if os.fsencode(self.out.parent / "site") in told(pid, "environ"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def text(self) -> str:
        return self.out.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """Return its exit code and the end of its errors, on one line."""
        errors = self.out.with_suffix(".err").read_text(encoding="utf-8", errors="replace")
        return f"exit code {self.process.poll()}: {' | '.join(errors.strip().splitlines()[-3:])}"


def table_of(child: Child) -> str:
    """Return the verdicts that scripts/study.py printed, "" for other commands."""
    return child.text().partition(" runs trained in ")[2].partition("\n")[2].partition("page:")[0]


class Stage:
    """A results directory, the commands that work on it and their log; leaves no process behind.

    `fault()`, a function of a module, breaks something in every child when it starts.
    """

    def __init__(self, desk: Workspace, name: str, fault: Callable[[], None] | None = None):
        self.folder, self.desk = desk.folder / name, desk
        (self.folder / "site").mkdir(parents=True)
        self.log = Log(self.folder / "log")
        self.store = Store(self.folder / "results")
        self.children: list[Child] = []
        hooks = [f"import {__name__}"]
        if fault:
            hooks += [f"import {fault.__module__}", f"{fault.__module__}.{fault.__name__}()"]
        hooks += [f"{__name__}.witness({str(self.log.path)!r})", ""]
        (self.folder / "site" / "sitecustomize.py").write_text("\n".join(hooks), encoding="utf-8")
        path = [str(self.folder / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "NORMLAB_CACHE": os.environ.get("NORMLAB_CACHE") or str(desk.folder / "cache"),
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
        with open(out, "wb") as told, open(out.with_suffix(".err"), "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=errors,
                env=self.environment,
                start_new_session=True,
            )
        self.children.append(Child(process, out, len(self.log.read())))
        return self.children[-1]

    def start_run(self, settings: Config) -> Child:
        """Start scripts/train.py on one run."""
        flags = [f"--config.{name}={value}" for name, value in (SETTINGS | HOST | settings).items()]
        script = str(ROOT / "scripts" / "train.py")
        return self.start(script, "--config=digits_mlp", f"--results={self.store.root}", *flags)

    def start_study(self, *flags: str) -> Child:
        """Start scripts/study.py on the tiny study, whose file is the same for all of a desk."""
        file = self.desk.folder / "tiny.py"
        if not file.exists():
            settings = repr(SETTINGS | {"train.steps": STUDY_STEPS[self.desk.is_long]})
            file.write_text(STUDY.replace("SETTINGS", settings), encoding="utf-8")
        flags += tuple(f"--config.{name}={value}" for name, value in HOST.items())
        script = str(ROOT / "scripts" / "study.py")
        return self.start(script, f"--study={file}", f"--results={self.store.root}", *flags)
