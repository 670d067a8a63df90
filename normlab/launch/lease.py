"""Which command directs the workers of a results directory, where locks cannot say so.

The locks of files do not reach from one machine to another on every network disk. So a command
writes its machine and process into results/driver.json and renews it. Ages are differences of the
times that the disk itself gives to files, because clocks of machines differ.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from normlab.runs import files
from normlab.runs.errors import Damaged, InUse, StorageError
from normlab.runs.provenance import now

NAME = "driver.json"
RENEW_S, DEAD_S, LOOK_S = 10.0, 60.0, 1.0
"""Seconds between two signs of life; after which another command may begin without one; between
two looks at the clock."""


class Lease:
    """The right of one command to direct workers for a results directory."""

    def __init__(self, root: Path, takes_over: bool = False):
        self.path, self.takes_over = root / NAME, takes_over
        self.own = {"host": socket.gethostname(), "process": os.getpid(), "since": now()}
        self.renewed = -math.inf

    def check(self) -> None:
        """Raise InUse while another command holds it, except where it is to be taken over."""
        try:
            facts, there = files.read_json(self.path), self.path.stat().st_mtime
        except FileNotFoundError:
            return
        except Damaged:
            facts, there = {"host": "?", "process": 0}, self.path.stat().st_mtime
        if self.takes_over or facts == self.own or self._has_ended(facts):
            return
        age = max(0.0, self._time_of_disk() - there)
        if age < DEAD_S:
            raise InUse(
                f"{str(self.path.parent)!r} is used by a command on {facts['host']} (process "
                f"{facts['process']}, last sign of life {age:.0f} s ago); let it finish or stop "
                f"it, or wait until it is silent for {DEAD_S:g} s, or use --take_over"
            )

    def _has_ended(self, facts: dict[str, Any]) -> bool:
        """Return whether the holder was a process of this machine that is gone."""
        if facts["host"] != self.own["host"]:
            return False
        if facts["process"] == self.own["process"]:  # a container that was started again
            return True
        try:
            os.kill(facts["process"], 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def _time_of_disk(self) -> float:
        probe = self.path.with_name(f".{NAME}.{self.own['host']}.{os.getpid()}.tmp")
        try:
            probe.write_bytes(b"")
            return probe.stat().st_mtime
        except OSError as error:
            raise files.unwritable(probe, error) from error
        finally:
            with suppress(OSError):
                probe.unlink()

    def take(self) -> None:
        """Take it; raises InUse and StorageError."""
        self.check()
        files.write_json(self.path, self.own)
        self.renewed = time.monotonic()

    def renew(self) -> bool:
        """Give a sign of life if it is time; return whether this command still holds it."""
        if time.monotonic() - self.renewed < RENEW_S:
            return True
        try:
            if files.read_json(self.path) != self.own:
                return False
            os.utime(self.path)
        except (OSError, StorageError):
            return False
        self.renewed = time.monotonic()
        return True

    def release(self) -> None:
        with suppress(OSError, StorageError):
            if files.read_json(self.path) == self.own:
                self.path.unlink()


@contextmanager
def held(root: Path, takes_over: bool) -> Iterator[None]:
    """Hold the lease of a results directory. Once another command has it, this process gets
    SIGTERM, so that it saves and ends."""
    lease, is_over = Lease(root, takes_over), threading.Event()
    lease.take()

    def keep() -> None:
        while not is_over.wait(LOOK_S):
            if not lease.renew():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=keep, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        lease.release()
