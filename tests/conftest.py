"""Settings of the whole test suite: the CPU, a compilation cache, and the tests that are opt-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# JAX reads these when it is first imported, which is after this file; the caller's own values win.
_CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--peers`."""
    parser.addoption("--peers", action="store_true", help="run the tests marked 'peers' too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked `peers` unless `--peers` was given; then a missing library fails."""
    if config.getoption("--peers"):
        return
    skip = pytest.mark.skip(reason="needs other libraries: bash scripts/test.sh --peers")
    for item in items:
        if item.get_closest_marker("peers"):
            item.add_marker(skip)
