"""The process of one contender. It answers requests, see normlab/launch/json_lines.py.

The first request, "make", says what to train. Every further one calls a method of the loop, as
{"do": "losses", "steps": 5} does. The process binds itself to its core before it imports a library.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

from benchmarks.loops.network import load_job
from benchmarks.loops.stepwise import Run
from normlab.data import DATASETS
from normlab.data.split import split_rows
from normlab.launch.json_lines import answer, open_worker, receive


def make(request: dict[str, Any]) -> Any:
    """Return the loop that a request asks for."""
    module = importlib.import_module(f"benchmarks.loops.{request['loop']}_loop")
    return module.Loop(load_job(request["network"], request["job"]), **request["options"])


def carry_out(loop: Any, request: dict[str, Any]) -> Any:
    """Return what the request asks of the loop."""
    if request["do"] == "train":
        run = Run(*request["run"])
        return loop.train(run, split_rows(DATASETS[request["data"]], run.seed))
    if request["do"] == "facts":
        return loop.facts()
    return getattr(loop, request["do"])(request["steps"])


def main() -> None:
    _, answers = open_worker()
    loop: Any = None
    for request in receive(sys.stdin):
        try:
            if request["do"] == "make":
                loop, value = make(request), None
            else:
                value = carry_out(loop, request)
            reply = {"value": value}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answer(answers, reply)


if __name__ == "__main__":
    main()
