"""Workers as tasks of a Ray cluster. Ray places them and starts them; the rest is ours.

Ray is imported when the engine is made. Its cluster is trusted: Ray sends Python objects, and who
can reach it can run code there.
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from normlab.data import DATASETS, load
from normlab.launch.engines.deliveries import Deliveries, Delivery
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.launch.engines.options import LaunchOptions
from normlab.launch.engines.ray_task import StopFlags, train
from normlab.launch.engines.remote import SILENT_S, checked, gone, kept_files, kept_names, unfit
from normlab.runs.errors import ConfigError
from normlab.runs.provenance import git_facts, host_facts
from normlab.runs.store import Store
from normlab.shipped import PACKAGES

HEAD_S, WATCH_S, CONNECT_S = 30.0, 5.0, 5.0
"""Seconds without an answer of the head after which it is lost; between two questions; for one."""
POLL_S, FETCH_S, SHUTDOWN_S = 0.2, 30.0, 10.0
PASSED_ON = ("JAX_PLATFORMS", "XLA_FLAGS", "NORMLAB_CACHE")
"""Variables of this process that workers get."""
LOST = ("NodeDiedError", "ObjectFetchTimedOutError", "ObjectLostError", "GetTimeoutError")
"""Errors of Ray that say that a machine is gone."""
Stream = Any
"""The events of a task: an ObjectRefGenerator of Ray."""


@dataclass(eq=False)
class Task:
    """A request that a task of Ray answers."""

    delivery: Delivery
    number: int
    heard: float | None = None
    """When it was last heard of, None while it waits for a place."""


class RayEngine:
    """The tasks of one command on one cluster."""

    is_remote = True

    def __init__(self, store: Store, options: LaunchOptions, data_dir: str | None = None):
        self.store, self.options, self.data_dir = store, options, data_dir
        self.lost_retries = options.retries
        self.events: queue.Queue[tuple[WorkerHandle, Facts]] = queue.Queue()
        self.ray: Any = import_module("ray")
        self.address = self._connect()
        self.deliveries = Deliveries(store, self.events)
        self.tasks: dict[Stream, Task] = {}
        self.lock, self.numbers = threading.Lock(), itertools.count()
        self.is_closed = threading.Event()
        self.no_data = self.ray.put({})
        self.data: dict[str, Any] = {}
        """Data set that nodes may lack -> where Ray keeps it."""
        self.facts = host_facts()
        resources = {"num_cpus": options.cpus, "num_gpus": options.gpus}
        if options.mem_gb:
            resources["memory"] = int(options.mem_gb * 1024**3)
        task = self.ray.remote(train)
        self.train = task.options(**resources, max_retries=0, num_returns="streaming")
        self.flags = self._make_flags()
        self.room = self._count_slots()
        for loop in (self._listen, self._watch):
            threading.Thread(target=loop, daemon=True).start()

    def _connect(self) -> str:
        """Join the cluster and return the address of its head."""
        sent = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
        environment: dict[str, Any] = {"env_vars": sent}
        if self.options.code == "ship":
            environment |= {"py_modules": [str(PACKAGES / "normlab")]}
            environment |= {"excludes": ["**/__pycache__"]}
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        how = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": environment}
        address = self.options.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS") or address
        try:
            if ":" in address:
                connect(address)  # Ray itself would take minutes to say that nobody is there
            self.ray.init(address=address, **how)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error)
            raise ConfigError(
                f"launch.address = {address!r}: no Ray cluster can be joined "
                f"({reason}); start one with `ray start --head`, or use --launch.address=local"
            ) from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        with suppress(ImportError):  # Ray would print pages about a node that is lost
            printer: Any = import_module("ray._private.worker")
            printer.print_to_stdstream = lambda *_, **__: None
        return self.ray.get_runtime_context().gcs_address

    def _make_flags(self) -> Any:
        """Return the actor with the flags; it is on this machine, so that no other loses it."""
        strategies = import_module("ray.util.scheduling_strategies")
        here = self.ray.get_runtime_context().get_node_id()
        return (
            self.ray.remote(StopFlags)
            .options(
                num_cpus=0,
                max_concurrency=10_000,
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(here, soft=False),
            )
            .remote()
        )

    def _count_slots(self) -> int:
        """Return how many populations have room on the cluster as it is now."""
        there, options = self.ray.cluster_resources(), self.options
        room = [there.get("CPU", 0) // options.cpus if options.cpus else float("inf")]
        room += [there.get("GPU", 0) // options.gpus] if options.gpus else []
        room += [there.get("memory", 0) // (options.mem_gb * 1024**3)] if options.mem_gb else []
        return int(min(room))

    @cached_property
    def kept(self) -> Any:
        """The norms, networks and data sets of the user, as Ray keeps them; once the store has
        them."""
        root = self.store.root
        return self.ray.put(kept_files(root, kept_names(root)))

    @property
    def slots(self) -> int:
        return self.options.slots or max(1, self.room)

    def adopt(self) -> list[WorkerHandle]:
        return []  # tasks end with their command

    def send(self, worker: WorkerHandle, request: Mapping[str, Any]) -> None:
        delivery = self.deliveries.open(worker, request)
        if delivery is None:
            return
        config = next(iter(delivery.configs.values()))
        number = next(self.numbers)
        options = asdict(self.options)
        options["commit"] = git_facts() if self.options.code == "ship" else {}
        arguments = (delivery.request, self.kept, self._data_of(config), self.flags, number)
        stream = self.train.remote(*arguments, options)
        with self.lock:
            self.tasks[stream] = Task(delivery, number)

    def _data_of(self, config: Mapping[str, Any]) -> Any:
        """Return the data sets that a node may lack, as Ray keeps them."""
        name = config["data.name"]
        if not DATASETS[name].prepared:
            return self.no_data
        if name not in self.data:
            self.data[name] = self.ray.put({name: load(name, self.data_dir)})
        return self.data[name]

    def stop(self, worker: WorkerHandle) -> None:
        for _, task in self._of(worker):
            self.flags.set.remote(task.number)

    def kill(self, worker: WorkerHandle) -> None:
        for stream, task in self._of(worker):
            self._forget(stream)
            self.deliveries.drop(task.delivery)

    def _of(self, worker: WorkerHandle) -> list[tuple[Stream, Task]]:
        with self.lock:
            return [(s, task) for s, task in self.tasks.items() if task.delivery.worker is worker]

    def _forget(self, stream: Stream) -> None:
        """Hear no more of a task and end it; what a lost node still sends is left where it is."""
        with self.lock:
            self.tasks.pop(stream, None)
        self.ray.cancel(stream, force=True)

    def _listen(self) -> None:
        """Take what tasks yield, until the engine is closed."""
        while not self.is_closed.is_set():
            with self.lock:
                streams = list(self.tasks)
            if not streams:
                self.is_closed.wait(POLL_S / 10)
                continue
            wait = {"fetch_local": False}
            ready, _ = self.ray.wait(streams, num_returns=1, timeout=POLL_S, **wait)
            if ready:
                ready, _ = self.ray.wait(streams, num_returns=len(streams), timeout=0, **wait)
            for stream in ready:
                self._take_next(stream)
            self._end_silent()

    def _take_next(self, stream: Stream) -> None:
        with self.lock:
            task = self.tasks.get(stream)
        if task is None:
            return
        try:
            facts = self.ray.get(next(stream), timeout=FETCH_S)
        except StopIteration:
            facts = gone("killed", "ended without a word")
        except Exception as error:
            facts = end_of(error)
        task.heard = time.monotonic()
        if facts["event"] == "ready":
            facts = checked(facts, self.facts, facts["node"][:8])
        if facts["event"] != "alive" and self.deliveries.take(task.delivery, facts):
            with self.lock:
                self.tasks.pop(stream, None)
            self.flags.set.remote(task.number)

    def _end_silent(self) -> None:
        """Give up tasks whose nodes are silent. Ray itself would take minutes to say so."""
        now = time.monotonic()
        with self.lock:
            silent = [
                (stream, task)
                for stream, task in self.tasks.items()
                if task.heard is not None and now - task.heard > SILENT_S
            ]
        for stream, task in silent:
            self._forget(stream)
            message = f"was lost: nothing was heard of its node for {SILENT_S:g} s"
            self.deliveries.take(task.delivery, gone("lost", message))

    def _watch(self) -> None:
        """See how much room there is, and whether the head of the cluster is still there."""
        heard = time.monotonic()
        while not self.is_closed.wait(WATCH_S):
            try:
                connect(self.address)
                heard = time.monotonic()
            except OSError:
                if time.monotonic() - heard > HEAD_S:
                    message = f"the head of the Ray cluster, {self.address}, does not answer"
                    self.events.put((WorkerHandle(-1), {"event": "cut off", "message": message}))
                    return
                continue
            with suppress(Exception):  # the head ends while it is asked
                self.room = self._count_slots()

    def close(self) -> None:
        self.is_closed.set()
        self.deliveries.close()
        leave = threading.Thread(target=self.ray.shutdown, daemon=True)
        leave.start()
        leave.join(SHUTDOWN_S)


def connect(address: str) -> None:
    """Return where somebody listens at HOST:PORT; raises OSError, and ValueError for a bad one."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def end_of(error: Exception) -> Facts:
    """Return the event of an error with which Ray ends a task."""
    name = type(error).__name__
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
    if name in LOST:
        return gone("lost", f"was lost: its machine is gone ({name})")
    if name == "OutOfMemoryError":
        facts = {"status": "memory", "message": reason, "tail": [], "again": True}
        return {"event": "error"} | facts
    if name == "RuntimeEnvSetupError":
        return unfit(f"the code cannot be sent to a node ({reason}); use --launch.code=installed")
    if name.startswith("RayTaskError"):
        reason = str(error).strip().splitlines()[-1][:200]
    return gone("killed", f"ended with {name}: {reason}")
