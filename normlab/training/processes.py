"""Several processes that train one population: how they begin, and how they agree."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT_S = 20
"""Seconds without a sign of life of a process after which jax aborts the others. They notice one
that was killed at once, since its connections break."""
BEGIN_S, END_S = 300, 10
"""Seconds that processes wait for each other when they begin, and when they end."""
WORDS_OF_PEERS = ("Gloo", "gloo", "NCCL", "coordination service", "distributed service")
"""What errors name that come from another process."""


def join(address: str, count: int, index: int) -> None:
    """Make this process one of `count` that share their devices; process 0 listens at `address`."""
    # Its handler of SIGTERM would replace ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        count,
        index,
        cluster_detection_method="deactivate",
        initialization_timeout=BEGIN_S,
        heartbeat_timeout_seconds=HEARTBEAT_S,
        shutdown_timeout_seconds=END_S,
    )


def is_of_peers(error: Exception) -> bool:
    """Return whether an error comes from the loss of another process."""
    return any(word in str(error) for word in WORDS_OF_PEERS)


def from_first(data: bytes = b"") -> bytes:
    """Return on every process the bytes that process 0 gives."""
    size = np.array(divmod(len(data), 2**30), np.int32)
    high, low = multihost_utils.broadcast_one_to_all(size)
    count = int(high) * 2**30 + int(low)
    is_first = jax.process_index() == 0
    given = np.frombuffer(data, np.uint8) if is_first else np.zeros(count, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(given)).tobytes() if count else b""


def is_wanted(flag: bool) -> bool:
    """Return on every process whether any of them has the flag."""
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
