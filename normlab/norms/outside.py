"""Norms from outside the repository: the rows of an external file join the table.

The file is Python with `NORMS = {"my_norm": Norm(...)}` and the Linen classes that its rows name;
docs/your_own_norm.md shows one. It is run once, from the bytes that are hashed, and no file is
written next to it. It may import jax, so reading it costs the second that this takes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normlab.lookup import run_file
from normlab.norms.table import NORMS, Norm
from normlab.settings import SETTINGS

LETTERS = ("N", "H", "W", "C", "C/G")
KINDS = {"str": str, "bool": bool, "int": int, "tuple[str, ...]": tuple}


def _are_texts(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, str) for value in values)


@dataclass(frozen=True)
class OutsideNorm(Norm):
    """A row of an external file, and that file: its content is part of a run's identity."""

    file: str = ""
    sha256: str = ""
    code: str = dataclasses.field(default="", repr=False)
    """The content of the file; empty where the row was kept with results, for reports alone."""

    def facts(self) -> dict[str, Any]:
        """Return all that a report needs, for JSON: no code, classes and functions by name."""
        facts = {name: value for name, value in vars(self).items() if name != "code"}
        return json.loads(json.dumps(facts, default=lambda code: getattr(code, "__name__", "")))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> OutsideNorm:
        """Return a row of `facts()`; raises ValueError or TypeError where it is damaged."""
        types = {f.name: f.type for f in dataclasses.fields(cls)}
        known = types.keys() - {"code"}  # which is kept in a file of its own
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in facts.items()
            if name in known
        }
        for name, value in kept.items():
            kind = KINDS.get(str(types[name]))
            if kind and (type(value) is not kind or (kind is tuple and not _are_texts(value))):
                raise ValueError(f"{name} = {value!r:.80} is not of type {types[name]}")
        if not set(kept["over"]) <= set(LETTERS) or kept.get("equals", "") not in ("", *NORMS):
            raise ValueError("its over or its equals is not known")
        return cls(**kept)


def outside_norms() -> dict[str, OutsideNorm]:
    """Return the rows of the table that came from outside and can train."""
    return {n: row for n, row in NORMS.items() if isinstance(row, OutsideNorm) and row.code}


def add_norms(files: Sequence[str], sha256: Sequence[str] = ()) -> list[str]:
    """Add the rows of all `files` to the table, or none of them; return their names.

    `sha256`: what the files must hash to, or they are not run. Raises ValueError, one line, for a
    file that cannot be read or run, and for one without rows. It is raised too for a name that is
    taken and a row that cannot be built.
    """
    rows: dict[str, OutsideNorm] = {}
    for i, file in enumerate(files):
        for name, row in read_norms(file, sha256[i] if sha256 else "").items():
            if name in rows or name in NORMS:
                owner = f"of {rows[name].file!r}" if name in rows else "of normlab"
                raise ValueError(
                    f"norm file {file!r}: the name {name!r} is taken by a norm {owner}; "
                    "give it another one"
                )
            rows[name] = row
    NORMS.update(rows)
    try:
        for name, row in rows.items():
            _check(name, row)
    except ValueError:
        for name in rows:
            del NORMS[name]
        raise
    return list(rows)


def read_norms(file: str, sha256: str = "") -> dict[str, OutsideNorm]:
    """Return the rows of one file, not yet in the table; raises ValueError."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"norm file {file!r} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and digest != sha256:
        raise ValueError(f"norm file {file!r} is not what it was: its sha256 is now {digest}")
    try:
        found = run_file(file, content, f"norms_{digest[:16]}").get("NORMS")
        code = content.decode()
    except (Exception, SystemExit) as error:  # an external file: anything can be wrong
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"norm file {file!r} cannot be loaded ({told})") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f"norm file {file!r} has no NORMS = {{name: Norm(...)}} with a row in it")
    for name, row in found.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"norm file {file!r}: {name!r} is no name of letters, digits and _")
        if not isinstance(row, Norm):
            raise ValueError(f"norm file {file!r}: NORMS[{name!r}] = {row!r} is not a Norm")
    place = str(Path(file).resolve())
    return {
        name: OutsideNorm(**vars(row), file=place, sha256=digest, code=code)
        for name, row in found.items()
    }


def _check(name: str, row: OutsideNorm) -> None:
    """Raise ValueError where a row could not be resolved or built."""
    from normlab.norms.builder import build, module_of

    where = f"norm file {row.file!r}: {name!r}"
    for letter in row.over:
        if letter not in LETTERS:
            raise ValueError(f"{where}: over = {row.over!r} has {letter!r}, not of {LETTERS}")
    for option in row.options:
        if f"norm.{option}" not in SETTINGS:
            known = ", ".join(n.removeprefix("norm.") for n in SETTINGS if n.startswith("norm."))
            raise ValueError(f"{where}: there is no option {option!r} (options: {known})")
    if row.equals and row.equals not in NORMS:
        raise ValueError(f"{where}: equals = {row.equals!r} is no norm")
    try:
        build(name, **{o: SETTINGS[f"norm.{o}"].default for o in row.options}).norm(name=name)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} cannot be built ({told})") from error
    _check_call(where, row, module_of(row.module))


def _check_call(where: str, row: OutsideNorm, module: Any) -> None:
    """Raise ValueError where networks could not call a module."""
    if not row.takes_masks and not row.is_per_sample:
        raise ValueError(
            f"{where}: takes_masks=False with 'N' in over = {row.over!r}: statistics over "
            "examples leave padding out, so __call__ must take mask"
        )
    given = {"train": True} | ({"mask": None} if row.takes_masks else {})
    if not isinstance(module, type):
        return  # a function that makes modules: their class is known once it is called
    signature = inspect.signature(module.__call__)
    try:
        signature.bind("self", "x", **given)
    except TypeError as error:
        way = "add it with a default, or derive from normlab.norms.Scheme"
        if row.takes_masks and row.is_per_sample:
            way += "; takes_masks=False in the row leaves mask out"
        raise ValueError(
            f"{where}: {module.__name__}.__call__({', '.join(signature.parameters)}) cannot be "
            f"called as (x, {', '.join(f'{n}={v}' for n, v in given.items())}), as networks do "
            f"({error}); {way}"
        ) from error
