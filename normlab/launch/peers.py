"""Several processes that train one run: found in the variables of the launcher, without jax."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from normlab.runs.errors import ConfigError
from normlab.settings import Config

PLAIN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TORCH = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
SLURM = ("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID")
KINDS = (PLAIN, TORCH, SLURM)
LOST = 76
"""Code with which a worker ends that has lost the other processes."""
PORTS = 49152, 16384
"""The first port that Slurm's processes may use, and how many there are."""


class Peers(NamedTuple):
    """The processes of one run."""

    address: str
    """HOST:PORT where process 0 listens."""
    processes: int
    number: int
    """Which one this process is. The first locks, writes and prints."""


def find_peers(environment: Mapping[str, str]) -> Peers:
    """Return the processes that a launcher has started; raises ConfigError where its variables
    are missing or wrong."""
    for names in KINDS:
        if names[-1] in environment or names[0] in environment:
            return _read(environment, names)
    lists = "; ".join(", ".join(names) for names in KINDS)
    raise ConfigError(
        f"--distributed needs the variables of a launcher, and none of these sets is there: {lists}"
    )


def _read(environment: Mapping[str, str], names: tuple[str, ...]) -> Peers:
    if missing := [name for name in names if not environment.get(name)]:
        raise ConfigError(f"--distributed needs {', '.join(names)}; {missing[0]} is not set")
    number = {name: _number(name, environment[name]) for name in names if _is_number(name)}
    if names is PLAIN:
        address, count, index = environment[PLAIN[0]], number[PLAIN[1]], number[PLAIN[2]]
    elif names is TORCH:  # torchrun itself listens at MASTER_PORT
        address = f"{environment['MASTER_ADDR']}:{number['MASTER_PORT'] + 1}"
        count, index = number["WORLD_SIZE"], number["RANK"]
    else:
        step = number["SLURM_JOB_ID"] * 31 + _number("", environment.get("SLURM_STEP_ID", "0"))
        address = f"{first_host(environment[SLURM[0]])}:{PORTS[0] + step % PORTS[1]}"
        count, index = number["SLURM_STEP_NUM_TASKS"], number["SLURM_PROCID"]
    if not 0 <= index < count:
        raise ConfigError(f"{names[-1]}: process {index} is not one of the {count} processes")
    if not re.fullmatch(r".+:\d{1,5}", address):
        raise ConfigError(f"{names[0]} = {address!r} is not HOST:PORT")
    return Peers(address, count, index)


def _is_number(name: str) -> bool:
    return not name.endswith(("ADDRESS", "ADDR", "NODELIST"))


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"{name} = {text!r} is not a whole number")
    return int(text)


def first_host(nodes: str) -> str:
    """Return the first host of a list as Slurm writes it: node1, node[03-07,9], a1-ib,a2-ib."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    if not match:
        raise ConfigError(f"SLURM_STEP_NODELIST = {nodes!r} names no host")
    return "".join(part or "" for part in match.groups())


def divide_batch(config: Config, peers: Peers) -> Config:
    """Return the settings of a run whose batches all processes share; raises ConfigError."""
    if config["host.mesh"] not in ("auto", "batch"):
        raise ConfigError(
            f"host.mesh = {config['host.mesh']!r} does not go with --distributed, which divides "
            "the examples of a batch; leave one of them out"
        )
    for name in ("data.batch", "train.late_batch"):
        if config[name] % peers.processes:
            raise ConfigError(
                f"{name} = {config[name]} is not a multiple of the {peers.processes} processes; "
                "change one of them"
            )
    return config | {"host.mesh": "batch"}
