"""How a process talks to its workers: one JSON object a line, without jax.

Requests go to the worker's standard input, its answers leave on its standard output. Text that a
library prints in the worker goes to standard error, so it cannot mix with the answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TextIO


def start_worker(
    module: str,
    options: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    log: Path | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[str]:
    """Start `python -m module` in `folder`, its variables on top of ours; `open_worker` returns
    the options there. Standard error is appended to `log`, or shared with this process."""
    errors = open(log, "ab") if log else None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
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


def receive(lines: IO[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the answers of a worker, or in a worker the requests, until the other side is gone."""
    assert lines is not None
    for line in lines:
        yield json.loads(line)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, "" where none does."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def open_worker() -> tuple[dict[str, Any], TextIO]:
    """Return this worker's options and its stream of answers. What is printed from now on goes to
    standard error. With the option `core` the process stays on that core, where the system can."""
    options = json.loads(sys.argv[1])
    if options.get("core") is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options["core"]})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return options, answers


def answer(answers: TextIO, facts: Mapping[str, Any]) -> None:
    """Write an answer; raises BrokenPipeError where nobody reads them."""
    answers.write(json.dumps(facts) + "\n")
    answers.flush()
