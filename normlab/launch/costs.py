"""What training costs this process: compilation, speed, memory, and on which device."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax

from normlab.training.flops import matmul_rate

COMPILING = "/jax/core/compile/"
"""How jax names its events of tracing, lowering, and compiling or reading its cache."""


class CompileClock:
    """Seconds that this process took to make programs ready, since the clock was made. A program
    that is in memory takes none, one in the compilation cache a few."""

    def __init__(self) -> None:
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


def speed_facts(steps: int, seconds: float, flops: int) -> dict[str, float]:
    """Return the steps of single runs per second, and their `flops` as a share of the machine's
    rate of matrix products. `seconds` are without compilation but with evaluation."""
    rate = steps / seconds
    share = rate * flops / matmul_rate()
    return {"run_steps_per_second": round(rate, 2), "matmul_fraction": round(share, 6)}


def memory_facts() -> dict[str, float]:
    """Return the most memory that this process, and its accelerator, held so far, in 10^6 bytes."""
    facts = {"peak_memory_mb": round(peak_memory() / 1e6, 1)}
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        facts["peak_device_memory_mb"] = round(stats["peak_bytes_in_use"] / 1e6, 1)
    return facts


def peak_memory() -> int:
    """Return the most bytes that this process had resident so far. Linux's getrusage would return
    those of the parent if it was the larger."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="utf-8"), re.M)
        if found:
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
