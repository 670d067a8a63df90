"""Where the runs of a study come from: machines, versions, code, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from normlab.runs.record import Record, is_stale
from normlab.settings import SETTINGS, Config
from normlab.studies.metrics import is_failed
from normlab.studies.planning import RequiredRun, SetupRuns
from normlab.training.version import TRAINING_VERSION, training_version_of


@dataclass(frozen=True)
class ProvenanceSummary:
    """Facts about the runs of one study."""

    wanted: int
    runs: int
    failed: int
    diverged: int
    stale: int
    """Runs that another training version than today's made."""
    seconds: float
    facts: tuple[tuple[str, str], ...]
    """(what, which values and in how many runs)"""


def wanted_of(evidences: Mapping[str, SetupRuns]) -> dict[str, RequiredRun]:
    return {n: w for e in evidences.values() for n, w in e.wanted.items()}


def runs_of(evidences: Mapping[str, SetupRuns]) -> list[Record]:
    """Return the finished runs that a study asks for, each once."""
    found = {n: e.records[n] for e in evidences.values() for n in e.wanted if n in e.records}
    return list(found.values())


def summarize_provenance(evidences: Mapping[str, SetupRuns]) -> ProvenanceSummary:
    runs = runs_of(evidences)
    return ProvenanceSummary(
        wanted=len(wanted_of(evidences)),
        runs=len(runs),
        failed=sum(map(is_failed, runs)),
        diverged=sum(run.status == "diverged" for run in runs),
        stale=sum(map(is_stale, runs)),
        seconds=sum(run.seconds for run in runs),
        facts=tuple(_facts([run.provenance for run in runs])),
    )


def _facts(provenances: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    readers = {
        "machine": lambda p: (
            f"{p.get('processor')}, {p.get('cores')} cores of it, {p.get('platform')}"
        ),
        "device": lambda p: f"{p.get('device')} ({p.get('backend')})",
        "versions": lambda p: ", ".join(f"{n} {v}" for n, v in p.get("versions", {}).items()),
        "Python": lambda p: p.get("python"),
        "git commit": _commit,
        "training version": _version,
        "XLA flags": lambda p: p.get("xla_flags") or "none",
        "mode": lambda p: f"{p.get('mode')}, populations of {p.get('width')}",
        "data sha256": lambda p: str(p.get("data_sha256"))[:16],
        "continued with a change of": lambda p: _changes(p.get("restarts", [])),
        "norm from outside, sha256": lambda p: p["norm.file"][:16] if "norm.file" in p else None,
    }
    for name, read in readers.items():
        counts = Counter(str(told) for p in provenances if (told := read(p)) is not None)
        if counts:
            yield name, "; ".join(_counted(counts))


def _commit(provenance: dict[str, Any]) -> str:
    return f"{provenance.get('git_commit')}{' + changes' if provenance.get('git_dirty') else ''}"


def _changes(restarts: list[dict[str, Any]]) -> str | None:
    """Return what was no longer the same when a run went on from a checkpoint, None for nothing."""
    names = sorted({name for restart in restarts for name in restart["changed"]})
    return f"{', '.join(names)} (not bit-exact)" if names else None


def _version(provenance: dict[str, Any]) -> str:
    version = training_version_of(provenance)
    is_old = version != TRAINING_VERSION
    return f"{version or 'unknown'}{f' (stale: today is {TRAINING_VERSION})' if is_old else ''}"


def _counted(counts: Counter[str]) -> list[str]:
    """Return the values, with their number of runs where they differ; most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [v if len(ordered) == 1 else f"{v} ({k} runs)" for v, k in ordered]


def shared_settings(configs: Iterable[Config]) -> list[tuple[str, str, str]]:
    """Return name, value and reason of every setting on which all runs agree; never the host's."""
    listed = list(configs)
    return [
        (name, str(listed[0][name]), setting.why)
        for name, setting in SETTINGS.items()
        if setting.kind != "execution" and listed and len({str(c[name]) for c in listed}) == 1
    ]


def varied_settings(configs: Iterable[Config]) -> list[tuple[str, str, str]]:
    """Return name, values and reason of every setting on which runs differ; never the host's."""
    listed = list(configs)
    out = []
    for name, setting in SETTINGS.items():
        values = sorted({c[name] for c in listed}, key=lambda v: (str(type(v)), v))
        if setting.kind != "execution" and len(values) > 1:
            shown = ", ".join(map(str, values)) if len(values) <= 12 else _span(values)
            out.append((name, shown, setting.why))
    return out


def _span(values: list[Any]) -> str:
    return f"{values[0]} to {values[-1]}, {len(values)} values"
