"""The commands of Slurm: arrays of jobs are submitted, looked at and cancelled."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from normlab.launch.engines.options import LaunchOptions
from normlab.launch.surroundings import changes_numbers
from normlab.runs.errors import ConfigError

FORMAT = "%j|%K|%i|%T|%r"
"""Name, place in the array, number, state, its reason."""
COMMANDS = ("sbatch", "squeue", "scancel", "sinfo")
PREFIX = "normlab-"
"""How the names of arrays begin."""
ANSWER_S = 60.0
"""Seconds in which the controller of Slurm has to answer."""
SAVE_S = 60
"""Seconds before its time is over in which a job gets SIGTERM; Slurm may send it 60 s earlier."""
LEAST_MIN = 5
"""Least minutes of a job, that it has time to train before it saves."""
LARGEST_ARRAY = 1000
"""Jobs in an array; Slurm allows 1,000 unless it is configured otherwise."""
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING "
    "REQUEUED REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT RESV_DEL_HOLD".split()
)
"""States of a job that has not ended."""


class SlurmError(Exception):
    """Slurm does not answer, or refuses."""


class State(NamedTuple):
    """What Slurm says of a job."""

    job_id: str
    state: str
    reason: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


def require_commands() -> None:
    """Raise ConfigError where Slurm cannot be used from here."""
    if lacking := [name for name in COMMANDS if not shutil.which(name)]:
        raise ConfigError(
            f"launch = 'slurm' needs {', '.join(lacking)}, which this machine lacks; give the "
            "command on a machine from which jobs of Slurm can be submitted"
        )


def call(*command: str, text: str = "") -> str:
    """Return what a command of Slurm prints; raises SlurmError with its last line."""
    left_out = {name for name in os.environ if changes_numbers(name) or is_of_this_job(name)}
    variables = {name: text for name, text in os.environ.items() if name not in left_out}
    try:
        run = subprocess.run(
            command, input=text, capture_output=True, text=True, env=variables, timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if run.returncode:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        raise SlurmError(reason(lines[-1]) if lines else f"{command[0]} ended with an error")
    return run.stdout


def is_of_this_job(name: str) -> bool:
    """Return whether a variable is of a job in which this command runs itself. The jobs that it
    submits would take the size of that one for theirs."""
    return name.startswith("SLURM_") and name != "SLURM_CONF"


def reason(line: str) -> str:
    """Return what a line of Slurm says without the names of its programs.

    >>> reason("sbatch: error: invalid partition specified: x")
    'invalid partition specified: x'
    """
    for prefix in ("sbatch: ", "squeue: ", "scancel: ", "sinfo: ", "error: ", "fatal: "):
        line = line.removeprefix(prefix)
    return line.removeprefix("allocation failure: ")[:200]


def flags_of(options: LaunchOptions) -> list[str]:
    """Return what the options ask of sbatch."""
    flags = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={options.cpus}", "--no-requeue"]
    flags += ["--export=ALL", f"--signal=B:TERM@{SAVE_S}"]
    for name in ("partition", "account", "constraint"):
        flags += [f"--{name}={getattr(options, name)}"] if getattr(options, name) else []
    flags += [f"--gres=gpu:{options.gpus}"] if options.gpus else []
    flags += [f"--mem={math.ceil(1024 * options.mem_gb)}M"] if options.mem_gb else []
    flags += [f"--time={math.ceil(options.timeout_min)}"] if options.timeout_min else []
    return flags


def script(folder: Path, options: LaunchOptions, code: Path | None) -> str:
    """Return the script of the jobs whose folders are in `folder`. `code`: where normlab is that
    they import, None for the one that is installed."""
    lines = ["#!/bin/bash", *options.setup]
    if code:
        lines += [f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"']
    worker = [sys.executable, "-P", "-u", "-m", "normlab.launch.engines.slurm_task", str(folder)]
    return "\n".join([*lines, f"exec {shlex.join(worker)}", ""])


def array_flags(name: str, folder: Path, count: int, most: int) -> list[str]:
    """Return the flags of an array of `count` jobs, of which `most` run at a time, 0 for all."""
    limit = f"%{most}" if most else ""
    log = f"{folder}/%a.log".replace("%", "%%").replace("%%a.log", "%a.log")
    flags = [f"--job-name={name}", f"--array=0-{count - 1}{limit}", f"--output={log}"]
    return [*flags, "--open-mode=append", f"--chdir={folder}"]


def check(options: LaunchOptions) -> None:
    """Raise ConfigError where Slurm would refuse the jobs; nothing is submitted."""
    require_commands()
    for name, value in vars(options).items():
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"launch.{name} = {value!r} is no name in Slurm")
    if 0 < options.timeout_min < LEAST_MIN:
        raise ConfigError(
            f"launch.timeout_min = {options.timeout_min:g} is too short: a job saves up to two "
            f"minutes before its end; give at least {LEAST_MIN}, or 0 for the limit of the "
            "partition"
        )
    try:
        call("sbatch", "--test-only", *flags_of(options), text="#!/bin/bash\ntrue\n")
    except SlurmError as error:
        given = ["partition", "account", "constraint", "cpus", "gpus", "mem_gb", "timeout_min"]
        asked = " ".join(f"--launch.{n}={v}" for n in given if (v := getattr(options, n)))
        raise ConfigError(f"Slurm refuses jobs with {asked}: {error}") from error


def submit(name: str, folder: Path, count: int, options: LaunchOptions, code: Path | None) -> str:
    """Submit an array of jobs; return its number. Raises SlurmError."""
    flags = flags_of(options) + array_flags(name, folder, count, options.array_parallelism)
    answer = call("sbatch", "--parsable", *flags, text=script(folder, options, code))
    return answer.strip().splitlines()[-1].partition(";")[0]


def states(names: Iterable[str]) -> dict[tuple[str, int], State]:
    """Return name and place in its array -> what is known of a job, for arrays of some names.
    Raises SlurmError. Slurm forgets a job some minutes after its end."""
    text = ",".join(sorted(names))
    lines = call("squeue", "-h", "-r", "-t", "all", "-n", text, "-o", FORMAT).splitlines()
    fields = [line.split("|") for line in lines if line.count("|") == 4]
    return {
        (name, int(place)): State(job_id, state, why)
        for name, place, job_id, state, why in fields
        if place.isdigit()
    }


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs. One that has ended is left alone; so is one whose Slurm does not answer, because
    it leaves by itself once its folder is gone."""
    try:
        call("scancel", "--quiet", *job_ids)
    except SlurmError:
        pass


def room(options: LaunchOptions) -> int:
    """Return how many jobs the cores of the cluster have room for, at least 1."""
    where = ["-p", options.partition] if options.partition else []
    try:
        counts = call("sinfo", "-h", "-o", "%C", *where).split()
    except SlurmError as error:
        raise ConfigError(f"sinfo has no answer ({error}); give --launch.slots") from error
    cores = sum(int(c.split("/")[3]) - int(c.split("/")[2]) for c in counts if c.count("/") == 3)
    return max(1, cores // options.cpus)
