"""What runs in a job of Slurm: a worker that takes its requests from its folder in the spool.

It keeps its compiled programs from one request to the next. Without a request it leaves after
IDLE_S. SIGTERM, with which Slurm preempts and ends jobs, lets it finish its chunk, save and leave.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from normlab.data import load
from normlab.launch.engines import spool
from normlab.launch.engines.remote import kept_files
from normlab.launch.engines.remote_task import answers
from normlab.launch.surroundings import heed, prepare_process

IDLE_S, POLL_S = 30.0, 0.1


def serve(folder: Path, is_leaving: threading.Event) -> None:
    """Answer the requests in a folder until there are no more."""
    number, idle_since = 1, time.monotonic()

    def is_told_to_stop() -> bool:
        return is_leaving.is_set() or spool.is_asked_to_stop(folder)

    while not is_told_to_stop() and time.monotonic() - idle_since < IDLE_S:
        path = spool.request_path(folder, number)
        if path.name not in spool.names_in(folder):
            is_leaving.wait(POLL_S)
            continue
        facts = spool.read(path)
        options, root = facts["options"], Path(facts["results"])
        data = {name: load(name, place) for name, place in facts["data"].items()}
        kept = kept_files(root, facts["kept"])
        node = os.environ.get("SLURMD_NODENAME", "")
        events = answers(facts["request"], kept, data, is_told_to_stop, options, node)
        for i, event in enumerate(events, 1):
            spool.write(spool.event_path(folder, number, i), event)
        number, idle_since = number + 1, time.monotonic()


def main() -> None:
    folder = Path(sys.argv[1], os.environ["SLURM_ARRAY_TASK_ID"])
    is_leaving = threading.Event()
    heed(lambda *_: is_leaving.set())
    prepare_process()
    serve(folder, is_leaving)


if __name__ == "__main__":
    main()
