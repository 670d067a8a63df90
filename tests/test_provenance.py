"""What every result tells of where it comes from: complete or not written, honest or unknown."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stress.hostile import made_up

from normlab.runs import provenance
from normlab.runs.config import resolve, run_id
from normlab.runs.provenance import (
    DECIDES_BITS,
    SCHEMA,
    changed_facts,
    git_facts,
    host_facts,
    missing_facts,
)
from normlab.runs.store import Store

CONFIG = resolve({"norm.name": "group", "model.widths": (64, 32), "optim.lr": 0.3}).config
RESULT, CURVE = made_up(CONFIG)
WHOLE = RESULT["provenance"]
OF_A_TYPE: dict[type, Any] = {
    str: "x",
    bool: True,
    int: 3,
    float: 0.5,
    dict: {"a": 1},
    list: ["a"],
    type(None): None,
}


def wrong_values(name: str) -> list[Any]:
    """Values of all the types that a fact may not have; a bool is no number."""
    return [value for kind, value in OF_A_TYPE.items() if kind not in SCHEMA[name]]


def test_a_whole_provenance_lacks_nothing():
    assert missing_facts(WHOLE) == [] and missing_facts(WHOLE | {"norm.file": "x"}) == []
    assert missing_facts({}) == list(SCHEMA)


@pytest.mark.parametrize("name", SCHEMA)
def test_a_fact_that_is_missing_or_of_another_type_is_noticed(name):
    lacking = {n: fact for n, fact in WHOLE.items() if n != name}
    assert missing_facts(lacking) == [name]
    wrong = wrong_values(name)
    assert len(wrong) >= 5
    for value in wrong:
        assert missing_facts(WHOLE | {name: value}) == [name], value
    for kind in SCHEMA[name]:
        assert missing_facts(WHOLE | {name: OF_A_TYPE[kind]}) == []


def test_a_result_whose_provenance_is_not_whole_is_refused_and_nothing_written(tmp_path):
    store, name = Store(tmp_path).open(), run_id(CONFIG)
    store.run_dir(name).mkdir()
    store.start_curve(name, CURVE[:1])
    before = (store.run_dir(name) / "curve.jsonl").read_bytes()
    for fact in SCHEMA:
        lacking = {n: value for n, value in WHOLE.items() if n != fact}
        with pytest.raises(ValueError, match=f"provenance of run {name} lacks {fact}$"):
            store.finish(name, RESULT | {"provenance": lacking}, CURVE)
    assert [path.name for path in store.run_dir(name).iterdir()] == ["curve.jsonl"]
    assert (store.run_dir(name) / "curve.jsonl").read_bytes() == before
    store.finish(name, RESULT, CURVE)
    assert store.read(name).provenance == WHOLE


def test_the_facts_of_this_host_are_of_their_types_and_can_be_kept():
    facts = host_facts()
    assert not set(facts) - set(SCHEMA)
    assert not set(missing_facts(facts)) & set(facts)
    assert json.loads(json.dumps(facts)) == facts


# the commit of the code


def place_code(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Let the code seem to stand in `folder`; return its file there."""
    file = folder / "normlab" / "lab" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(file))
    monkeypatch.setattr(provenance, "ROOT", file.resolve().parents[2])
    return file


def facts_now() -> dict[str, Any]:
    """The facts, asked anew."""
    return git_facts.__wrapped__()


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    run = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def commit_all(folder: Path) -> None:
    git(folder, "init")
    git(folder, "add", "theirs.py" if (folder / "theirs.py").exists() else ".")
    git(folder, "commit", "-m", "x")


NEEDS_GIT = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
UNKNOWN = {"git_commit": "unknown", "git_dirty": None}


@NEEDS_GIT
def test_a_wheel_or_a_machine_without_git_is_of_an_unknown_commit(monkeypatch, tmp_path):
    place_code(monkeypatch, tmp_path / ".venv" / "site-packages")
    assert facts_now() == UNKNOWN
    (tmp_path / "theirs.py").write_text("1")
    commit_all(tmp_path)  # somebody else's repository
    assert facts_now() == UNKNOWN
    assert missing_facts(WHOLE | UNKNOWN) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts_now() == UNKNOWN


@NEEDS_GIT
def test_a_change_of_the_code_makes_it_dirty(monkeypatch, tmp_path):
    file = place_code(monkeypatch, tmp_path)
    commit_all(tmp_path)
    clean = {"git_commit": git(tmp_path, "rev-parse", "--short=12", "HEAD"), "git_dirty": False}
    assert facts_now() == clean
    (tmp_path / "notes.txt").write_text("mine")
    assert facts_now() == clean
    file.write_text("2")
    assert facts_now() == clean | {"git_dirty": True}


@NEEDS_GIT
def test_a_repository_of_another_user_is_read_and_one_that_cannot_be_is_named(
    monkeypatch, tmp_path
):
    file = place_code(monkeypatch, tmp_path)
    commit_all(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert facts_now()["git_commit"] != "unknown"
    monkeypatch.setattr(provenance, "git_facts", lambda: UNKNOWN)
    assert any("commit of the code is unknown" in doubt for doubt in Store(tmp_path).doubts())
    shutil.rmtree(tmp_path / ".git")
    assert file.exists() and Store(tmp_path).doubts() == []


def test_what_changes_numbers_on_accelerators_is_kept_with_the_flags_of_xla(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a")
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert host_facts()["xla_flags"] == "--a"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert host_facts()["xla_flags"] == "--a NVIDIA_TF32_OVERRIDE=0"


# what decides bits


@pytest.mark.parametrize("name", SCHEMA)
def test_only_what_decides_bits_counts_as_changed(name):
    after = WHOLE | {name: "another"}
    told = {name: [WHOLE[name], "another"]} if name in DECIDES_BITS else {}
    assert changed_facts(WHOLE, after) == told and changed_facts(WHOLE, dict(WHOLE)) == {}


def test_a_fact_that_was_not_kept_before_counts_as_changed():
    assert set(DECIDES_BITS) <= set(SCHEMA)
    before = {name: fact for name, fact in WHOLE.items() if name != "processor"}
    assert changed_facts(before, WHOLE) == {"processor": [None, WHOLE["processor"]]}
