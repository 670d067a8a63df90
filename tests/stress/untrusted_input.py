"""Forged files, links and names in a results directory, given to all that reads or writes it.

Nothing planted may run (it would make a canary). Nothing outside the results may change. What is
printed may do nothing. A reader either answers or refuses in one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jinja2
import numpy as np
from matplotlib.figure import Figure

from normlab.data import DATASETS, DataError, load, outside_data
from normlab.launch import sweep
from normlab.launch.batching import stopped_populations
from normlab.norms import outside
from normlab.norms.table import NORMS
from normlab.report import html, tables
from normlab.report.model import collect
from normlab.report.write import write_report
from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder, unfinished
from normlab.runs.errors import LabError
from normlab.runs.fsck import examine
from normlab.runs.kept_data import recall_data
from normlab.runs.kept_rows import recall_rows
from normlab.runs.store import Record, Store
from normlab.studies import rules
from normlab.studies.planning import ConfigCache
from normlab.studies.study import load_study
from stress.campaign import Report, Workspace, report
from stress.hostile import Target, made_up
from stress.output_escaping import printed

Found = list[str]
ENVIRONMENT, READ_NORMS = jinja2.Environment, outside.read_norms
SAVE_FIGURE = Figure.savefig


def end_of(act: Callable[[], object]) -> Found:
    """Return what is wrong with how an act ends: nothing for an answer or a refusal in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            act()
    except LabError as error:
        text = str(error)
        is_line = "\n" not in text and len(text) < 1000
        return [] if is_line else [f"a refusal of {len(text)} characters, not one line"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"[:200]]
    return []


def save_no_pdf(drawing: Figure, file: Any, **options: Any) -> None:
    """Draw a figure for its page alone: the PDF costs more and draws the same. What is printed with
    hostile texts has both."""
    if options["format"] != "pdf":
        SAVE_FIGURE(drawing, file, **options)


def save_nothing(drawing: Figure, file: Any, **options: Any) -> None:
    """Leave a figure empty, where only the texts of a page are broken."""
    file.write(b"<svg></svg>" if options["format"] == "svg" else b"")


def read_populations(store: Store) -> None:
    names = {name for folder in unfinished(store) for name in folder.runs_if_known()}
    stopped_populations(store, names)
    for folder in unfinished(store):
        folder.newest(lambda message: None)


def read_data_sets(store: Store) -> None:
    """Read what is kept of data from outside; its refusals are errors of data."""
    recall_data(store.root)
    for name in outside_data():
        with contextlib.suppress(DataError):
            load(name)


def readers(target: Target, place: str, content: bytes) -> Found:
    """Plant a file and return what is wrong with how each reader takes it."""
    store = target.renew()
    target.plant(place, content)

    def plan() -> None:
        job = sweep.Job([target.study], "quick", store)
        job.prepare()
        job.missing()

    def write_page() -> None:
        cache = ConfigCache(needs_data=False)
        with patch.object(Figure, "savefig", save_no_pdf):
            write_report(store, collect(store, [target.study], "quick", cache))

    acts: dict[str, Callable[[], object]] = {
        "Store.read": lambda: store.read(target.run),
        "recall_rows": lambda: recall_rows(store.root),
        "recall_data": lambda: read_data_sets(store),
        "started_studies": lambda: rules.started_studies(store),
        "fsck": lambda: list(examine(store.root)),
        "populations": lambda: read_populations(store),
        "plan": plan,
    }
    if not place.startswith("populations/"):  # where no report looks
        acts["report"] = write_page
    wrong = [f"{name}: {line}" for name, act in acts.items() for line in end_of(act)]
    return wrong + target.escaped()


def writers(target: Target, store: Store) -> list[Callable[[], object]]:
    """Return what commands write into a results directory."""
    rows, arrays = [{"step": 10, "accuracy": 0.5}], {"x": np.zeros(3)}
    result, curve = made_up(target.config)
    return [
        store.open,
        lambda: sweep.Job([target.study], "quick", store).write_rules(),
        lambda: store.lock(target.run),
        lambda: store.start_curve(target.run, rows),
        lambda: store.append_curve(target.run, rows),
        lambda: store.fail(target.run, {"attempts": []}),
        lambda: store.finish(target.run, result, curve),
        lambda: PopulationFolder(store, target.population).form(target.left, {}),
        lambda: PopulationFolder(store, target.population).save(30, arrays, {"runs": target.left}),
        lambda: files.write_json(store.root / "steptimes.json", {"x": 1}),
        lambda: write_report(store, []),
    ]


def links(target: Target, place: str) -> Found:
    """Plant a link that leads out and return what was written through it."""
    store, path = target.renew(), target.root / place
    is_file = path.suffix or path.name in (".lock", "unfinished")
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target.outside / "file" if is_file else target.outside)
    NORMS["planted"], DATASETS["planted"] = target.row, target.data
    wrong = [line for act in writers(target, store) for line in end_of(act)]
    return [*wrong, *target.escaped()]


def link_places(target: Target) -> list[str]:
    run, population = f"runs/{target.run}", f"populations/{target.population}"
    places = [f"{run}/{name}" for name in ("result.json", "curve.jsonl", "failure.json", ".lock")]
    places += [f"{population}/manifest.json", f"{population}/unfinished", "report/index.html"]
    places += [
        "data",
        "data/planted.npz",
        "steptimes.json",
        f".steptimes.json.{os.getpid()}.tmp",
        target.norm,
    ]
    return [*places, "runs", "populations", "norms", "studies", "report", run, population]


def code(target: Target) -> Found:
    """Return which code in the results runs. It lies in a file that a started study names, in a
    norm's file that was changed, or in a row."""
    store, wrong = target.renew(), []
    (store.root / "evil.py").write_text(f"STUDY = None\n{target.code}")
    for stem in ("evil.py-quick", "evil-quick"):
        facts = {"file": str(store.root / "evil.py"), "written": "x"}
        facts |= {"file_sha256": rules.sha256_of(facts["file"])}
        files.write_json(store.root / "studies" / f"{stem}.json", facts)
    with contextlib.chdir(store.root):
        wrong += end_of(lambda: rules.started_studies(store))
    changed = store.root / target.norm
    changed.write_text(f"{target.code}  # changed")
    with contextlib.suppress(ValueError):
        outside.add_norms([str(changed)], [changed.stem])
        wrong.append("a norm's file that was changed is loaded")
    for digest in (target.row.sha256, "../../escaped"):
        NORMS.pop("planted", None)
        kept = store.root / "norms" / "planted.json"
        files.write_json(kept, files.read_json(kept) | {"code": target.code, "sha256": digest})
        wrong += end_of(lambda: recall_rows(store.root))
        wrong += [f"the row of {name} has its code" for name in outside.outside_norms()]
        wrong += end_of(store.open)
    return [*wrong, *target.escaped()]


# Mutants: code that is broken on purpose.


def _unescaped(**options: Any) -> jinja2.Environment:
    environment = ENVIRONMENT(**options)
    environment.autoescape = False
    return environment


def _follow_names(root: Path, *names: str) -> Path:
    return root.joinpath(*names)


def _read_unchecked(store: Store, name: str) -> Record:
    kept = json.loads((store.root / "runs" / name / "result.json").read_text())
    return Record(name, kept["config"], kept["status"], kept["final"], [])


def _start_named_files(store: Store) -> list[Any]:
    notes = sorted((store.root / "studies").glob("*.json"))
    return [load_study(files.read_json(path)["file"]) for path in notes]


def _read_norms_unhashed(file: str, sha256: str = "") -> dict[str, outside.OutsideNorm]:
    return READ_NORMS(file)


def mutants(target: Target) -> dict[str, tuple[tuple[Any, str, Any], Callable[[], Found], str]]:
    """Return name -> what is replaced, the check that must see it, and a word of what it says."""
    pages, run_code = partial(printed, target), partial(code, target)
    forged = partial(readers, target, target.places[0], b'{"config": 3}')
    linked = partial(links, target, f"runs/{target.run}")
    return {
        "an unescaped page": ((html, "Environment", _unescaped), pages, ".html"),
        "unescaped CSV": ((tables, "csv_cell", tables.cell_text), pages, ".csv"),
        "unescaped LaTeX": ((tables, "latex_text", str), pages, ".tex"),
        "unescaped Markdown": ((tables, "markdown_text", str), pages, ".md"),
        "followed links": ((files, "inside", _follow_names), linked, "outside: "),
        "unchecked records": ((Store, "read", _read_unchecked), forged, "KeyError"),
        "a study by its file": ((rules, "started_studies", _start_named_files), run_code, "canary"),
        "unhashed norms": ((outside, "read_norms", _read_norms_unhashed), run_code, "canary"),
    }


def run(workspace: Workspace) -> Report:
    """Plant all of it; a failure names what was planted and what happened."""
    norms, data, missed = dict(NORMS), dict(DATASETS), []
    try:
        target = Target(workspace.folder / "here")
        plants, places = target.plants(), link_places(target)
        if not workspace.is_long:
            chosen = workspace.generator("plants").sample(list(plants), 40)
            plants = {label: plants[label] for label in chosen}
        checks = {label: partial(readers, target, *plant) for label, plant in plants.items()}
        checks |= {f"a link at {place}": partial(links, target, place) for place in places}
        checks["code"] = partial(code, target)
        checks["printed"] = partial(printed, target, has_figures=True)
        failures = [f"{label}: {line}" for label, check in checks.items() for line in check()]
        broken = mutants(target)
        for name, (replaced, check, words) in broken.items():
            with patch.object(*replaced), patch.object(Figure, "savefig", save_nothing):
                if not any(words in line for line in check()):
                    missed.append(name)
    finally:
        NORMS.clear()
        NORMS.update(norms)
        DATASETS.clear()
        DATASETS.update(data)
    figures = {"files planted": len(plants), "links planted": len(places)}
    return report(figures, failures, missed, broken)
