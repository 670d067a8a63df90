"""Malice: files and names planted in a results directory and given to whatever reads or writes it.

Nothing planted may run (a canary would stand beside the results), nothing outside the results may
change, what is printed may do nothing, and a reader either answers or refuses in one line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from normlab.launch import sweep
from normlab.launch.batching import stopped_groups
from normlab.norms.outside import add_norms, outside_norms
from normlab.norms.table import NORMS
from normlab.report.report import collect, write_report
from normlab.runs import files as disk
from normlab.runs.checkpoints import PopulationFolder, unfinished
from normlab.runs.errors import LabError
from normlab.runs.fsck import examine
from normlab.runs.store import Store
from normlab.studies import study as study_module
from normlab.studies.planning import ConfigCache
from normlab.studies.study import ROOT, Study, load_study
from stress.campaign import Report, Workspace
from stress.naive_readers import FAULTS, READERS, SOURCES
from stress.output_escaping import PACKAGE, banned, banned_in, printed
from stress.workspace_files import BAD_NAMES, Ground, made_up

Found = list[str]


@contextlib.contextmanager
def kept_norms() -> Iterator[None]:
    """Leave the table of norms as it was."""
    before = dict(NORMS)
    try:
        yield
    finally:
        NORMS.clear()
        NORMS.update(before)


def end_of(deed: Callable[[], object]) -> Found:
    """Return what is wrong with how a deed ends: nothing for an answer or a refusal in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            deed()
    except LabError as error:
        text = str(error)
        is_line = "\n" not in text and len(text) < 1000
        return [] if is_line else [f"a refusal of {len(text)} characters, not one line"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"[:200]]
    return []


def report(store: Store, study: Study) -> Path:
    return write_report(store, collect(store, [study], "quick", ConfigCache(needs_data=False)))


def names_of_all(store: Store) -> set[str]:
    return {name for folder in unfinished(store) for name in folder.runs_if_known()}


def look_at_populations(store: Store) -> None:
    for folder in unfinished(store):
        folder.runs_if_known()
        folder.newest(lambda message: None)


def plan(store: Store, study: Study) -> None:
    job = sweep.Job([study], "quick", store)
    job.prepare()
    job.missing()


def readers(ground: Ground, place: str, content: bytes) -> Found:
    """Plant a file and return what is wrong with how each reader takes it."""
    store = ground.renew()
    ground.plant(place, content)
    deeds: dict[str, Callable[[], object]] = {
        "Store.read": lambda: store.read(ground.run),
        "recall_norms": store.recall_norms,
        "started_studies": lambda: sweep.started_studies(store),
        "fsck": lambda: list(examine(store.root)),
        "stopped_groups": lambda: stopped_groups(store, names_of_all(store)),
        "report": lambda: report(store, ground.study),
        "newest": lambda: look_at_populations(store),
        "plan": lambda: plan(store, ground.study),
    }
    if place.startswith("populations/"):
        del deeds["report"]  # which never looks there
    wrong = [f"{reader}: {told}" for reader, deed in deeds.items() for told in end_of(deed)]
    return [*wrong, *ground.escaped()]


def names(ground: Ground) -> Found:
    """Return the names that are no plain names and are taken nevertheless."""
    store, wrong = ground.renew(), []
    file = str(ROOT / "configs" / "base.py")  # any file: what it holds is put in its place

    def named(**changed: Any) -> None:
        with patch.object(study_module, "load_module") as module:
            module.return_value.STUDY = replace(ground.study, **changed)
            load_study(file)

    setup = ground.study.setups["quick"][0]
    uses: dict[str, Callable[[str], object]] = {
        "run": store.run_dir,
        "population": lambda name: PopulationFolder(store, name),
        "study": lambda name: named(name=name),
        "setup": lambda name: named(setups={"quick": (replace(setup, name=name),)}),
    }
    for what, use in uses.items():
        for name in BAD_NAMES:
            try:
                use(name)
                wrong.append(f"{what} {name[:20]!r} is taken")
            except LabError:
                pass
            except Exception as error:
                wrong.append(f"{what} {name[:20]!r}: {type(error).__name__}: {error}")
    return wrong


def writers(ground: Ground, store: Store) -> Iterator[Callable[[], object]]:
    """Yield what commands write into a results directory."""
    rows = [{"step": 10, "accuracy": 0.5}]
    result, curve = made_up(ground.config)
    arrays = {"x": np.zeros(3)}
    yield store.open
    yield lambda: sweep.Job([ground.study], "quick", store).write_rules()
    yield lambda: store.lock(ground.run)
    yield lambda: store.start_curve(ground.run, rows)
    yield lambda: store.append_curve(ground.run, rows)
    yield lambda: store.fail(ground.run, {"attempts": []})
    yield lambda: store.finish(ground.run, result, curve)
    yield lambda: PopulationFolder(store, ground.population).form(ground.left, {})
    yield lambda: PopulationFolder(store, ground.population).save(30, arrays, {"runs": ground.left})
    yield lambda: disk.write_json(store.root / "steptimes.json", {"x": 1})
    yield lambda: report(store, ground.study)


def links(ground: Ground, place: str) -> Found:
    """Plant a link that leads out and return what was written through it."""
    store, path = ground.renew(), ground.root / place
    is_file = path.suffix or path.name == ".lock"
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(ground.outside / "file" if is_file else ground.outside)
    NORMS["planted"] = ground.row
    foreign = [told for deed in writers(ground, store) for told in end_of(deed)]
    return [*foreign, *ground.escaped()]


def link_places(ground: Ground) -> Found:
    run, population = f"runs/{ground.run}", f"populations/{ground.population}"
    files = [f"{run}/{name}" for name in ("result.json", "curve.jsonl", "failure.json", ".lock")]
    files += [f"{population}/manifest.json", f"{population}/unfinished", "report/index.html"]
    files += ["steptimes.json", f".steptimes.json.{os.getpid()}.tmp", ground.norm]
    rooms = ["runs", "populations", "norms", "studies", "report", "report/tables"]
    return [*files, *rooms, run, population]


def dead_code(ground: Ground) -> Found:
    """Return which code that lies in the results runs: a file that a started study names, a norm's
    file that was changed, a row that brings its own code."""
    store, wrong = ground.renew(), []
    (store.root / "evil.py").write_text(ground.code)
    facts = {"file": str(store.root / "evil.py"), "rule_hash": "x", "written": "x"}
    for stem in ("evil.py-quick", "evil-quick"):
        disk.write_json(store.root / "studies" / f"{stem}.json", facts)
    with contextlib.chdir(store.root):
        wrong += end_of(lambda: sweep.started_studies(store))
    wrong += [f"a started study: {told}" for told in ground.escaped()]
    changed = store.root / ground.norm
    changed.write_text(f"{ground.code}  # changed")
    with contextlib.suppress(ValueError):
        add_norms([str(changed)], [changed.stem])
        wrong.append("a norm's file that was changed is loaded")
    for sha256 in (ground.sha256, "../../escaped"):
        NORMS.pop("planted", None)
        kept = store.root / "norms" / "planted.json"
        disk.write_json(kept, disk.read_json(kept) | {"code": ground.code, "sha256": sha256})
        wrong += end_of(store.recall_norms)
        wrong += [f"the row of {name} brings its code along" for name in outside_norms()]
        wrong += end_of(store.open)
    return [*wrong, *ground.escaped()]


def changed_norm_in_worker(ground: Ground) -> Found:
    """Give a worker a norm's file that was changed and return what it did."""
    store = ground.renew()
    changed = store.root / ground.norm
    changed.write_text(f"{ground.code}  # changed")
    flags = [f"--results={store.root}", f"--norms={changed}"]
    run = subprocess.run(
        [sys.executable, "-m", "normlab.launch.worker", *flags], input=b"", capture_output=True
    )
    return [*([] if run.returncode else ["a worker takes a changed norm"]), *ground.escaped()]


def scripts(ground: Ground, place: str, content: bytes) -> Found:
    """Plant a file, run the command lines and return what is wrong with how they end."""
    store, wrong = ground.renew(), []
    ground.plant(place, content)
    study = ground.folder.parent / "planted.py"
    study.write_text("from stress.workspace_files import planted_study\nSTUDY = planted_study('x')")
    lines = {"report": [f"--study={study}"], "study": [f"--study={study}", "--dry_run"], "fsck": []}
    for name, flags in lines.items():
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *flags]
        command.append(f"--results={store.root}")
        run = subprocess.run(command, cwd=store.root, capture_output=True, text=True, timeout=120)
        is_line = len(run.stderr.splitlines()) <= 1 and "internal" not in run.stderr
        if run.returncode not in (0, 1, 2, 7) or not is_line:
            wrong.append(f"scripts/{name}.py left with {run.returncode}: {run.stderr[-200:]}")
    return [*wrong, *ground.escaped()]


def canary_of(ground: Ground, payload: str) -> bool:
    """Tell whether a payload runs where a gullible reader reads it."""
    ground.renew()
    program = f"import sys; data = sys.stdin.buffer.read(); {READERS[payload]}"
    data = ground.payloads()[payload]
    subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, timeout=60)
    return bool(ground.escaped())


def faults(ground: Ground) -> dict[str, bool]:
    """Return for each planted fault of the code whether the checks see it."""
    broken = ground.places[0], b'{"config": 3}'
    checks: dict[str, tuple[Callable[[], Found], str]] = {
        "a page that escapes nothing": (lambda: printed(ground), ".html"),
        "CSV as it comes": (lambda: printed(ground), ".csv"),
        "LaTeX as it comes": (lambda: printed(ground), ".tex"),
        "Markdown as it comes": (lambda: printed(ground), ".md"),
        "names without a check": (lambda: names(ground), "'../x' is taken"),
        "links that are followed": (lambda: links(ground, f"runs/{ground.run}"), "outside: "),
        "records as they come": (lambda: readers(ground, *broken), "KeyError"),
        "a study by the file it names": (lambda: dead_code(ground), "canary"),
        "norms without their hash": (lambda: dead_code(ground), "canary"),
    }
    seen = {f"a reader of {payload}": canary_of(ground, payload) for payload in READERS}
    seen |= {f"source {source!r}": any(banned(source)) for source in SOURCES}
    for what, (place, name, fault) in FAULTS.items():
        check, words = checks[what]
        with patch.object(place, name, fault):
            seen[what] = any(words in line for line in check())
    return seen


def chosen_plants(ground: Ground, desk: Workspace) -> dict[str, tuple[str, bytes]]:
    """Return what is planted this time: all files of other kinds and some of the forged ones."""
    plants, dice = ground.plants(), desk.dice("plants")
    labels = [label for label in plants if " = " not in label]
    labels = labels if desk.is_long else dice.sample(labels, 20)
    for place in ground.places:
        forged = [n for n, plant in plants.items() if " = " in n and plant[0] == place]
        labels += dice.sample(forged, min(len(forged), 200 if desk.is_long else 4))
    return {label: plants[label] for label in labels}


def malice(desk: Workspace) -> Report:
    """Plant all of it; a failure names what was planted and what came of it."""
    failures: Found = []
    with kept_norms():
        ground = Ground(desk.folder / "here")
        plants = chosen_plants(ground, desk)
        for i, (label, plant) in enumerate(plants.items(), 1):
            failures += [f"{label}: {told}" for told in readers(ground, *plant)]
            if i % 100 == 0:
                desk.tell(f"malice: {i} of {len(plants)} files planted")
        places = link_places(ground)
        for place in places:
            failures += [f"a link at {place}: {told}" for told in links(ground, place)]
        failures += names(ground) + dead_code(ground)
        failures += changed_norm_in_worker(ground) if desk.is_long else []
        active = printed(ground, has_figures=True)
        whole = {label: plants[label] for label in list(plants)[:: 40 if desk.is_long else 60]}
        for label, plant in whole.items():
            failures += [f"{label}: {told}" for told in scripts(ground, *plant)]
        calls = banned_in(PACKAGE)
        seen = faults(ground)
    failures += [f"printed: {told}" for told in active] + [f"source: {told}" for told in calls]
    failures += [f"not noticed: {what}" for what, is_seen in seen.items() if not is_seen]
    figures = {
        "files planted": len(plants),
        "links planted": len(places),
        "names tried": 4 * len(BAD_NAMES),
        "commands run": 3 * len(whole),
        "canaries executed": sum("canary" in told for told in failures),
        "files outside the results": sum("outside: " in told for told in failures),
        "active parts printed": len(active),
        "calls that run what is read": len(calls),
        "planted faults caught": f"{sum(seen.values())} of {len(seen)}",
    }
    goal = "nothing planted runs, nothing outside changes, every refusal is one line"
    return Report("Malicious files and names", goal, figures, failures)
