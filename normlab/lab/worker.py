"""The worker process: trains the populations it is told to, one after another.

Requests come as JSON lines on standard input, events leave as JSON lines on standard output. It
takes the lock of every run itself, so that no other process can train it, and leaves between two
chunks when its supervisor is gone. `python -m normlab.lab.worker --core=1` binds it to one core:
two such workers train small networks twice as fast as one that owns two cores.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from normlab.lab.config import outside_file
from normlab.lab.store import Store, host_facts, now, processor_name
from normlab.norms.outside import add_norms
from normlab.settings import Config, from_json

CACHE_BYTES = 2 * 1024**3
COMPILING = "/jax/core/compile/"
"""How jax names what it tells of tracing, lowering, and compiling or reading its cache."""
TRACED_STEPS = 20
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


class CompileClock:
    """Seconds that this process took to make programs ready, since the clock was made: none for one
    that is in memory, few for one in the compilation cache."""

    def __init__(self) -> None:
        import jax

        self.spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self.note)

    def note(self, event: str, duration_secs: float, **_: Any) -> None:
        """Take an event that ends now, and may hold some that ended before."""
        if event.startswith(COMPILING):
            end = time.monotonic()
            begin = end - duration_secs
            while self.spans and self.spans[-1][1] > begin:
                begin = min(begin, self.spans.pop()[0])
            self.spans.append((begin, end))

    @property
    def seconds(self) -> float:
        return sum(end - begin for begin, end in self.spans)


class Worker:
    def __init__(
        self, store: Store, data_dir: str | None, events: TextIO, profile_trace: str | None = None
    ):
        self.store, self.data_dir, self.events = store, data_dir, events
        self.profile_trace = profile_trace
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

    @functools.cached_property
    def clock(self) -> CompileClock:
        return CompileClock()

    def trace(self, rehearsal: Callable[[int], Callable[[], None]]) -> None:
        """Write a profile of a few training steps, once their program is compiled; only one."""
        import jax

        folder, self.profile_trace = self.profile_trace, None
        if folder:
            rehearsal(TRACED_STEPS)()
            run = rehearsal(TRACED_STEPS)
            with jax.profiler.trace(folder):
                run()
            self.tell("traced", steps=TRACED_STEPS, folder=folder)

    def train_free(self, configs: dict[str, Config]) -> None:
        import jax

        from normlab.engine.flops import matmul_rate, step_flops
        from normlab.engine.population import Population

        matmul_rate()  # measured by the first population, before its time begins
        began, started, compiled = time.monotonic(), now(), self.clock.seconds
        names, first = list(configs), next(iter(configs.values()))
        dataset = self.dataset(first["data.name"])
        population = Population(list(configs.values()), dataset)
        flops = step_flops(first, dataset.shape, dataset.classes)
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

        self.trace(population.rehearsal)
        ready, entered = self.clock.seconds, time.monotonic()
        states = population.train(on_chunk)
        training = time.monotonic() - entered - (self.clock.seconds - ready)
        seconds = time.monotonic() - began
        common = host_facts() | device_facts() | facts | outside_file(first) | memory_facts()
        common |= speed_facts(int(jax.device_get(states.step).sum()), training, flops)
        common |= {"compile_seconds": round(self.clock.seconds - compiled, 3)}
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


def speed_facts(steps: int, seconds: float, flops: int) -> dict[str, float]:
    """Return the speed of `steps` steps of single runs in `seconds`, which are without compilation
    but with evaluation: steps per second, and what the `flops` of each step in matrix products make
    of the machine's rate of those."""
    from normlab.engine.flops import matmul_rate

    rate = steps / seconds
    share = rate * flops / matmul_rate()
    return {"run_steps_per_second": round(rate, 2), "matmul_fraction": round(share, 6)}


def memory_facts() -> dict[str, float]:
    """Return the most memory that this process, and its accelerator, held so far, in 10^6 bytes."""
    import jax

    facts = {"peak_memory_mb": round(peak_memory() / 1e6, 1)}
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        facts["peak_device_memory_mb"] = round(stats["peak_bytes_in_use"] / 1e6, 1)
    return facts


def peak_memory() -> int:
    """Return the most bytes that this process had resident so far. Linux's getrusage would tell
    those of the parent where it was the larger."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="utf-8"), re.M)
        if found:
            return 1024 * int(found[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    parser = argparse.ArgumentParser(description="normlab's worker; started by its supervisor")
    parser.add_argument("--results", required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--norms", action="append", default=[], help="a file with further norms")
    parser.add_argument("--profile_trace", help="directory for a profile of a few steps")
    parser.add_argument("--core", type=int, help="bind to this core")
    arguments = parser.parse_args()
    if arguments.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what Ctrl-C means
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the events
    use_cache()
    add_norms(arguments.norms)
    store = Store(arguments.results)
    Worker(store, arguments.data_dir, events, arguments.profile_trace).serve(sys.stdin)


if __name__ == "__main__":
    main()
