"""normlab: what normalization layers really do to training, with error bars.

Nothing heavy is imported here. docs/architecture.md lists the rooms in the order in which they may
import one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normlab.version import VERSION as __version__

if TYPE_CHECKING:
    from normlab.api import load_runs, run, study

__all__ = ["__version__", "load_runs", "run", "study"]


def __getattr__(name: str) -> Any:
    """Import the functions for notebooks when they are first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'normlab' has no attribute {name!r}")
    from normlab import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
