"""The results directory: what counts as done, damage, locks, refusals."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from made_up_runs import PROVENANCE

from normlab.runs.errors import StorageError
from normlab.runs.store import Records, Store
from normlab.settings import defaults

RESULT = {
    "config": defaults(),
    "status": "trained",
    "diverged_at": None,
    "final": {"test_accuracy": 0.9},
    "seconds": 1.5,
    "provenance": PROVENANCE,
}
ROWS = [{"step": 10, "accuracy": 0.5}, {"step": 20, "accuracy": 0.75}]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results").open()


def finish(store: Store, name: str) -> None:
    store.run_dir(name).mkdir()
    store.start_curve(name, ROWS)
    store.start_curve(name)  # drops the old one
    store.append_curve(name, ROWS[:1])
    assert store.live_curve(name) == ROWS[:1]
    store.append_curve(name, ROWS[1:])
    store.finish(name, RESULT, ROWS)


def test_a_finished_run_reads_back_as_it_was(store):
    finish(store, "a")
    record = store.read("a")
    assert (record.run_id, record.status, record.seconds) == ("a", "trained", 1.5)
    assert record.config == defaults()  # widths are a tuple again
    assert record.curve == ROWS and record.final == RESULT["final"]


def test_result_json_is_the_only_done_marker(store):
    folder = store.run_dir("half")
    folder.mkdir()
    store.start_curve("half")
    store.append_curve("half", ROWS)
    (folder / ".lock").touch()
    (folder / ".result.json.123.tmp").write_text("{")
    assert not store.is_done("half") and store.done() == set() and len(Records(store)) == 0
    store.finish("half", RESULT, ROWS)
    assert store.is_done("half") and store.done() == {"half"}
    assert store.read("half").curve == ROWS


def test_records_read_each_run_once_and_only_when_asked(store, monkeypatch):
    finish(store, "a")
    finish(store, "b")
    read: list[str] = []
    original = store.read
    monkeypatch.setattr(store, "read", lambda name: read.append(name) or original(name))
    records = Records(store)
    assert set(records) == {"a", "b"} and len(records) == 2 and "a" in records
    assert read == []
    assert records["a"] is records["a"] and read == ["a"]
    with pytest.raises(KeyError):
        records["c"]


def test_forget_sets_aside_and_deletes_nothing(store):
    finish(store, "a")
    records = Records(store)
    assert records["a"].run_id == "a"
    records.forget("a")
    assert "a" not in records and not store.is_done("a")
    kept = json.loads((store.run_dir("a") / "result.stale.json").read_text())
    assert kept["final"] == RESULT["final"]


def test_a_store_that_is_not_there_has_no_runs_and_a_check_writes_nothing(tmp_path):
    place = Store(tmp_path / "a" / "b")
    place.check()
    assert place.done() == set() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_the_way_is_refused(tmp_path, below):
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    place = Store(blocked / below)
    for use in (place.check, place.open):
        with pytest.raises(StorageError, match="cannot be used.*--results=DIR"):
            use()
    assert blocked.read_text() == "mine" and list(tmp_path.iterdir()) == [blocked]


@pytest.mark.parametrize("part", ["runs", "populations", "studies"])
def test_a_folder_in_it_that_cannot_be_used_is_refused_before_anything_runs(tmp_path, part):
    (tmp_path / part).write_text("somebody else's")
    with pytest.raises(StorageError, match=f"{part}' is not a readable and writable directory"):
        Store(tmp_path).check()


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs setresuid")
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_directory_without_rights_is_refused(mode):
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    folder.chmod(mode)
    root = os.getuid() == 0
    if root:  # whom rights do not stop: be nobody for a moment
        os.setresuid(65534, 65534, 0)
    try:
        for use in (Store(folder / "new").check, Store(folder / "new").open):
            with pytest.raises(StorageError, match="cannot be used.*--results=DIR"):
                use()
    finally:
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o700)
        os.rmdir(folder)  # fails unless it is still empty
