"""Settings of the whole test suite: the CPU, a compilation cache, tests of other libraries."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PEERS = ("torch", "keras", "equinox", "haiku")

# The libraries read these when first imported, which is after this file; the caller's values win.
_CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Compilation is most of the time of the suite, and takes a third of what it does by default. The
# programs of the engine have options of their own.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # nobody reads these; a tenth of it
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("KERAS_HOME", str(_CACHE.with_name("keras")))  # not a file in the home


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--peers`."""
    parser.addoption("--peers", action="store_true", help="a missing library fails, not skips")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked `peers("torch", ...)` where one of these libraries (without names: any
    peer) is not installed; with `--peers` they run and fail."""
    if config.getoption("--peers"):
        return
    is_there = cache(lambda name: find_spec(name) is not None)
    for item in items:
        for mark in item.iter_markers("peers"):
            absent = [name for name in mark.args or PEERS if not is_there(name)]
            if absent:
                reason = f"needs {', '.join(absent)}: bash scripts/test.sh --peers"
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Look for unreachable objects less often, and not among the modules and the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def restored(table: dict[str, Any]) -> Iterator[None]:
    before = dict(table)
    yield
    table.clear()
    table.update(before)


@pytest.fixture
def restored_norms() -> Iterator[None]:
    """Leave the table of norms as it was."""
    from normlab.norms.table import NORMS

    yield from restored(NORMS)


@pytest.fixture
def restored_models() -> Iterator[None]:
    """Leave the table of networks as it was."""
    from normlab.models.table import MODELS

    yield from restored(MODELS)


@pytest.fixture
def restored_datasets() -> Iterator[None]:
    """Leave the table of data sets as it was."""
    from normlab.data.table import DATASETS

    yield from restored(DATASETS)


@pytest.fixture
def there(tmp_path: Path) -> Any:
    """The store of a worker on another machine, with its runs."""
    from sent_runs import store_of_worker

    return store_of_worker(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path) -> Any:
    """The store of the command that these runs are sent to."""
    from normlab.runs.store import Store

    return Store(tmp_path / "here").open()
