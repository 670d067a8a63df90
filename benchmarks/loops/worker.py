"""The process of one contender. It answers requests, see normlab/launch/json_lines.py.

The first request, "make", says what to train. Every further one calls a method of the loop, as
{"do": "losses", "with": [5]} does. "spend" is `run` by the processor's clock. The process binds
itself to its core before it imports a library.
"""

from __future__ import annotations

import importlib
import pickle
import time
import traceback
from pathlib import Path
from typing import Any

from normlab.launch.json_lines import answer, open_worker, receive


def make(library: str, job: str, options: dict[str, Any]) -> Any:
    """Return the loop of a library for the job in a file."""
    module = importlib.import_module(f"benchmarks.loops.{library}_loop")
    return module.Loop(pickle.loads(Path(job).read_bytes()), **options)


def spend(loop: Any, count: int) -> float:
    """Return the processor's seconds, of all threads, that `run` takes."""
    began = time.process_time()
    loop.run(count)
    return time.process_time() - began


def main() -> None:
    _, requests, answers = open_worker()
    loop: Any = None
    for request in receive(requests):
        try:
            if request["do"] == "make":
                loop, value = make(*request["with"]), None
            elif request["do"] == "spend":
                value = spend(loop, *request["with"])
            else:
                value = getattr(loop, request["do"])(*request["with"])
            reply = {"value": value}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answer(answers, reply)


if __name__ == "__main__":
    main()
