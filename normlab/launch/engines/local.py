"""Workers as processes of this machine. They lock and write the runs themselves."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from normlab.launch.devices import Device, find_devices
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.launch.json_lines import close_requests, receive, send, start_worker
from normlab.launch.peers import LOST, Peers
from normlab.runs.errors import Preempted
from normlab.runs.kept_rows import row_files
from normlab.runs.store import Store

Process = subprocess.Popen[str]


class LocalEngine:
    """One process for each accelerator or core, or `processes` of them. Each writes a profile of a
    few steps of its first population to `profile_trace`. With `peers` it is one process, which
    trains together with those of other commands."""

    is_remote, lost_retries = False, 0

    def __init__(
        self,
        store: Store,
        processes: int = 0,
        data_dir: str | None = None,
        profile_trace: str | None = None,
        peers: Peers | None = None,
    ):
        self.store = store
        self.options = {"data_dir": data_dir, "profile_trace": profile_trace}
        self.peers = peers
        self.devices = [Device()] if peers else find_devices(processes)
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
        module, log = "normlab.launch.worker", None
        if self.peers:
            module, options["peers"] = "normlab.launch.shared_worker", self.peers
            log = tempfile.NamedTemporaryFile(prefix="normlab-", suffix=".log", delete=False)
        path = Path(log.name) if log else None
        process = start_worker(module, options, environment=device.environment, log=path)
        if path:
            path.unlink()  # both have it open, so that nothing is left however they end
        threading.Thread(target=self._listen, args=(worker, process, log), daemon=True).start()
        return process

    def _listen(self, worker: WorkerHandle, process: Process, log: IO[bytes] | None) -> None:
        try:
            for facts in receive(process.stdout):
                self.events.put((worker, facts))
        finally:
            if process.stdout:
                process.stdout.close()
            code = process.wait()
            if self.peers and log:
                self._note_peers(worker, code, self.peers, log)
            message = ended_with(code)
            gone = {"event": "gone", "status": "killed", "message": message}
            self.events.put((worker, gone))

    def _note_peers(self, worker: WorkerHandle, code: int, peers: Peers, log: IO[bytes]) -> None:
        """Send the event of an end that came from another process. What the libraries print of it
        is of no use; of other ends it is printed."""
        with log:
            log.seek(0)
            printed = log.read().decode("utf-8", errors="replace")
        if message := message_of_peers(code, peers.processes, worker.is_ready):
            self.events.put((worker, {"event": "alone", "message": message}))
        elif code not in (0, -signal.SIGKILL):
            print(printed, end="", file=sys.stderr, flush=True)

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


def message_of_peers(code: int, processes: int, is_ready: bool) -> str:
    """Return what became of another process of the same run where that ended a worker, else ""."""
    lost = "was lost" if is_ready else "did not come"
    what = {LOST: lost, -signal.SIGABRT: lost, Preempted.code: "was asked to stop"}  # jax aborts
    if code not in what:
        return ""
    return (
        f"one of the {processes} processes of this run {what[code]}; the same command on all of "
        "them continues from the last checkpoint"
    )


def ended_with(code: int) -> str:
    """Return why a process ended, "" where it was asked to."""
    if code == Preempted.code:
        return ""
    return f"ended with code {code}" + (" (killed: out of memory, perhaps)" if code == -9 else "")
