"""What a row of the table of networks says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from normlab.norms.row import Norm
from normlab.settings import Config

Shape = tuple[int, int, int]
"""(H, W, C) of what one norm receives; H = W = 1 in dense layers."""


def no_fields(config: Config) -> dict[str, Any]:
    del config
    return {}


def no_shapes(config: Config, image: Shape) -> list[Shape]:
    del config, image
    return []


@dataclass(frozen=True)
class Model:
    """One network. `fields` and `shapes` raise ValueError, in one line, for a depth or widths that
    make no network."""

    title: str
    module: Any
    """Where the Linen module is found, "package.file:Class"; or the class itself."""
    fields: Callable[[Config], dict[str, Any]] = no_fields
    """fields(config) -> those of the module that not every network has."""
    shapes: Callable[[Config, Shape], list[Shape]] = no_shapes
    """shapes(config, shape of an image) -> what each norm receives."""
    is_convolutional: bool = True
    """Whether an example keeps its shape [H, W, C]; the others take a vector [H * W * C]."""
    options: tuple[str, ...] = ()
    """Settings `model.*` that the network takes; the others are reset to their defaults."""
    has_time: bool = False
    """Whether an input is a sequence [T, D + 1] (normlab/data/sequences.py), or text."""
    kinds: tuple[str, ...] = ("images",)
    """The kinds of data that the network takes (normlab/data/table.py)."""
    act: str = ""
    """The activation where a configuration chooses none."""
    ends_in_global_mean: bool = False
    """Whether a global mean follows the last layer directly."""
    check: Callable[[Config, Norm], None] | None = None
    """check(config, row of the norm) raises ValueError for settings that do not go together."""
