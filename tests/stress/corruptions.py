"""What may happen to the bytes of files: flipped bits; cut, missing and exchanged files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Injury(NamedTuple):
    told: str
    harm: Callable[[Path], object]
    """Is given the results directory."""


def flip(name: str, byte: int, bit: int) -> Injury:
    def harm(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[byte] ^= 1 << bit
        (root / name).write_bytes(content)

    return Injury(f"bit {bit} of byte {byte} of {name} flipped", harm)


def cut(name: str, tenths: int) -> Injury:
    def harm(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) * tenths // 10])

    return Injury(f"{name} cut to {tenths} tenths", harm)


def lengthen(name: str) -> Injury:
    def harm(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes() + b"\n")

    return Injury(f"{name} longer by an empty line", harm)


def delete(name: str) -> Injury:
    return Injury(f"{name} deleted", lambda root: (root / name).unlink())


def exchange(*pairs: tuple[str, str]) -> Injury:
    def harm(root: Path) -> None:
        for one, two in pairs:
            first, second = (root / one).read_bytes(), (root / two).read_bytes()
            (root / one).write_bytes(second)
            (root / two).write_bytes(first)

    return Injury(f"exchanged: {', '.join(f'{one} and {two}' for one, two in pairs)}", harm)


def both(*injuries: Injury) -> Injury:
    def harm(root: Path) -> None:
        for injury in injuries:
            injury.harm(root)

    return Injury("; ".join(injury.told for injury in injuries), harm)


def injuries_of(root: Path, name: str, dice: random.Random, flips: int, cuts: int) -> list[Injury]:
    """Return one file deleted, longer, cut to `cuts` lengths with 0 among them, and with each of
    `flips` bits flipped, every fourth of them in its first 200 bytes, where headers are."""
    size = (root / name).stat().st_size
    places = [dice.randrange(min(200, size) if i % 4 == 0 else size) for i in range(flips)]
    out = [flip(name, place, dice.randrange(8)) for place in places]
    out += [cut(name, tenths) for tenths in [0, *dice.sample(range(1, 10), cuts - 1)]]
    return [*out, lengthen(name), delete(name)]
