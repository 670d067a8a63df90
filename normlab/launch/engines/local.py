"""Workers as processes of this machine. They lock and write the runs themselves."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from normlab.launch.devices import find_devices
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.launch.json_lines import close_requests, receive, send, start_worker
from normlab.runs.errors import Preempted
from normlab.runs.kept_rows import row_files
from normlab.runs.store import Store

Process = subprocess.Popen[str]


class LocalEngine:
    """One process for each accelerator or core, or `processes` of them. Each writes a profile of a
    few steps of its first population to `profile_trace`."""

    is_remote, lost_retries = False, 0

    def __init__(
        self,
        store: Store,
        processes: int = 0,
        data_dir: str | None = None,
        profile_trace: str | None = None,
    ):
        self.store = store
        self.options = {"data_dir": data_dir, "profile_trace": profile_trace}
        self.devices = find_devices(processes)
        self.events: queue.Queue[tuple[WorkerHandle, Facts]] = queue.Queue()
        self.processes: dict[WorkerHandle, Process] = {}

    @property
    def slots(self) -> int:
        return len(self.devices)

    def adopt(self) -> list[WorkerHandle]:
        return []  # workers end with their command

    def send(self, worker: WorkerHandle, request: Mapping[str, Any]) -> None:
        if worker not in self.processes:
            self.processes[worker] = self._start(worker)
        send(self.processes[worker], request)

    def _start(self, worker: WorkerHandle) -> Process:
        device = self.devices[worker.number]
        options = {"results": str(self.store.root), "core": device.core}
        options |= row_files(self.store.root) | self.options
        process = start_worker("normlab.launch.worker", options, environment=device.environment)
        threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()
        return process

    def _listen(self, worker: WorkerHandle, process: Process) -> None:
        try:
            for facts in receive(process.stdout):
                self.events.put((worker, facts))
        finally:
            if process.stdout:
                process.stdout.close()
            message = ended_with(process.wait())
            gone = {"event": "gone", "status": "killed", "message": message}
            self.events.put((worker, gone))

    def stop(self, worker: WorkerHandle) -> None:
        if worker in self.processes:
            self.processes[worker].terminate()

    def kill(self, worker: WorkerHandle) -> None:
        if process := self.processes.pop(worker, None):
            process.kill()
            process.wait()
            close_requests(process)

    def close(self) -> None:
        """Nothing is held here but the workers."""


def ended_with(code: int) -> str:
    """Return why a process ended, "" where it was asked to."""
    if code == Preempted.code:
        return ""
    return f"ended with code {code}" + (" (killed: out of memory, perhaps)" if code == -9 else "")
