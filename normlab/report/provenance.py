"""Where the runs of a report come from: machines, versions, code, and how many failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from normlab.runs.record import Record, is_stale
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Edges
from normlab.training.version import TRAINING_VERSION, training_version_of


def runs_of(setups: Iterable[SetupRuns]) -> list[Record]:
    """Return the finished runs that the setups need, each once."""
    return list({n: s.records[n] for s in setups for n in s.wanted if n in s.records}.values())


class ProvenanceSummary:
    """Facts about the runs of one or several setups."""

    def __init__(self, setups: Iterable[SetupRuns]):
        setups = list(setups)
        runs = runs_of(setups)
        self.wanted = len({n for s in setups for n in s.wanted})
        self.runs = len(runs)
        self.failed = sum(map(is_failed, runs))
        others = runs_of(s for s in setups if not isinstance(s.setup.protocol, Edges))
        self.failed_in_search = self.failed - sum(map(is_failed, others))
        """Failed runs of searches for the highest rate alone, which are meant to find it."""
        self.diverged = sum(run.status == "diverged" for run in runs)
        self.stale = sum(map(is_stale, runs))
        """Runs that another training version than today's made."""
        self.seconds = sum(run.seconds for run in runs)
        self.newest = max((str(run.provenance.get("ended", "")) for run in runs), default="")[:10]
        """The day of the newest run."""
        texts = {n: _counted(read(r.provenance) for r in runs) for n, read in READERS.items()}
        self.facts = {name: text for name, text in texts.items() if text}
        """What -> which values, each with its number of runs where they differ."""

    @property
    def failures(self) -> str:
        """How many runs failed, in words."""
        searched = self.failed_in_search
        return f"{self.failed} failed" + (
            f", {searched} of them in searches for the highest rate" if searched else ""
        )


def _counted(values: Iterable[Any]) -> str:
    """Return the values, most frequent first, with their number of runs where they differ."""
    counts = Counter(str(value) for value in values if value is not None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(v if len(ordered) == 1 else f"{v} ({n} runs)" for v, n in ordered)


def _commit(provenance: dict[str, Any]) -> str:
    return f"{provenance.get('git_commit')}{' + changes' if provenance.get('git_dirty') else ''}"


def _version(provenance: dict[str, Any]) -> str:
    version = training_version_of(provenance)
    is_old = version != TRAINING_VERSION
    return f"{version or 'unknown'}{f' (stale: today is {TRAINING_VERSION})' if is_old else ''}"


def _changes(provenance: dict[str, Any]) -> str | None:
    """Return what differed when a run continued from a checkpoint; None for nothing."""
    names = sorted({n for restart in provenance.get("restarts", []) for n in restart["changed"]})
    return f"{', '.join(names)} (not bit-exact)" if names else None


READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "machine": lambda p: (
        f"{p.get('processor')}, workers on {p.get('cores')} of its cores each, {p.get('platform')}"
    ),
    "device": lambda p: f"{p.get('device')} ({p.get('backend')})",
    "versions": lambda p: ", ".join(f"{n} {v}" for n, v in p.get("versions", {}).items()),
    "Python": lambda p: p.get("python"),
    "git commit": _commit,
    "training version": _version,
    "XLA flags": lambda p: p.get("xla_flags") or "none",
    "mode": lambda p: f"{p.get('mode')}, populations of {p.get('width')}",
    "data sha256": lambda p: str(p.get("data_sha256"))[:16],
    "continued with a change of": _changes,
    "norm from outside, sha256": lambda p: p["norm.file"][:16] if "norm.file" in p else None,
    "network from outside, sha256": lambda p: p["model.file"][:16] if "model.file" in p else None,
}
"""What the page says of the provenance of runs -> how it is read; None: nothing."""
