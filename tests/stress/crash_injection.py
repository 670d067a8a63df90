"""Children of a process without jax that are stopped at a chosen file operation."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

CRASHED = 9
"""The exit code of a process that was ended at a file operation."""
TESTS = Path(__file__).resolve().parents[1]
"""Where `stress` is found."""


def ask(module: str, *words: object) -> Any:
    """Return what `python -m module words...` prints as JSON; raises RuntimeError."""
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def in_child(act: Callable[[Callable[[str], None]], None]) -> tuple[int, str]:
    """Return the exit code of a child that does `act(emit)`, 70 if it raised, and its messages."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            act(lambda text: _write(writer, text))
        except BaseException as error:
            _write(writer, f"{type(error).__name__}: {error}")
            code = 70
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as messages:
        text = messages.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def _write(handle: int, text: str) -> None:
    os.write(handle, text.encode())


class CrashPoint:
    """Stops the process that it is installed in at its `at`-th file operation. With the way "full"
    that operation and all later ones are refused if they need room."""

    def __init__(self, at: int, way: str, emit: Callable[[str], None]):
        self.at, self.way, self.emit, self.count = at, way, emit, 0
        self.open_file, self.sync, self.rename = io.open, os.fsync, os.replace
        self.unsynced: dict[int, tuple[int, int]] = {}
        """Inode -> a handle of ours and the length before, of files not synced since."""
        self.renamed: list[tuple[Path, Path, bytes | None]] = []
        """From, to, and what was there before, in folders that were not synced since."""

    def install(self) -> None:
        for name in ("open", "unlink", "remove", "mkdir"):
            patch.object(os, name, self._counted(name, vars(os)[name])).start()
        for name in ("replace", "rename"):
            patch.object(os, name, self._replace).start()
        patch.object(os, "fsync", self._fsync).start()
        patch.object(io, "open", self._open).start()
        patch.object(builtins, "open", self._open).start()

    def note(self, operation: str, needs_room: bool = True) -> None:
        """Count an operation; stop here where it is the last."""
        self.count += 1
        if self.way == "full" and needs_room and self.count >= self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.way != "full" and self.count == self.at:
            self.crash(operation)

    def crash(self, operation: str) -> NoReturn:
        if self.way == "power":
            self._lose()
        self.emit(operation)
        os._exit(CRASHED)

    def _lose(self) -> None:
        """Do the worst that a loss of power may do to what was not synced."""
        for handle, length in self.unsynced.values():
            os.ftruncate(handle, length)
        for source, target, old in reversed(self.renamed):
            if target.exists():
                self.rename(target, source)
            if old is not None:
                with self.open_file(target, "wb") as file:
                    file.write(old)

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *rest: Any, **more: Any) -> Any:
            is_read = name == "open" and not rest[0] & (os.O_WRONLY | os.O_RDWR)
            self.note(f"{name} {Path(path).name}", name in ("open", "mkdir") and not is_read)
            return call(path, *rest, **more)

        return counted

    def _open(self, path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+"):
            return self.open_file(path, mode, *rest, **more)
        name = f"handle {path}" if isinstance(path, int) else Path(path).name
        self.note(f"open {name}")
        file = self.open_file(path, mode, *rest, **more)
        facts = os.fstat(file.fileno())
        self.unsynced.setdefault(facts.st_ino, (os.dup(file.fileno()), facts.st_size))
        return file

    def _fsync(self, handle: int) -> None:
        self.note("fsync")
        self.sync(handle)
        facts = os.fstat(handle)
        self.unsynced.pop(facts.st_ino, None)
        if stat.S_ISDIR(facts.st_mode):
            self.renamed = [r for r in self.renamed if r[1].parent.stat().st_ino != facts.st_ino]

    def _replace(self, source: Any, target: Any) -> None:
        self.note(f"rename to {Path(target).name}")
        place = Path(target)
        old = self.open_file(place, "rb").read() if place.is_file() else None
        self.rename(source, target)
        self.renamed.append((Path(source), place, old))
