"""Every run and every curve as tables for other programs, also of runs that no study asked for."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from normlab.report.model import StudyReport
from normlab.report.provenance import runs_of
from normlab.report.tables import csv_cell, csv_text
from normlab.runs.errors import Damaged
from normlab.runs.files import write_atomic
from normlab.runs.record import Record, is_stale
from normlab.runs.store import Records
from normlab.settings import SETTINGS

ORIGIN = ("git_commit", "training_version", "processor", "cores", "device", "mode", "width")
"""What runs.csv has of the provenance of a run."""
FIRST = ("train_loss", "loss", "accuracy")
"""The first metrics of curves.csv."""
LARGEST = 8_000_000
"""Bytes of a table above which it is compressed."""


def readable(records: Records) -> Iterator[Record]:
    """Yield all finished runs but damaged ones, which scripts/fsck.py names."""
    for run_id in sorted(records):
        try:
            yield records[run_id]
        except Damaged:
            continue


def runs_csv(reports: Sequence[StudyReport], others: Iterable[Record] = ()) -> str:
    """Return one line for each run: who uses it, every setting, finals, seconds, provenance."""
    used = runs_of(setup for report in reports for setup in report.evidences.values())
    runs = {run.run_id: run for run in (*used, *others)}
    users: dict[str, list[str]] = {}
    for report in reports:
        for name, setup in report.evidences.items():
            for run_id, uses in setup.users.items():
                found = [f"{report.stem}/{name}/{use}" for use in uses]
                users.setdefault(run_id, []).extend(found)
    finals = sorted({name for run in runs.values() for name in run.final})
    columns = ["run", "used_by", *SETTINGS, "status", "diverged_at", *finals, "seconds", "stale"]
    rows = []
    for run_id, run in sorted(runs.items()):
        settings = [run.config.get(name) for name in SETTINGS]
        scores = [run.final.get(name) for name in finals]
        uses = "; ".join(users.get(run_id, ()))
        row = [run_id, uses, *settings, run.status, run.diverged_at, *scores]
        row += [run.seconds, "yes" if is_stale(run) else "no"]
        rows.append([*row, *(run.provenance.get(name) for name in ORIGIN)])
    return csv_text([*columns, *ORIGIN], rows)


def curves_csv(runs: Iterable[Record]) -> str:
    """Return one line for each evaluation of each run: run, step, metrics. What a run does not
    measure, and what is no number, is empty."""
    runs = list(runs)
    names = {name for run in runs for row in run.curve for name in row} - {"step"}
    metrics = [*(n for n in FIRST if n in names), *sorted(names - {*FIRST})]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(csv_cell, ["run", "step", *metrics]))
    for run in runs:
        for row in run.curve:
            writer.writerow([run.run_id, row["step"], *(_number(row, name) for name in metrics)])
    return out.getvalue()


def _number(row: Mapping[str, float], name: str) -> float | str:
    value = row.get(name, math.nan)
    return "" if math.isnan(value) else value


def write_curves(folder: Path, runs: Iterable[Record]) -> Path:
    """Write curves.csv, or curves.csv.gz where it is large, and remove the other one; return it."""
    content = curves_csv(runs).encode()
    plain, packed = folder / "curves.csv", folder / "curves.csv.gz"
    path, stale = (packed, plain) if len(content) > LARGEST else (plain, packed)
    write_atomic(path, gzip.compress(content, 6, mtime=0) if path is packed else content)
    stale.unlink(missing_ok=True)
    return path


def no_longer_there(folder: Path, reports: Sequence[StudyReport]) -> list[str]:
    """Return the studies of the page in a folder that a new page would not have, by the beginning
    of the names of their files."""
    csv.field_size_limit(2**31 - 1)
    try:
        with (folder / "runs.csv").open(newline="", encoding="utf-8") as lines:
            uses = {use for row in csv.DictReader(lines) for use in row["used_by"].split("; ")}
    except (OSError, KeyError, ValueError, AttributeError, csv.Error):
        return []  # there is no page, or nothing that this program wrote
    return sorted({use.partition("/")[0] for use in uses} - {"", *(r.stem for r in reports)})
