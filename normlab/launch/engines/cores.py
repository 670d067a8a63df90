"""Cores of their own for the workers that a cluster starts on one machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from normlab.runs.provenance import available_cores

HELD: list[FileLock] = []
"""Locks of the cores that this process stays on, until it ends."""


def stay_on_cores(count: int) -> None:
    """Keep this process and its threads on `count` cores that no other worker of this user has.
    Without as many free cores, or where the system cannot, it stays where it is."""
    if HELD or not hasattr(os, "sched_setaffinity"):
        return
    folder = Path(tempfile.gettempdir()) / f"normlab-cores-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    cores = []
    for core in available_cores():
        lock = FileLock(folder / f"{core}.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        HELD.append(lock)
        cores.append(core)
        if len(cores) == count:
            break
    for thread in os.listdir("/proc/self/task") if len(cores) == count else ():
        os.sched_setaffinity(int(thread), cores)
