"""Files that are whole or not there, damage that is noticed, names that lead nowhere else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from normlab.runs import files
from normlab.runs.errors import Damaged, StorageError

FACTS: dict[str, Any] = {"step": 3, "loss": [0.1, 1e-300], "name": 'a "b" é', "none": None}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "facts.json"


def test_facts_read_back_as_they_were(path):
    path.write_text("longer than what comes after it" * 10)
    files.write_json(path, FACTS)
    assert files.read_json(path) == FACTS and list(path.parent.iterdir()) == [path]
    assert files.read_json(path)["loss"][0].hex() == (0.1).hex()


def test_every_single_bit_counts(path):
    files.write_json(path, {"step": 3, "lr": 0.1})
    content = path.read_bytes()
    assert len(content) > 80
    for byte in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[byte] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(Damaged) as refusal:
                files.read_json(path)
            assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_every_length_counts(path):
    files.write_json(path, {"step": 3})
    content = path.read_bytes()
    wrong = [content[:length] for length in range(len(content))]
    for text in [*wrong, content + b"\n", content + content, b" " + content]:
        path.write_bytes(text)
        with pytest.raises(Damaged, match="is damaged"):
            files.read_json(path)
    path.write_bytes(content)
    assert files.read_json(path) == {"step": 3}


def sealed(body: bytes) -> bytes:
    return body + b',\n "sha256": "%s"\n}\n' % hashlib.sha256(body + b"\n}").hexdigest().encode()


def test_a_seal_alone_is_not_trusted(path):
    path.write_bytes(sealed(b'{\n "a": 1'))
    assert files.read_json(path) == {"a": 1}
    for body in (b'{\n "a": 1,,', b'[\n "a"', b'{"a": ' + b"[" * 100_000, b'{\n "a": "\xff"'):
        path.write_bytes(sealed(body))
        with pytest.raises(Damaged):
            files.read_json(path)


def test_a_file_that_is_too_long_is_not_read(path, monkeypatch):
    files.write_json(path, FACTS)
    monkeypatch.setattr(files, "LARGEST_JSON", path.stat().st_size)
    assert files.read_json(path) == FACTS
    monkeypatch.setattr(files, "LARGEST_JSON", path.stat().st_size - 1)
    with pytest.raises(Damaged, match="longer than"):
        files.read_json(path)


def test_a_missing_file_is_no_damage_but_a_folder_in_its_place_is(path):
    with pytest.raises(FileNotFoundError):
        files.read_json(path)
    path.mkdir()
    with pytest.raises(Damaged, match="cannot be read"):
        files.read_json(path)


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_refused_write_changes_nothing_and_says_what_to_do(path, monkeypatch, call):
    files.write_atomic(path, "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open" if call == "open" else f"os.{call}", refuse)
    with pytest.raises(StorageError) as refusal:
        files.write_atomic(path, "x" * 12_300)
    monkeypatch.undo()
    told = str(refusal.value)
    assert f"cannot write {str(path)!r} (No space left on device; it needs 12.3 kB, " in told
    assert "are free); " in told and "--results" in told and "\n" not in told
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_leftovers_are_temporary_files_alone(tmp_path):
    for name in (".a.json.7.tmp", ".b.tmp", "c.tmp", ".lock", "a.json"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a.json", "c.tmp"]


@pytest.mark.parametrize("name", ["a", "0f-9_.=A", "x" * 100, "-a", "a..b"])
def test_plain_names_are_names(tmp_path, name):
    assert files.inside(tmp_path, "runs", name) == tmp_path / "runs" / name


BAD_NAMES = ["", ".", "..", ".a", "a/b", "../a", "/etc", "a\n", "a\0b", "a b", "é", "x" * 101]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(StorageError, match="no name of a file") as refusal:
        files.inside(tmp_path, "runs", name)
    assert "\n" not in str(refusal.value)


def test_a_link_may_not_lead_out(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "here").mkdir(parents=True)
    outside.mkdir()
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "within").symlink_to(root / "here")
    assert files.inside(root, "within", "a") == root / "within" / "a"
    for names in (("out",), ("out", "a"), ("up", "outside")):
        with pytest.raises(StorageError, match="leads out of"):
            files.inside(root, *names)
    (tmp_path / "link").symlink_to(root)  # the root itself may be one
    assert files.inside(tmp_path / "link", "here") == tmp_path / "link" / "here"


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:40 / /net rw - nfs4 server:/home rw
23 22 8:2 / /net/scratch rw - xfs /dev/sdb rw
24 21 0:41 / /my\\040disk rw - cifs //server/share rw
25 21 0:42 / /twice rw - ext4 /dev/sdc rw
26 25 0:43 / /twice rw - fuse.sshfs host:/ rw
"""


KINDS = {
    "/": None,
    "/home/results": None,
    "/net": "nfs4",
    "/net/me/results": "nfs4",
    "/net/scratch/results": None,
    "/my disk/results": "cifs",
    "/twice/a": "fuse.sshfs",
    "/network/a": None,
}


@pytest.mark.parametrize(("place", "kind"), KINDS.items())
def test_a_network_file_system_is_known_by_its_kind(tmp_path, monkeypatch, place, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(files, "MOUNTS", mounts)
    assert files.network_file_system(Path(place)) == kind
    mounts.unlink()
    assert files.network_file_system(Path(place)) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (800, "800 B"), (999, "999 B"), (1000, "1 kB"), (12_340, "12.3 kB")]
    + [(3_400_000, "3.4 MB"), (73_100_000_000, "73.1 GB"), (2 * 10**12, "2 TB")],
)
def test_bytes_are_told_as_people_say_them(count, text):
    assert files.size_text(count) == text


def test_what_is_no_plain_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(Damaged, match="no plain file"):
            files.read_bytes(tmp_path / name, 100)
