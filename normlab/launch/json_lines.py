"""How a process talks to its workers: one JSON object a line, without jax.

Requests go to the worker's standard input, its answers leave on its standard output. Text that a
library prints in the worker goes to standard error, so it cannot mix with the answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO


def start_worker(
    module: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str],
    log: Path | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[str]:
    """Start `python -m module` in `folder`, its variables on top of ours. Standard error is
    appended to `log`, or shared with this process."""
    errors = open(log, "ab") if log else None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            env=os.environ | environment,
            cwd=folder,
        )
    finally:
        if errors:
            errors.close()


def send(process: subprocess.Popen[str], request: Mapping[str, Any]) -> None:
    """Write a request. A worker that is gone gets none: the end of its answers says so."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass


def receive(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield the answers of a worker until it is gone."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, "" where none does."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def open_answers() -> TextIO:
    """Return the worker's stream of answers; what is printed from now on goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def answer(answers: TextIO, facts: Mapping[str, Any]) -> None:
    """Write an answer; raises BrokenPipeError where nobody reads them."""
    answers.write(json.dumps(facts) + "\n")
    answers.flush()


def bind_to_core(core: int | None) -> None:
    """Keep this process on one core, where the system can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
