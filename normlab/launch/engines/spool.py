"""Requests and events as files in a folder that the command and its workers share.

    results/spool/<job>/<i>/in-0002            the second request to worker i of an array of jobs
    results/spool/<job>/<i>/out-0002-000001    the first event of its answer
    results/spool/<job>/<i>/stop               not empty: finish the chunk, save and leave
    results/spool/<job>/<i>.log                what the worker printed

A request or an event is there whole or not at all, and its sha256 is checked. Nothing that they
hold can run. A worker whose folder is gone has nobody left to work for, and leaves.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normlab.runs import files
from normlab.runs.errors import Damaged

FOLDER, STOP = "spool", "stop"
REQUEST = re.compile(r"in-(\d{4,})")
LARGEST = 64 * 1024**3
"""Bytes of a file; checkpoints of large populations have some hundred millions."""
BYTES = " bytes"
"""Key of an object that says how long one content is; no other key begins with a blank."""


def pack(facts: Mapping[str, Any]) -> bytes:
    """Return facts as the content of one file: a checksum, a line of JSON, and then the contents of
    files that are among the facts.

    >>> unpack(pack({"step": 1, "files": {"a": b"01", "b": b""}}))
    {'step': 1, 'files': {'a': b'01', 'b': b''}}
    """
    contents: list[bytes] = []

    def without(value: Any) -> dict[str, int]:
        if not isinstance(value, bytes):
            raise TypeError(f"{type(value).__name__} {value!r} cannot be sent")
        contents.append(value)
        return {BYTES: len(value)}

    line = json.dumps(facts, default=without).encode() + b"\n"
    body = b"".join([line, *contents])
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unpack(content: bytes, path: Path = Path("parcel")) -> dict[str, Any]:
    """Return the facts in the content of a file; raises Damaged, which names `path`."""
    seal, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise Damaged(path, "sha256 mismatch", "train its runs again")
    end = body.index(b"\n") + 1
    place = end

    def within(value: dict[str, Any]) -> Any:
        nonlocal place
        if value.keys() != {BYTES}:
            return value
        begin, place = place, place + value[BYTES]
        return body[begin:place]

    return json.loads(body[:end], object_hook=within)


def read(path: Path) -> dict[str, Any]:
    """Return the facts in a file; raises FileNotFoundError and Damaged."""
    return unpack(files.read_bytes(path, LARGEST), path)


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts; raises StorageError, for one where the folder is gone."""
    files.write_atomic(path, pack(facts))


def request_path(folder: Path, number: int) -> Path:
    return folder / f"in-{number:04d}"


def event_path(folder: Path, number: int, event: int) -> Path:
    return folder / f"out-{number:04d}-{event:06d}"


def first_event(folder: Path, number: int) -> int:
    """Return the number of the first event of an answer that is still there, 1 without one."""
    start = event_path(folder, number, 0).name[:-6]
    return min((int(n[len(start) :]) for n in names_in(folder) if n.startswith(start)), default=1)


def names_in(folder: Path) -> set[str]:
    """Return what is in a folder by now, nothing where it is gone. A network file system notices
    new files when a folder is listed, before it does when they are asked for."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def ask_to_stop(folder: Path) -> None:
    """Ask the worker of a folder to leave. The file was there before, empty. On a network file
    system a new file may be noticed late; one that is opened is up to date."""
    with open(folder / STOP, "ab") as file:
        file.write(b"stop")


def is_asked_to_stop(folder: Path) -> bool:
    try:
        return bool((folder / STOP).read_bytes())
    except OSError:
        return True


def make_box(folder: Path) -> None:
    """Make the folder of a worker."""
    folder.mkdir(parents=True)
    (folder / STOP).touch()
