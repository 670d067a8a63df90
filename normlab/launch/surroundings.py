"""What the user's surroundings may change here, and what they may not.

Taken from them: devices, cores, XLA_FLAGS, signals. Left out: settings of JAX and of matplotlib,
which would change numbers and figures. Text goes to any terminal.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from types import FrameType

from normlab.shipped import PACKAGES

HARMLESS = (
    "JAX_CHECK_PROXY_ENVS",
    "JAX_COMPILATION_CACHE_",
    "JAX_COORDINATOR_ADDRESS",
    "JAX_DEBUG_LOG_MODULES",
    "JAX_DUMP_IR_",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_EXPLAIN_CACHE_MISSES",
    "JAX_LOG",
    "JAX_NUM_PROCESSES",
    "JAX_PERSISTENT_CACHE_",
    "JAX_PLATFORM",
    "JAX_PROCESS_ID",
    "JAX_TRACEBACK_",
)
"""How the settings of JAX begin that change no number: places, caches, logs and addresses."""
MATPLOTLIB = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
STOPS = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
"""Signals with which schedulers and terminals end a command."""
PLAIN = str.maketrans(
    {"×": "x", "−": "-", "–": "-", "—": "-", "≥": ">=", "≤": "<=", "±": "+-", "→": "->", "·": "."}
    | {"∞": "inf", "∅": "-", "✗": "x", "✓": "v", "○": "o", "●": "*"}
)
"""Characters that have no decomposition in Unicode, and what they are in ASCII."""
Handler = Callable[[int, FrameType | None], object]


def prepare_process() -> list[str]:
    """Make this process independent of its surroundings, before it imports jax or matplotlib.

    Return the names of the settings of JAX that were left out.
    """
    for number in range(3):  # a closed one would be given to the next file
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    print_anything()
    os.environ.update(MATPLOTLIB)
    left_out = sorted(filter(changes_numbers, os.environ))
    for name in left_out:
        del os.environ[name]
    return left_out


def changes_numbers(name: str) -> bool:
    """Return whether a variable is a setting of JAX that may change results."""
    return name.startswith("JAX_") and not name.startswith(HARMLESS)


def print_anything() -> None:
    """Let standard output and errors take every text, whatever their encoding."""
    codecs.register_error("normlab.plain", in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # tests replace them
            stream.reconfigure(errors="normlab.plain")


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return the characters that an encoding lacks in ASCII, × as x and é as e, and their end."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(PLAIN)
    text = unicodedata.normalize("NFKD", text).translate(PLAIN)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return text.encode("ascii", "replace").decode(), error.end


def heed(handler: Handler, names: Sequence[str] = STOPS) -> None:
    """Handle the signals that this system has, except those that are ignored, as by nohup."""
    for name in names:
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def worker_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker: those of this process without what changes numbers, `own`
    on top of them.

    It imports normlab from where this command has it. An empty entry of PYTHONPATH would be the
    working directory, whose files may be named like modules.
    """
    kept = {name: text for name, text in os.environ.items() if not changes_numbers(name)}
    variables = kept | dict(own)
    entries = [str(PACKAGES), *variables.get("PYTHONPATH", "").split(os.pathsep)]
    return variables | {"PYTHONPATH": os.pathsep.join(filter(None, entries))}


@contextlib.contextmanager
def without_accelerator() -> Iterator[None]:
    """Run code from outside on the CPU: an array that it makes must not take memory of an
    accelerator from the workers."""
    platforms = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if platforms is None:
            del os.environ["JAX_PLATFORMS"]
        else:
            os.environ["JAX_PLATFORMS"] = platforms
