"""Norms from outside the repository: the rows of an external file join the table.

The file is Python with `NORMS = {"my_norm": Norm(...)}` and the Linen classes that its rows name;
docs/your_own_norm.md shows one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normlab.norms.table import NORMS, Norm
from normlab.outside import OutsideRow, add_rows, rows_of
from normlab.settings import SETTINGS

LETTERS = ("N", "H", "W", "C", "C/G")


@dataclass(frozen=True)
class OutsideNorm(OutsideRow, Norm):
    """A row of an external file, and that file."""

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> OutsideNorm:
        row = super().from_facts(facts)
        if not set(row.over) <= set(LETTERS) or row.equals not in ("", *NORMS):
            raise ValueError("its over or its equals is not known")
        return row


def outside_norms() -> dict[str, OutsideNorm]:
    """Return the rows of the table that came from outside and can train."""
    return {n: row for n, row in NORMS.items() if isinstance(row, OutsideNorm) and row.code}


def add_norms(files: Sequence[str], sha256: Sequence[str] = ()) -> list[str]:
    """Add the rows of all `files` to the table, or none of them; return their names.

    `sha256`: what the files must hash to, or they are not run. Raises ValueError, one line, for a
    file that cannot be read or run, and for one without rows. It is raised too for a name that is
    taken and a row that cannot be built.
    """
    return add_rows("norm", NORMS, files, sha256, read_norms, _check)


def read_norms(file: str, sha256: str = "") -> dict[str, OutsideNorm]:
    """Return the rows of one file, not yet in the table; raises ValueError."""
    found, own = rows_of("norm", file, Norm, sha256)
    return {name: OutsideNorm(**vars(row) | vars(own)) for name, row in found.items()}


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
