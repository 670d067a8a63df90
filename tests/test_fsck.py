"""scripts/fsck.py: every damaged thing gets one line with a way out, and nothing is changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stress.hostile import made_up

from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import BadResultsDirectory
from normlab.runs.fsck import DAMAGE, Finding, examine
from normlab.runs.store import Store

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [resolve({"data.name": "synthetic", "seed": seed}).config for seed in range(6)]
RUNS = {run_id(config): config for config in CONFIGS}
DONE, DIVERGED, LEFT, OTHER, FAILED, FREE = RUNS
AT = f"populations/{population_id([LEFT, OTHER])}"
NEWEST = f"{AT}/checkpoint-0000000020"
CODE = f"norms/{hashlib.sha256(b'1').hexdigest()}.py"
ROW = {"name": "mine", "title": "t", "family": "f", "module": "M", "over": ["C"], "sha256": "x"}


def finish(store: Store, name: str, status: str = "trained") -> None:
    store.run_dir(name).mkdir(exist_ok=True)
    result, curve = made_up(RUNS[name])
    result |= {"status": status, "diverged_at": None if status == "trained" else 7}
    store.finish(name, result, curve)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Results with every state that is no damage: finished, diverged, stopped, failed."""
    store = Store(tmp_path_factory.mktemp("good")).open()
    finish(store, DONE)
    finish(store, DIVERGED, "diverged")
    population = PopulationFolder(store, population_id([LEFT, OTHER]))
    population.form({name: RUNS[name] for name in (LEFT, OTHER)}, {})
    for name in (LEFT, OTHER):
        store.run_dir(name).mkdir()
        store.start_curve(name, [{"step": 10, "accuracy": 0.5}])
    for step in (10, 20):
        population.save(step, {"x": np.zeros(3)}, {"runs": population.runs()})
    store.fail(FAILED, {"attempts": [{"status": "error", "message": "ValueError: \x1b[31mred"}]})
    for folder in ("norms", "studies", f"{AT}.aside"):
        (store.root / folder).mkdir()
    for name in ("studies/mine-quick", "steptimes"):
        files.write_json(store.root / f"{name}.json", {"x": "y"})
    files.write_json(store.root / "norms" / "mine.json", ROW)
    (store.root / CODE).write_bytes(b"1")
    for name in ("notes of mine.txt", ".x.json.7.tmp", f"runs/{DONE}/result.stale.json"):
        (store.root / name).write_text("harmless")
    return store.root


@pytest.fixture
def root(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "results"))


def tree(root: Path) -> dict[str, tuple]:
    """Return all that a change would change: names, kinds, sizes, times, contents."""
    out = {}
    for path in [root, *root.rglob("*")]:
        facts, is_file = path.lstat(), path.is_file() and not path.is_symlink()
        content = path.read_bytes() if is_file else b""
        out[str(path)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, content)
    return out


def flip(*names: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for name in names:
            content = bytearray((root / name).read_bytes())
            content[len(content) // 3] ^= 1
            (root / name).write_bytes(content)

    return plant


def link_out(root: Path) -> None:
    shutil.rmtree(root / "runs" / DONE)
    (root / "runs" / DONE).symlink_to(root.parent)


ALL = [f"{AT}/checkpoint-00000000{step}.json" for step in (10, 20)]
# what is planted -> the kind of the finding, its path and words of its message
CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "record": (
        flip(f"runs/{DONE}/result.json"),
        "damaged",
        f"runs/{DONE}",
        "study.py sets",
    ),
    "curve": (flip(f"runs/{DONE}/curve.jsonl"), "damaged", f"runs/{DONE}", "sha256 mismatch"),
    "copy": (
        lambda root: shutil.copytree(root / "runs" / DONE, root / "runs" / FREE),
        "damaged",
        f"runs/{FREE}",
        f"that of run '{DONE}'",
    ),
    "failure": (flip(f"runs/{FAILED}/failure.json"), "damaged", f"runs/{FAILED}", "move it away"),
    "manifest": (flip(f"{AT}/manifest.json"), "damaged", f"{AT}/manifest.json", "move it away"),
    "arrays": (flip(f"{NEWEST}.safetensors"), "damaged", NEWEST, "sha256 mismatch"),
    "checkpoints": (flip(*ALL), "lost", AT, "no usable checkpoint; --restart begins its 2 runs"),
    "population": (flip(f"{AT}/manifest.json", *ALL), "lost", AT, "nobody knows its runs"),
    "step times": (flip("steptimes.json"), "damaged", "steptimes.json", "move it away"),
    "rule": (flip("studies/mine-quick.json"), "damaged", "studies/mine-quick.json", "move it away"),
    "norm": (flip("norms/mine.json"), "damaged", "norms/mine.json", "move it away"),
    "code": (flip(CODE), "damaged", CODE, "sha256 mismatch"),
    "link": (link_out, "damaged", f"runs/{DONE}", "leads out of"),
    "name": (lambda root: (root / "runs" / "a\nb").mkdir(), "damaged", "runs/a\nb", "no name of"),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_found_and_nothing_is_changed(case, root):
    plant, kind, path, words = CASES[case]
    plant(root)
    before = tree(root.parent)
    found = [finding for finding in examine(root) if finding.kind in DAMAGE]
    assert tree(root.parent) == before
    assert [words in f.message for f in found if (f.kind, f.path) == (kind, path)] == [True], found
    assert all(finding.line().isprintable() for finding in found)


def test_an_older_checkpoint_and_a_held_lock_change_what_is_said(root):
    flip(f"{NEWEST}.safetensors")(root)
    stopped = [finding.message for finding in examine(root) if finding.kind == "stopped"]
    assert stopped == ["2 of 2 runs continue at step 10; the command that began them continues"]
    lock = Store(root).lock(LEFT)
    assert lock is not None
    kinds = {finding.path: finding.kind for finding in examine(root)}
    assert AT not in kinds and kinds[f"runs/{LEFT}"] == "trained now"
    assert kinds[f"runs/{OTHER}"] == "half done" and Store(root).lock(OTHER) is not None
    lock.release()


def test_what_is_unreadable_is_reported_or_refused(root, monkeypatch):
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(BadResultsDirectory, match="no results directory"):
        list(examine(root / "norms"))
    monkeypatch.setattr(os, "listdir", refuse)
    assert [f.message for f in examine(root) if f.path == f"runs/{DONE}"][0].endswith("denied")
    assert len(Finding("damaged", "x" * 999).line()) == 320


def run_fsck(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts" / "fsck.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


def test_the_exit_code_says_whether_something_is_damaged(root, tmp_path):
    whole = run_fsck(f"--results={root}")
    assert whole.returncode == 0 and "| jax" not in whole.stderr
    first, second, *_, last = whole.stdout.splitlines()
    assert first == "runs: 2 finished (1 of them diverged), 1 failed, 2 half done, 0 trained now"
    assert (second, last) == ("populations: 1 stopped", "nothing is damaged or lost")
    assert f"  runs/{FAILED}: error: ValueError: \\x1b[31mred; the next study" in whole.stdout
    for i in range(30):
        (root / "studies" / f"{i}.json").write_text("{}")
    damaged = run_fsck(f"--results={root}")
    assert damaged.returncode == 1 and "Damaged (30):" in damaged.stdout
    assert "  ... and 10 more: --all shows them" in damaged.stdout
    bad = run_fsck(f"--results={tmp_path / 'none'}")
    assert bad.returncode == 2 and "normlab: error[results]: " in bad.stderr and not bad.stdout
