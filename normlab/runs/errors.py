"""What can go wrong, each with its name and its exit code; every message is one line."""

from __future__ import annotations

from pathlib import Path


class LabError(Exception):
    """Something that the user can understand and correct."""

    code = 70
    kind = "internal"


class ConfigError(LabError, ValueError):
    """A configuration that cannot run: the value, the limit and the way out."""

    code, kind = 2, "config"

    def __init__(self, message: str):
        is_long = len(message) > 1000  # with the value that somebody gave in it
        super().__init__(f"{message[:700]} ... {message[-250:]}" if is_long else message)


class Drift(LabError):
    """What a stopped run was begun with is not what is there now."""

    code, kind = 4, "drift"


class NoCheckpoint(LabError):
    """A stopped run whose checkpoints are all damaged: it never restarts silently."""

    code, kind = 5, "no-checkpoint"


class InUse(LabError):
    """Another process is training this run."""

    code, kind = 6, "in-use"


class NoWorker(LabError):
    """No worker process can train here."""

    kind = "worker"

    def __init__(self, message: str):
        super().__init__(f"workers cannot train here: {message}")


class StorageError(LabError, RuntimeError):
    """The results directory cannot be read or written."""

    code, kind = 7, "storage"


class BadResultsDirectory(StorageError):
    """What --results names is no directory to work in: found before anything runs."""

    code, kind = 2, "results"


class Damaged(StorageError):
    """A file whose bytes are not those that were written; where it is a run's, that run's."""

    code, kind = 7, "damaged"

    def __init__(self, what: str | Path, why: str, way_out: str = "move it away", run_id: str = ""):
        name = what if isinstance(what, str) else repr(str(what))
        super().__init__(f"{name} is damaged ({why}); {way_out}")
        self.why, self.run_id = why, run_id


class PeerGone(LabError):
    """Another process of the same run was lost or asked to stop; the same command continues."""

    code, kind = 75, "peers"


class Preempted(KeyboardInterrupt):
    """SIGTERM: the machine is wanted for something else, or goes away."""

    code = 75
