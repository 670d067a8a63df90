"""What a command knows of a worker that is a job of Slurm, and what the end of its job means."""

from __future__ import annotations

from dataclasses import dataclass, field

from normlab.launch.engines.deliveries import Delivery
from normlab.launch.engines.engine import Facts, WorkerHandle
from normlab.launch.engines.remote import gone


@dataclass(eq=False)
class Box:
    """The folder of a worker, and what is known of its job."""

    worker: WorkerHandle
    job: str = ""
    """Name of its array; "" until it is submitted."""
    place: int = 0
    """In that array."""
    job_id: str = ""
    state: str = "PENDING"
    reason: str = ""
    """Of the state, as Slurm says it."""
    missed: int = 0
    """How often in a row Slurm did not know its job."""
    runs_since: float | None = None
    number: int = 0
    """Of its last request."""
    delivery: Delivery | None = None
    """That request, while it is open."""
    facts: Facts = field(default_factory=dict)
    """What is sent with it."""
    events: int = 0
    """How many of its events were taken."""
    heard: float | None = None
    """When it was last heard of, None while it waits for a place."""
    is_stopped: bool = False
    is_over: bool = False
    """Whether its job has ended after all of its requests."""
    is_adopted: bool = False
    """Whether an earlier command submitted it. Its code may be another one, so that it answers no
    more than its open request."""
    has_left: bool = False
    """Whether it has saved and left without being asked to by this command."""


def end_of(box: Box, said: str) -> Facts:
    """Return the event of a worker whose job has ended. `said`: the last line that it printed."""
    state, job = box.state, f"job {box.job_id or box.job}"
    if state == "OUT_OF_MEMORY":
        message = f"{job} needed more memory than it had; see --launch.mem_gb"
        return {"event": "error", "status": "memory", "message": message, "tail": [], "again": True}
    if state == "PREEMPTED":
        return gone("lost", "")
    if state == "CANCELLED":
        return gone("lost", f"was lost: {job} was cancelled")
    if state == "TIMEOUT":
        return gone("killed", f"was ended by the time limit of {job} before it could save")
    if state == "COMPLETED" and (box.has_left or box.worker.is_ready):
        return gone("killed", "")
    if state in ("COMPLETED", "FAILED"):
        unsaid = "" if box.worker.is_ready else "is the results directory on a disk of all nodes?"
        words = [f"{job} is {state}", box.reason.replace("None", ""), said or unsaid]
        return gone("killed", f"ended: {', '.join(filter(None, words))}")
    return gone("lost", f"was lost: {job} has the state {state}")
