"""The worker process: trains the populations it is told to, one after another.

Requests come as JSON lines on standard input, events leave as JSON lines on standard output. It
takes the lock of every run itself, so that no other process can train it, and leaves between two
chunks when its supervisor is gone. `python -m normlab.lab.worker --core=1` binds it to one core:
two such workers train small networks twice as fast as one that owns two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from normlab.lab.config import outside_file
from normlab.lab.store import Store, host_facts, now, processor_name
from normlab.norms.outside import add_norms
from normlab.settings import Config, from_json

CACHE_BYTES = 2 * 1024**3
ALONE = "the supervisor is gone; these runs begin again with the next command"


def cache_dir() -> Path:
    """Return the compilation cache of this processor and jax: entries do not move between them."""
    import jax

    root = os.environ.get("NORMLAB_CACHE") or Path.home() / ".cache" / "normlab"
    key = hashlib.sha256(f"{processor_name()} {jax.__version__}".encode()).hexdigest()[:12]
    return Path(root) / f"xla-{key}"


def use_cache() -> None:
    """Keep compiled programs for the next process. With a size limit jax writes them under a lock;
    without one, parallel workers can meet half-written entries."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)


class Worker:
    def __init__(self, store: Store, data_dir: str | None, events: TextIO):
        self.store, self.data_dir, self.events = store, data_dir, events
        self.supervisor = os.getppid()
        self.datasets: dict[str, Any] = {}

    def tell(self, event: str, **facts: Any) -> None:
        try:
            self.events.write(json.dumps({"event": event, **facts}) + "\n")
            self.events.flush()
        except BrokenPipeError:
            sys.exit(ALONE)

    def dataset(self, name: str):
        from normlab.data import load

        if name not in self.datasets:
            self.datasets[name] = load(name, self.data_dir)
        return self.datasets[name]

    def serve(self, requests: TextIO) -> None:
        """Answer requests until standard input ends."""
        self.tell("ready")
        for line in requests:
            request = json.loads(line)
            try:
                if request["do"] == "train":
                    self.train({n: from_json(c) for n, c in request["configs"].items()})
                else:
                    self.time({n: from_json(c) for n, c in request["configs"].items()})
            except Exception as error:  # one population must not end the study
                tail = traceback.format_exc().splitlines()[-20:]
                self.tell("error", message=f"{type(error).__name__}: {error}", tail=tail)

    def time(self, configs: dict[str, Config]) -> None:
        from normlab.engine.steptime import step_seconds

        first = next(iter(configs.values()))
        self.tell("timed", seconds=step_seconds(configs, self.dataset(first["data.name"])))

    def train(self, configs: dict[str, Config]) -> None:
        """Train the runs whose locks can be had and that nobody finished meanwhile."""
        locks = {name: self.store.lock(name) for name in configs}
        try:
            free = [n for n, lock in locks.items() if lock and not self.store.is_done(n)]
            busy = [n for n, lock in locks.items() if lock is None]
            if free:
                self.train_free({n: configs[n] for n in free})
            self.tell("done", ids=free, busy=busy)
        finally:
            for lock in locks.values():
                if lock:
                    lock.release()

    def train_free(self, configs: dict[str, Config]) -> None:
        from normlab.engine.population import Population

        began, started = time.monotonic(), now()
        names, first = list(configs), next(iter(configs.values()))
        dataset = self.dataset(first["data.name"])
        population = Population(list(configs.values()), dataset)
        facts = {"mode": population.mode, "width": population.width, "conv": population.conv_form}
        manifest = self.store.write_manifest(names, facts)
        for name in names:
            self.store.start_curve(name)

        def on_chunk(progress) -> None:
            for name, rows in zip(names, progress.rows, strict=True):
                self.store.append_curve(name, rows)
            self.tell(
                "chunk",
                step=progress.step,
                alive=progress.alive,
                train_loss=progress.train_loss,
                best=progress.best_accuracy,
                seconds=progress.seconds,
            )
            if os.getppid() != self.supervisor:
                sys.exit(ALONE)

        population.train(on_chunk)
        seconds = time.monotonic() - began
        common = host_facts() | device_facts() | facts | outside_file(first)
        common |= {"population": manifest, "data_sha256": dataset.sha256, "started": started}
        common |= {"ended": now(), "population_seconds": round(seconds, 3), "members": len(names)}
        for name, outcome in zip(names, population.outcomes, strict=True):
            self.store.finish(
                name,
                {
                    "config": configs[name],
                    "status": outcome.status,
                    "diverged_at": outcome.diverged_at,
                    "final": outcome.final,
                    "seconds": round(seconds / len(names), 4),
                    "provenance": common,
                },
            )


def device_facts() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    return {"device": device.device_kind, "backend": device.platform}


def main() -> None:
    parser = argparse.ArgumentParser(description="normlab's worker; started by its supervisor")
    parser.add_argument("--results", required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--norms", action="append", default=[], help="a file with further norms")
    parser.add_argument("--core", type=int, help="bind to this core")
    arguments = parser.parse_args()
    if arguments.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what Ctrl-C means
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the events
    use_cache()
    add_norms(arguments.norms)
    Worker(Store(arguments.results), arguments.data_dir, events).serve(sys.stdin)


if __name__ == "__main__":
    main()
