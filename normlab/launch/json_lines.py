"""How a process talks to its workers: one JSON object a line, without jax.

Requests and answers have a pipe each, of which no library knows. What is printed in a worker, from
its first moment on, goes to standard error and cannot mix with the answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TextIO

from normlab.launch.surroundings import print_anything, worker_environment


def start_worker(
    module: str,
    options: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    log: Path | None = None,
) -> subprocess.Popen[str]:
    """Start `python -m module`, its variables on top of ours; `open_worker` returns the options
    there. What it prints is appended to `log`, or goes to the standard error of this process.

    The process has requests for its `stdin` and answers for its `stdout`.
    """
    requests, answers = os.pipe(), os.pipe()
    theirs = (requests[0], answers[1])
    printed = open(log, "ab") if log else None
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", module, json.dumps({**options, "channel": theirs})],
            stdin=subprocess.DEVNULL,
            stdout=printed or 2,
            stderr=printed or 2,
            text=True,
            pass_fds=theirs,
            env=worker_environment(environment),
        )
    finally:
        for handle in theirs:
            os.close(handle)
        if printed:
            printed.close()
    process.stdin = os.fdopen(requests[1], "w", encoding="utf-8")
    process.stdout = os.fdopen(answers[0], encoding="utf-8")
    return process


def send(process: subprocess.Popen[str], request: Mapping[str, Any]) -> None:
    """Write a request. A worker that is gone gets none: the end of its answers says so."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass


def close_requests(process: subprocess.Popen[str]) -> None:
    """Close what a worker that has ended cannot read any more."""
    with contextlib.suppress(BrokenPipeError):  # what was not sent is lost
        if process.stdin:
            process.stdin.close()


def receive(lines: IO[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the answers of a worker, or in a worker the requests, until the other side is gone."""
    assert lines is not None
    for line in lines:
        yield json.loads(line)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, "" where none does."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def open_worker() -> tuple[dict[str, Any], TextIO, TextIO]:
    """Return this worker's options, its requests and its stream of answers. With the option `core`
    the process stays on that core, where the system can."""
    options = json.loads(sys.argv[1])
    if options.get("core") is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options["core"]})
    print_anything()
    requests, answers = options["channel"]
    return options, os.fdopen(requests, encoding="utf-8"), os.fdopen(answers, "w", encoding="utf-8")


def answer(answers: TextIO, facts: Mapping[str, Any]) -> None:
    """Write an answer; raises BrokenPipeError where nobody reads them."""
    answers.write(json.dumps(facts) + "\n")
    answers.flush()
