"""A finished run, as read back; nothing is believed of it that no run writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from normlab.runs.provenance import missing_facts
from normlab.settings import Config, defaults, from_json
from normlab.training.version import TRAINING_VERSION, training_version_of

LARGEST = 2**53
STATUSES = ("trained", "diverged")


@dataclass(frozen=True)
class Record:
    """A finished run."""

    run_id: str
    config: Config
    status: str
    final: dict[str, float]
    curve: list[dict[str, float]]
    diverged_at: int | None = None
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)


def is_stale(run: Record) -> bool:
    """Return whether another training version than today's made a run, or a part of it."""
    restarts = run.provenance.get("restarts", [])
    is_mixed = any({"code", "training_version"} & set(r["changed"]) for r in restarts)
    return is_mixed or training_version_of(run.provenance) != TRAINING_VERSION


def record_of(run_id: str, result: dict[str, Any], curve: list[Any]) -> Record:
    """Return the record of a result.json and the rows of its curve. Raises ValueError, KeyError or
    TypeError where they are not what a run writes, even with a right checksum."""
    if result["run"] != run_id:
        raise ValueError(f"it is that of run {result['run']!r:.40}")
    config = defaults() | from_json(dict(result["config"]))
    for name, default in defaults().items():
        if type(config[name]) is not type(default):
            raise ValueError(f"{name} = {config[name]!r:.40} in its settings")
    if result["status"] not in STATUSES:
        raise ValueError(f"its status is {result['status']!r:.40}")
    if result["diverged_at"] is not None:
        _check_numbers([result["diverged_at"]])
    _check_numbers([result["seconds"], *dict(result["final"]).values()])
    for row in curve:
        _check_numbers([row["step"], row["accuracy"], *row.values()])
    told = dict(result["provenance"])  # older results lack what was added since
    wrong = [name for name in missing_facts(told) if name in told]
    if wrong:
        raise ValueError(f"{wrong[0]} = {told[wrong[0]]!r:.40} in its provenance")
    if not all(isinstance(r["changed"], dict) for r in told.get("restarts", [])):
        raise ValueError("its restarts do not say what changed")
    known = ("status", "final", "diverged_at", "seconds", "provenance")
    return Record(run_id=run_id, config=config, curve=curve, **{n: result[n] for n in known})


def record_of_files(run_id: str, result: dict[str, Any], curve: bytes) -> Record:
    """Return the record of a result.json and the bytes of its curve. Raises what `record_of` does,
    and ValueError where they do not belong together."""
    if hashlib.sha256(curve).hexdigest() != result["curve_sha256"]:
        raise ValueError("sha256 mismatch of its curve.jsonl")
    return record_of(run_id, result, [json.loads(line) for line in curve.splitlines()])


def _check_numbers(values: list[Any]) -> None:
    for value in values:
        if type(value) is not float and not (type(value) is int and abs(value) < LARGEST):
            raise ValueError(f"{value!r:.40} is no number")
