"""What a command asks of a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LaunchOptions:
    """The flags `--launch.<name>`."""

    address: str = "auto"
    """Of the head of a Ray cluster; auto: the one of this machine; local: one of its own."""
    partition: str = ""
    account: str = ""
    constraint: str = ""
    """Of the jobs of Slurm; "": its defaults."""
    setup: tuple[str, ...] = ()
    """Lines of shell that a job of Slurm runs before its worker."""
    array_parallelism: int = 0
    """How many jobs of one array run at the same time; 0: as many as have room."""
    slots: int = 0
    """Populations that train at the same time; 0: as many as the cluster has room for."""
    cpus: int = 1
    gpus: int = 0
    mem_gb: float = 0.0
    """Of each population; 0: not reserved."""
    timeout_min: float = 0.0
    """After which a population saves and gives its place back; 0: never."""
    retries: int = 3
    """How often a population whose machine was lost is tried again."""
    code: str = "ship"
    """ship: workers get the code of the command. installed: they have their own."""


ONLY = {
    "address": "ray",
    "partition": "slurm",
    "account": "slurm",
    "constraint": "slurm",
    "setup": "slurm",
    "array_parallelism": "slurm",
}
"""Option -> the only engine that has it."""
