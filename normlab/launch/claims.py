"""The locks of the runs of a population, and which of these runs are still to be trained."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from normlab.runs.checkpoints import population_id, unfinished
from normlab.runs.store import Store


class Claim:
    """Runs whose locks this process holds until `release`, or until the end of a with block.

    A population that is continued needs the locks of all of its runs. All processes ask for them in
    the same order and give up at the first that is held. So two processes that continue the same
    population cannot both fail.
    """

    def __init__(self, store: Store, names: Iterable[str], resumes: bool):
        self.store, self.names, self.locks = store, list(names), ExitStack()
        self.free: list[str] = []
        """The runs to train."""
        held = set[str]()
        try:
            for name in sorted(self.names):
                if lock := store.lock(name):
                    self.locks.callback(lock.release)
                    held.add(name)
                elif resumes:
                    return
            self.free = self._still_free([name for name in self.names if name in held], resumes)
        except BaseException:
            self.release()
            raise

    @property
    def busy(self) -> list[str]:
        """The runs that others train, or have finished."""
        return [name for name in self.names if name not in self.free]

    def _still_free(self, names: list[str], resumes: bool) -> list[str]:
        """Return those of the locked runs that are to be trained. They are read again, now that
        nobody else can change them. None is done, and none is of a population that stopped after a
        checkpoint, except the one that is to be continued."""
        stopped = {folder.name: folder for folder in unfinished(self.store)}
        left = [name for name in names if not self.store.is_done(name)]
        if resumes:
            return names if left and population_id(names) in stopped else []
        others = {name for folder in stopped.values() for name in folder.runs_if_known()}
        return [name for name in left if name not in others]

    def release(self) -> None:
        """Free the locks."""
        self.locks.close()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
