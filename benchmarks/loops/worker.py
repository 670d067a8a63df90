"""The process of one contender: answers requests, JSON lines on standard input, on standard output.

The first line says what to train; then {"do": "losses", "arguments": {"steps": 5}} and the like
call the method of the loop. It binds itself to its core before it imports a library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import traceback
from typing import Any

from benchmarks.loops.network import load_job
from benchmarks.loops.stepwise import Run
from normlab.data import DATASETS
from normlab.data.split import split_rows


def peak_megabytes() -> float:
    """Return the largest memory of this process; getrusage counts that of the parent, too."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(int(s.split()[1]) for s in status if s.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make(request: dict[str, Any]) -> Any:
    """Return the loop that a request asks for."""
    module = importlib.import_module(f"benchmarks.loops.{request['loop']}_loop")
    return module.Loop(load_job(request["network"], request["job"]), **request["options"])


def answer(loop: Any, request: dict[str, Any]) -> Any:
    if request["do"] == "train":
        run = Run(*request["run"])
        return loop.train(run, split_rows(DATASETS[request["data"]], run.seed))
    if request["do"] == "facts":
        return {"compile": getattr(loop, "compile_seconds", 0.0), "memory": peak_megabytes()}
    return getattr(loop, request["do"])(request["steps"])


def main() -> None:
    parser = argparse.ArgumentParser(description="one contender; started by scripts/bench.py")
    parser.add_argument("--core", type=int, help="bind to this core")
    core = parser.parse_args().core
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    loop: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "make":
                loop, value = make(request), None
            else:
                value = answer(loop, request)
            reply = {"value": value}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
