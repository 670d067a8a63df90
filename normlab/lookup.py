"""Rows found by name, and the nearest name where there is none; paths of this machine."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import TypeVar

Row = TypeVar("Row")


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "; did you mean 'x'?" for the one of `names` nearest to `name`, or an empty string.

    >>> did_you_mean("bach", ["batch", "layer"])
    "; did you mean 'batch'?"
    """
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def find_row(kind: str, table: Mapping[str, Row], name: str, hint: str = "") -> Row:
    """Return table[name]; raises ValueError with `hint` or the nearest name, and the whole list."""
    if name not in table:
        hint = hint or did_you_mean(name, table)
        raise ValueError(f"unknown {kind} {name!r}{hint} ({kind}s: {', '.join(table)})")
    return table[name]


def local_path(text: str) -> str:
    """Return a path of this machine with ~ as the home directory.

    Raises ValueError for an empty one, an address like gs://bucket/x, and an unknown home.

    >>> local_path("results/a")
    'results/a'
    """
    path = os.path.expanduser(text)
    if not text:
        raise ValueError("an empty path; leave the flag out, or give . for this folder")
    if "://" in text:
        raise ValueError(f"{text!r} is an address; give a path of this machine")
    if path.startswith("~"):
        raise ValueError(f"{text!r}: there is no such home directory; give the whole path")
    return path
