"""Readers and printers that are broken on purpose: a campaign must notice each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from normlab.launch import sweep
from normlab.norms import outside
from normlab.report import tables
from normlab.runs import files
from normlab.runs.store import Record, Store
from normlab.studies.study import load_study

READERS = {
    "pickle": "import pickle; pickle.loads(data)",
    "yaml": "import yaml; yaml.unsafe_load(data)",
    "npy": "import io, numpy; numpy.load(io.BytesIO(data), allow_pickle=True)",
}
"""Payload -> a program that runs it by reading it."""
SOURCES = (
    "import pickle",
    "from pickle import loads",
    "import yaml\nyaml.load(x)",
    "numpy.load(x, allow_pickle=True)",
    "eval(x)",
    "builtins.exec(x)",
    "__import__(x)",
    "subprocess.run(x, shell=True)",
)
"""Each of them has something that must not stand in the package."""


def unescaped(**options: Any) -> jinja2.Environment:
    environment = ENVIRONMENT(**options)
    environment.autoescape = False
    return environment


def follow_names(root: Path, *names: str) -> Path:
    return root.joinpath(*names)


def read_unchecked(store: Store, name: str) -> Record:
    kept = json.loads((store.root / "runs" / name / "result.json").read_text())
    return Record(name, kept["config"], kept["status"], kept["final"], [])


def start_named_files(store: Store) -> list[Any]:
    """Load each started study from the file that its note names."""
    notes = sorted((store.root / "studies").glob("*.json"))
    return [load_study(files.read_json(path)["file"]) for path in notes]


def read_norms_unhashed(file: str, sha256: str = "") -> dict[str, outside.OutsideNorm]:
    return READ_NORMS(file)


ENVIRONMENT, READ_NORMS = jinja2.Environment, outside.read_norms
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "a page that escapes nothing": (jinja2, "Environment", unescaped),
    "CSV as it comes": (tables, "csv_cell", tables.cell_text),
    "LaTeX as it comes": (tables, "latex_text", str),
    "Markdown as it comes": (tables, "markdown_text", str),
    "names without a check": (files, "inside", follow_names),
    "links that are followed": (files, "inside", follow_names),
    "records as they come": (Store, "read", read_unchecked),
    "a study by the file it names": (sweep, "started_studies", start_named_files),
    "norms without their hash": (outside, "read_norms", read_norms_unhashed),
}
"""What is broken -> the object, the name in it and what stands there instead."""
