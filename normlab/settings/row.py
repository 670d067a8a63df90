"""What one setting of a run is: default, class, unit, reason and legal range.

Every setting has one of four classes:

- `static` settings decide which runs may train together.
- `traced` settings are inputs of the compiled program, one value for each member of a population.
- `measurement` settings say when and on what a run is measured.
- `execution` settings say how a run is executed. They change at most the rounding. They are
  recorded with every result, and are no part of a run's identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Class = Literal["static", "traced", "measurement", "execution"]


@dataclass(frozen=True)
class Setting:
    default: Any
    kind: Class
    why: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    is_open: bool = False
    """Whether `low` itself is excluded."""
    choices: tuple[str, ...] = ()
    frozen: Any = None
    """The value left out of the run id: the default on the day the setting was introduced. Give it
    when a default changes, so that old runs keep their ids and new ones get others."""

    @cached_property  # asked for each setting of each run that is planned
    def identity_default(self) -> Any:
        return self.default if self.frozen is None else self.frozen
