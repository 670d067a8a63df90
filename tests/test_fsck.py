"""scripts/fsck.py: every kind of finding, told with a way out, and nothing changed by the look."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stress.workspace_files import made_up

from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import BadResultsDirectory
from normlab.runs.fsck import DAMAGE, Examination
from normlab.runs.store import Store
from normlab.settings import Config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [resolve({"data.name": "synthetic", "seed": seed}).config for seed in range(6)]
RUNS = {run_id(config): config for config in CONFIGS}
DONE, DIVERGED, LEFT, OTHER, FAILED, FREE = RUNS
POPULATION = population_id([LEFT, OTHER])
AT = f"populations/{POPULATION}"
ROW = {"title": "t", "family": "f", "module": "M", "over": ["C"], "file": "mine.py"}

pytestmark = pytest.mark.usefixtures("restored_norms")


def finish(store: Store, name: str, config: Config, status: str = "trained") -> None:
    store.run_dir(name).mkdir(exist_ok=True)
    (store.run_dir(name) / ".lock").touch()
    result, curve = made_up(config)
    result |= {"status": status, "diverged_at": None if status == "trained" else 7}
    store.finish(name, result, curve)


def begin(store: Store, *names: str) -> PopulationFolder:
    folder = PopulationFolder(store, population_id(names))
    folder.form({name: RUNS[name] for name in names}, {})
    for name in names:
        store.run_dir(name).mkdir(exist_ok=True)
        store.start_curve(name, [{"step": 10, "accuracy": 0.5}])
    return folder


def save(folder: PopulationFolder, *steps: int) -> None:
    for step in steps:
        folder.save(step, {"x": np.zeros(3)}, {"runs": folder.runs()})


def flip(path: Path, at: int = 40) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Results with every state that is no damage: finished, diverged, stopped, failed."""
    store = Store(tmp_path_factory.mktemp("good")).open()
    finish(store, DONE, RUNS[DONE])
    finish(store, DIVERGED, RUNS[DIVERGED], "diverged")
    save(begin(store, LEFT, OTHER), 10, 20)
    store.fail(FAILED, {"attempts": [{"status": "error", "message": "ValueError: \x1b[31mred"}]})
    for folder in ("norms", "studies", "report"):
        (store.root / folder).mkdir()
    files.write_json(store.root / "studies" / "mine-quick.json", {"written": "x"})
    files.write_json(store.root / "steptimes.json", {"x": {}})
    files.write_json(store.root / "norms" / "mine.json", ROW | {"sha256": "x"})
    (store.root / "norms" / f"{hashlib.sha256(b'1').hexdigest()}.py").write_bytes(b"1")
    (store.root / "report" / "index.html").write_text("x")
    return store.root


@pytest.fixture
def root(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "results"))


def findings(root: Path) -> dict[tuple[str, str], str]:
    return {(f.kind, f.path): f.told for f in Examination(root).findings}


def tree(root: Path) -> dict[str, tuple]:
    """Return all that a change would change: names, kinds, sizes, times, contents."""
    out = {}
    for path in [root, *root.rglob("*")]:
        facts = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        content = path.read_bytes() if is_file and facts.st_mode & 0o400 else b""
        out[str(path)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, content)
    return out


def edit(path: Path, **changed: object) -> None:
    files.write_json(path, files.read_json(path) | changed)


def without_fact(root: Path) -> None:
    path = root / "runs" / DONE / "result.json"
    origin = files.read_json(path)["provenance"]
    edit(path, provenance={name: fact for name, fact in origin.items() if name != "cores"})


def other_settings(root: Path) -> None:
    path = root / "runs" / DONE / "result.json"
    edit(path, config=files.read_json(path)["config"] | {"optim.lr": 0.3})


def bad_names(root: Path) -> None:
    edit(root / AT / "manifest.json", runs={"../x": RUNS[LEFT]})


def finish_population(root: Path) -> None:
    for name in (LEFT, OTHER):
        finish(Store(root), name, RUNS[name])


def unnamed_population(root: Path) -> None:
    shutil.rmtree(root / AT)
    (root / AT).mkdir()


def no_checkpoint(root: Path) -> None:
    shutil.rmtree(root / AT)
    begin(Store(root), LEFT, OTHER)


def link(root: Path, path: str, target: str | Path) -> None:
    if (root / path).is_dir():
        shutil.rmtree(root / path)
    (root / path).unlink(missing_ok=True)
    (root / path).symlink_to(target)


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


JSON, ARRAYS = f"{AT}/checkpoint-0000000020.json", f"{AT}/checkpoint-0000000020.safetensors"
# what is planted, the finding's kind and path, words of what is told
CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "record": (
        lambda r: flip(r / "runs" / DONE / "result.json"),
        "damaged",
        f"runs/{DONE}/result.json",
        "sha256 mismatch; the next study repeats it",
    ),
    "curve": (lambda r: flip(r / "runs" / DONE / "curve.jsonl"), "damaged", f"runs/{DONE}", "sha"),
    "no curve": (
        lambda r: (r / "runs" / DONE / "curve.jsonl").unlink(),
        "damaged",
        f"runs/{DONE}",
        "the next study repeats it",
    ),
    "deep curve": (
        lambda r: plant_curve(r, b"[" * 100_000),
        "damaged",
        f"runs/{DONE}",
        "RecursionError",
    ),
    "provenance": (without_fact, "provenance", f"runs/{DONE}", "cores missing"),
    "settings": (other_settings, "misnamed", f"runs/{DONE}", "it holds run"),
    "copied": (
        lambda r: shutil.copytree(r / "runs" / DONE, r / "runs" / FREE),
        "misnamed",
        f"runs/{FREE}",
        f"it holds run {DONE}",
    ),
    "twice": (
        lambda r: shutil.copytree(r / "runs" / DONE, r / "runs" / FREE),
        "duplicate",
        f"runs/{FREE}",
        f"keep the folder {DONE}",
    ),
    "failure": (
        lambda r: flip(r / "runs" / FAILED / "failure.json"),
        "damaged",
        f"runs/{FAILED}/failure.json",
        "tried again",
    ),
    "manifest": (
        lambda r: flip(r / AT / "manifest.json"),
        "damaged",
        f"{AT}/manifest.json",
        "only checkpoints name its runs",
    ),
    "newest checkpoint": (lambda r: flip(r / JSON), "damaged", JSON[:-5], "sha256 mismatch"),
    "its arrays": (lambda r: flip(r / ARRAYS), "damaged", JSON[:-5], "sha256 mismatch; unused"),
    "all checkpoints": (
        lambda r: [flip(path) for path in (r / AT).glob("*.safetensors")],
        "lost",
        AT,
        "2 damaged checkpoints, none can be used; --restart begins its 2 runs again",
    ),
    "nobody knows its runs": (
        lambda r: [flip(path) for path in (r / AT).glob("*.json")],
        "lost",
        AT,
        "move it away",
    ),
    "a run is gone": (
        lambda r: shutil.rmtree(r / "runs" / LEFT),
        "lost",
        AT,
        f"run {LEFT} has no folder",
    ),
    "other members": (
        lambda r: edit(r / AT / "manifest.json", runs={LEFT: RUNS[LEFT]}),
        "misnamed",
        AT,
        "of another population",
    ),
    "members of other settings": (
        lambda r: edit(r / AT / "manifest.json", runs={LEFT: RUNS[LEFT], OTHER: RUNS[LEFT]}),
        "misnamed",
        AT,
        f"run {OTHER} has other settings",
    ),
    "bad names": (bad_names, "name", AT, "names a run '../x'"),
    "step times": (
        lambda r: flip(r / "steptimes.json", 2),
        "damaged",
        "steptimes.json",
        "measured again",
    ),
    "rule": (
        lambda r: flip(r / "studies" / "mine-quick.json", 3),
        "damaged",
        "studies/mine-quick.json",
        "the date of its study's rule",
    ),
    "norm": (
        lambda r: flip(r / "norms" / "mine.json", 3),
        "damaged",
        "norms/mine.json",
        "--norms=FILE",
    ),
    "norm's row": (
        lambda r: files.write_json(r / "norms" / "mine.json", {"title": "t"}),
        "damaged",
        "norms/mine.json",
        "Error: ",
    ),
    "norm's code": (
        lambda r: write(r / "norms" / f"{hashlib.sha256(b'1').hexdigest()}.py"),
        "damaged",
        f"norms/{hashlib.sha256(b'1').hexdigest()}.py",
        "no worker runs it",
    ),
    "link out": (
        lambda r: link(r, f"runs/{DONE}", r.parent),
        "link",
        f"runs/{DONE}",
        "leads out",
    ),
    "file link out": (
        lambda r: link(r, f"runs/{DONE}/curve.jsonl", "/etc/hosts"),
        "link",
        f"runs/{DONE}/curve.jsonl",
        "leads out",
    ),
    "runs elsewhere": (lambda r: link(r, "populations", r.parent), "link", "populations", "out"),
    "fifo": (
        lambda r: os.mkfifo(r / "runs" / FREE),
        "link",
        f"runs/{FREE}",
        "neither file nor folder",
    ),
    "name": (lambda r: (r / "runs" / "a\nb").mkdir(), "name", "runs/a\\nb", "no command sees it"),
}
HARMLESS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "stopped": (lambda r: None, "stopped", AT, "2 of 2 runs go on at step 20"),
    "a run that stopped": (
        lambda r: None,
        "half",
        f"runs/{LEFT}",
        f"goes on at step 20 from population {POPULATION}",
    ),
    "failed": (
        lambda r: None,
        "failed",
        f"runs/{FAILED}",
        "error: ValueError: \\x1b[31mred (1 attempts; the next one begins again)",
    ),
    "begins again": (no_checkpoint, "half", f"runs/{LEFT}", "begins again"),
    "finished": (finish_population, "leftover", AT, "its runs are finished"),
    "unnamed": (unnamed_population, "unknown", AT, "nobody knows its runs"),
    "tmp": (
        lambda r: write(r / "runs" / DONE / ".result.json.77.tmp"),
        "leftover",
        f"runs/{DONE}/.result.json.77.tmp",
        "remove it",
    ),
    "tmp of a report": (
        lambda r: write(r / "report" / ".index.html.7.tmp"),
        "leftover",
        "report/.index.html.7.tmp",
        "remove it",
    ),
    "stale": (
        lambda r: write(r / "runs" / DONE / "result.stale.json"),
        "kept",
        f"runs/{DONE}/result.stale.json",
        "may be removed",
    ),
    "corrupt": (
        lambda r: write(r / f"{JSON}.corrupt"),
        "kept",
        f"{JSON}.corrupt",
        "may be removed",
    ),
    "aside": (lambda r: (r / f"{AT}.aside").mkdir(), "kept", f"{AT}.aside", "may be removed"),
    "again": (lambda r: (r / f"{AT}-2.aside").mkdir(), "kept", f"{AT}-2.aside", "may be removed"),
    "file": (lambda r: write(r / "runs" / "notes.txt"), "unknown", "runs/notes.txt", "nobody"),
    "file of a run": (
        lambda r: write(r / "runs" / DONE / "evil.pkl"),
        "unknown",
        f"runs/{DONE}/evil.pkl",
        "nobody",
    ),
    "folder": (lambda r: (r / "mine").mkdir(), "unknown", "mine", "a folder"),
    "population": (lambda r: (r / "populations" / "x").mkdir(), "unknown", "populations/x", "body"),
    "link": (lambda r: link(r, "runs/x", DONE), "unknown", "runs/x", "a link"),
}


def plant_curve(root: Path, curve: bytes) -> None:
    folder = root / "runs" / DONE
    (folder / "curve.jsonl").write_bytes(curve)
    edit(folder / "result.json", curve_sha256=hashlib.sha256(curve).hexdigest())


@pytest.mark.parametrize("case", [*CASES, *HARMLESS])
def test_it_is_found_and_nothing_is_changed(case, root):
    plant, kind, path, words = (CASES | HARMLESS)[case]
    plant(root)
    before = tree(root.parent)
    found = findings(root)
    assert tree(root.parent) == before
    assert words in found.get((kind, path), ""), found
    assert (kind in DAMAGE) == (case in CASES)
    if case not in CASES:
        assert not {kind for kind, _ in found} & set(DAMAGE), found
    assert all(line.isprintable() for key in found for line in (*key, found[key]))


def test_what_there_is_is_counted(root):
    found = Examination(root)
    assert found.is_whole and {f.kind for f in found.findings} == {"stopped", "half", "failed"}
    assert found.counts == {
        "finished": 2,
        "diverged": 1,
        "stopped": 2,
        "failed": 1,
        "populations": 1,
        "locks free": 2,
    }


def test_an_older_checkpoint_is_where_it_goes_on(root):
    flip(root / ARRAYS)
    found = findings(root)
    assert "go on at step 10, 1 damaged checkpoints" in found["stopped", AT]
    assert "at step 10 from" in found["half", f"runs/{LEFT}"]


def test_a_run_that_is_trained_now_is_told_from_one_that_stopped(root):
    lock = Store(root).lock(LEFT)
    assert lock is not None
    before = tree(root)
    found = Examination(root)
    assert tree(root) == before
    told = {f.path: f.told for f in found.findings if f.kind == "half"}
    assert told == {f"runs/{LEFT}": "is being trained now", f"runs/{OTHER}": told[f"runs/{OTHER}"]}
    assert found.counts["locks held"] == 1 and found.counts["populations trained now"] == 1
    assert Store(root).lock(DONE) is not None  # the look let go
    lock.release()


def test_norms_from_outside_are_recalled_or_left_unchecked(root):
    row = OutsideNorm(title="t", family="f", module="M", over=("C",), sha256="1" * 64)
    NORMS["mine"] = row
    config = resolve(CONFIGS[0] | {"norm.name": "mine"}).config
    name = run_id(config)
    finish(Store(root), name, config)
    del NORMS["mine"]
    files.write_json(root / "norms" / "mine.json", row.facts())
    assert not [path for _, path in findings(root) if name in path]
    del NORMS["mine"]
    files.write_json(root / "norms" / "mine.json", row.facts() | {"sha256": "2" * 64})
    assert "earlier version" in findings(root)["note", f"runs/{name}"]
    del NORMS["mine"]
    (root / "norms" / "mine.json").unlink()
    assert "unknown norm 'mine'" in findings(root)["note", f"runs/{name}"]


def test_a_population_of_a_norm_that_is_not_known_is_told(root):
    config = CONFIGS[0] | {"norm.name": "mine"}
    folder = PopulationFolder(Store(root), population_id([FREE]))
    folder.form({FREE: config}, {})
    Store(root).run_dir(FREE).mkdir()
    (root / "norms" / "mine.json").unlink()
    path = f"populations/{folder.name}"
    assert "unknown norm 'mine'" in findings(root)["note", path]
    NORMS["mine"] = OutsideNorm(title="t", family="f", module="M", over=("C",), sha256="1" * 64)
    assert f"run {FREE} has other settings" in findings(root)["note", path]


def test_a_folder_without_rights_is_told(root, monkeypatch):
    def refuse(folder: Path):
        if folder.name == DONE:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    told = findings(root)["damaged", f"runs/{DONE}"]
    assert told == "cannot be read (Permission denied); give it rights"


@pytest.mark.parametrize("path", ["", "none", "file"])
def test_what_is_no_results_directory_is_refused(path, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadResultsDirectory, match="no results directory"):
        Examination(tmp_path / path)


def run_fsck(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "fsck.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


def test_the_command_tells_by_its_exit_code(root, tmp_path):
    whole = run_fsck(f"--results={root}")
    assert whole.returncode == 0 and "| jax" not in whole.stderr
    first, second, third, *rest = whole.stdout.splitlines()
    runs = "2 finished (1 of them diverged), 0 damaged, 2 stopped, 1 failed, 0 trained now"
    assert first == f"runs: {runs}, 0 never begun"
    assert second == "populations: 1, 1 of them stopped, 0 trained now"
    assert third == "locks: 0 held, 2 free" and rest[-1] == "nothing is damaged or lost"
    for i in range(30):
        write(root / "runs" / f"notes {i:02d}.txt")
    flip(root / "runs" / DONE / "result.json")
    before = tree(root)
    damaged = run_fsck(f"--results={root}")
    assert tree(root) == before
    assert damaged.returncode == 1 and "Damaged (1):" in damaged.stdout
    assert f"\n  runs/{DONE}/result.json: sha256 mismatch; the next" in damaged.stdout
    assert "  ... and 10 more: --all shows them" in damaged.stdout
    assert "runs: 1 finished" in damaged.stdout and " 1 damaged, " in damaged.stdout
    bad = run_fsck(f"--results={tmp_path / 'none'}")
    assert bad.returncode == 2 and "normlab: error[results]: " in bad.stderr and not bad.stdout


def test_thousands_of_runs_take_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda *_: None)
    store = Store(tmp_path).open()
    result, curve = made_up(CONFIGS[0])
    for seed in range(400):
        config = CONFIGS[0] | {"seed": seed}
        name = run_id(config)
        origin = result["provenance"] | {"config_sha256": name.ljust(64, "0")}
        store.run_dir(name).mkdir()
        (store.run_dir(name) / ".lock").touch()
        store.finish(name, result | {"config": config, "provenance": origin}, curve)
    began = time.process_time()
    found = Examination(tmp_path)
    assert time.process_time() - began < 2  # 0.3 s
    assert found.counts["finished"] == 400 and not found.findings
