"""Files that are whole or not there, and whose damage is noticed.

Every byte that is read back is untrusted: JSON with a checksum and a size limit, names from an
allow-list, and nothing that can run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from normlab.runs.errors import Damaged, StorageError

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=-]{0,99}")
LARGEST_JSON = 256 * 1024**2
"""Bytes; a record has some thousand, a checkpoint's curves some million."""
SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n\Z')
NETWORK = (
    "9p afs beegfs ceph cifs fuse.glusterfs fuse.s3fs fuse.sshfs glusterfs gpfs lustre ncpfs nfs "
    "nfs4 ocfs2 panfs pvfs2 smb3 smbfs"
).split()
MOUNTS = Path("/proc/self/mountinfo")


def inside(root: Path, *names: str) -> Path:
    """Return the path root/names...; raises StorageError for a name that is not plain, and where a
    link leads out of `root`."""
    for name in names:
        if not NAME.fullmatch(name):
            raise StorageError(
                f"{name!r} is no name of a file here: up to 100 of A-Z a-z 0-9 . _ = -, not "
                "beginning with a point"
            )
    path = root.joinpath(*names)
    if not path.resolve().is_relative_to(root.resolve()):
        raise StorageError(f"{str(path)!r} leads out of {str(root)!r}; remove the link")
    return path


def make_folder(root: Path, *names: str) -> Path:
    """Return the folder root/names..., made if need be; raises StorageError as `inside` does."""
    folder = inside(root, *names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that it exists whole or not at all, also when the machine dies.

    Raises StorageError; the file is then as it was before.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # whatever it is, a link perhaps
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the first error is the one to report
        raise unwritable(path, error, len(data)) from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlive a loss of power."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unwritable(path: Path, error: OSError, needed: int = 0) -> StorageError:
    """Return the error that says which file could not be written, why, and what to do."""
    why = error.strerror or str(error)
    try:
        free = shutil.disk_usage(path.parent).free
        why += f"; it needs {size_text(needed)}, {size_text(free)} are free" if needed else ""
    except OSError:
        pass
    return StorageError(
        f"cannot write {str(path)!r} ({why}); free some space or restore its rights, then the "
        "same command continues, or choose another --results"
    )


def size_text(count: int) -> str:
    """Return bytes as people say them: 800 B, 12 kB, 3.4 MB."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}"


def move_aside(path: Path, to: Path) -> None:
    """Rename a file or folder to `to`, or to a like name where that is taken: nothing is lost.
    Raises StorageError."""
    number, free = 1, to
    while os.path.lexists(free):
        number += 1
        free = to.with_name(f"{to.stem}-{number}{to.suffix}")
    try:
        os.replace(path, free)
    except OSError as error:
        raise unwritable(free, error) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that died left in a folder that nobody else writes to now; raises
    StorageError."""
    for path in folder.glob(".*.tmp"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object that is not empty as JSON whose last entry is the checksum of the others."""
    body = json.dumps(value, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    write_atomic(path, f'{body[:-2]},\n "sha256": "{digest}"\n}}\n')


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a file; raises FileNotFoundError, and Damaged where it is longer than
    `limit` bytes or cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
        with open(handle, "rb") as file:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise Damaged(path, "it is no plain file")
            if facts.st_size > limit:
                raise Damaged(path, f"it is longer than {size_text(limit)}")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(path, f"it cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return an object that `write_json` wrote, without the checksum; raises FileNotFoundError, and
    Damaged where a single bit differs."""
    return parse_json(path, read_bytes(path, LARGEST_JSON))


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """Return the object in the content of such a file; raises Damaged, which names `path`."""
    seal = SEAL.search(content)
    if seal is None:
        raise Damaged(path, "it has no checksum at its end")
    body = content[: seal.start()] + b"\n}"
    if hashlib.sha256(body).hexdigest().encode() != seal[1]:
        raise Damaged(path, "sha256 mismatch")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise Damaged(path, "not an object")
    return value


def network_file_system(path: Path) -> str | None:
    """Return the kind of the file system that holds `path` if it is shared over a network, whose
    locks cannot be relied on. Return None for a local one, and where the kind is not known."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    place, best, kind = path.resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape")
        if place.is_relative_to(mount) and len(mount) >= best:
            best, kind = len(mount), after.split()[0]
    return kind if kind in NETWORK else None
