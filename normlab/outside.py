"""Rows from files of your own: run once, from the bytes that are hashed, and kept with results.

Such a file is Python with a table, `NORMS` or `MODELS`. No file is written next to it. It may
import jax, so reading it costs the second that this takes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

Row = TypeVar("Row")
KINDS = {"str": str, "bool": bool, "int": int, "tuple[str, ...]": tuple}


def _are_texts(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, str) for value in values)


@dataclass(frozen=True)
class OutsideRow:
    """What a row of such a file has more: its content is part of a run's identity."""

    file: str = ""
    sha256: str = ""
    code: str = field(default="", repr=False)
    """The content of the file; empty where the row was kept with results, for reports alone."""

    def facts(self) -> dict[str, Any]:
        """Return all that a report needs, for JSON: no code, classes and functions by name."""
        facts = {name: value for name, value in vars(self).items() if name != "code"}
        return json.loads(json.dumps(facts, default=lambda code: getattr(code, "__name__", "")))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """Return a row of `facts()`; raises ValueError or TypeError where it is damaged."""
        types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        functions = {name for name, kind in types.items() if "Callable" in kind}
        known = types.keys() - functions - {"code"}  # which is kept in a file of its own
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in facts.items()
            if name in known
        }
        for name, value in kept.items():
            kind = KINDS.get(types[name])
            if kind and (type(value) is not kind or (kind is tuple and not _are_texts(value))):
                raise ValueError(f"{name} = {value!r:.80} is not of type {types[name]}")
        return cls(**kept)


def run_file(file: str, content: bytes, name: str) -> dict[str, Any]:
    """Run a file as the module `name`, which dataclasses look up among those that are loaded.

    Return its variables; raises whatever its code raises.
    """
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = file
    exec(compile(content, file, "exec"), vars(module))
    return vars(module)


def rows_of(
    kind: str, file: str, row_type: type[Row], sha256: str = ""
) -> tuple[dict[str, Row], OutsideRow]:
    """Return the rows of one file, `NORMS` for the kind "norm", and its facts; raises ValueError.

    `sha256`: what the file must hash to, or it is not run.
    """
    where, table = f"{kind} file {file!r}", f"{kind.upper()}S"
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"{where} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256:
        raise ValueError(f"{where} is not what it was: its sha256 is now {digest}")
    try:
        found = run_file(file, content, f"{kind}s_{digest[:16]}").get(table)
        code = content.decode()
    except (Exception, SystemExit) as error:  # an external file: anything can be wrong
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} cannot be loaded ({told})") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(
            f"{where} has no {table} = {{name: {row_type.__name__}(...)}} with a row in it"
        )
    for name, row in found.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{where}: {name!r} is no name of letters, digits and _")
        if not isinstance(row, row_type):
            raise ValueError(f"{where}: {table}[{name!r}] = {row!r} is not a {row_type.__name__}")
    return found, OutsideRow(str(Path(file).resolve()), digest, code)


def add_rows(
    kind: str,
    table: dict[str, Row],
    files: Sequence[str],
    sha256: Sequence[str],
    read: Callable[[str, str], Mapping[str, Row]],
    check: Callable[[str, Any], None],
) -> list[str]:
    """Add the rows of all files to the table, or none of them; return their names.

    Raises ValueError, one line, for a name that is taken, and what `read` and `check` raise.
    """
    rows: dict[str, Any] = {}
    for i, file in enumerate(files):
        for name, row in read(file, sha256[i] if sha256 else "").items():
            if name in rows or name in table:
                owner = f"of {rows[name].file!r}" if name in rows else "of normlab"
                raise ValueError(
                    f"{kind} file {file!r}: the name {name!r} is taken by a {kind} {owner}; "
                    "give it another one"
                )
            rows[name] = row
    table.update(rows)
    try:
        for name, row in rows.items():
            check(name, row)
    except ValueError:
        for name in rows:
            del table[name]
        raise
    return list(rows)
