"""Where the runs of a report come from: machines, versions, code, settings, and how many failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from normlab.runs.record import Record, is_stale
from normlab.settings import SETTINGS, Config
from normlab.studies.metrics import is_failed
from normlab.studies.planning import SetupRuns
from normlab.training.version import TRAINING_VERSION, training_version_of

LONGEST_LIST = 12
"""Values of a setting that are listed; of more, the first and the last."""
SettingLine = tuple[str, str, str]
"""Name, value or values, and why they are what they are."""


@dataclass(frozen=True)
class ProvenanceSummary:
    """Facts about the runs of one or several setups."""

    wanted: int
    runs: int
    failed: int
    diverged: int
    stale: int
    """Runs that another training version than today's made."""
    seconds: float
    newest: str
    """The day of the newest run."""
    facts: dict[str, str]
    """What -> which values and in how many runs."""


def runs_of(setups: Iterable[SetupRuns]) -> list[Record]:
    """Return the finished runs that the setups need, each once."""
    return list({n: s.records[n] for s in setups for n in s.wanted if n in s.records}.values())


def summarize_provenance(setups: Iterable[SetupRuns]) -> ProvenanceSummary:
    setups = list(setups)
    runs = runs_of(setups)
    return ProvenanceSummary(
        wanted=len({n for s in setups for n in s.wanted}),
        runs=len(runs),
        failed=sum(map(is_failed, runs)),
        diverged=sum(run.status == "diverged" for run in runs),
        stale=sum(map(is_stale, runs)),
        seconds=sum(run.seconds for run in runs),
        newest=max((str(run.provenance.get("ended", "")) for run in runs), default="")[:10],
        facts=dict(_facts([run.provenance for run in runs])),
    )


def _facts(provenances: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    readers = {
        "machine": lambda p: (
            f"{p.get('processor')}, {p.get('cores')} cores of it, {p.get('platform')}"
        ),
        "device": lambda p: f"{p.get('device')} ({p.get('backend')})",
        "versions": lambda p: ", ".join(f"{n} {v}" for n, v in p.get("versions", {}).items()),
        "Python": lambda p: p.get("python"),
        "git commit": lambda p: (
            f"{p.get('git_commit')}{' + changes' if p.get('git_dirty') else ''}"
        ),
        "training version": _version,
        "XLA flags": lambda p: p.get("xla_flags") or "none",
        "mode": lambda p: f"{p.get('mode')}, populations of {p.get('width')}",
        "data sha256": lambda p: str(p.get("data_sha256"))[:16],
        "continued with a change of": lambda p: _changes(p.get("restarts", [])),
        "norm from outside, sha256": lambda p: p["norm.file"][:16] if "norm.file" in p else None,
    }
    for name, read in readers.items():
        counts = Counter(str(value) for p in provenances if (value := read(p)) is not None)
        if counts:
            yield name, "; ".join(_counted(counts))


def _changes(restarts: list[dict[str, Any]]) -> str | None:
    """Return what differed when a run continued from a checkpoint; None for nothing."""
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


def listed_settings(configs: Sequence[Config]) -> dict[str, list[SettingLine]]:
    """Return heading -> settings on which the runs differ, and those that they share; settings
    that only say how runs are carried out are left out."""
    varied: list[SettingLine] = []
    shared: list[SettingLine] = []
    for name, setting in SETTINGS.items():
        values = sorted({c[name] for c in configs}, key=lambda v: (str(type(v)), v))
        if setting.kind != "execution" and values:
            lines = shared if len(values) == 1 else varied
            lines.append((name, _values_text(values), setting.why))
    return {"Settings that differ between runs": varied, "Settings that all runs share": shared}


def _values_text(values: list[Any]) -> str:
    if len(values) <= LONGEST_LIST:
        return ", ".join(map(str, values))
    return f"{values[0]} to {values[-1]}, {len(values)} values"
