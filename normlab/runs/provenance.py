"""Where a result comes from: code, versions, machine; and the facts of every result."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from normlab.shipped import ROOT
from normlab.training.version import TRAINING_VERSION, training_version_of

OTHER_FLAGS = ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_collections")
NUMBER = (int, float)
SCHEMA: dict[str, tuple[type, ...]] = {
    "git_commit": (str,),
    "git_dirty": (bool, type(None)),
    "training_version": (int,),
    "python": (str,),
    "versions": (dict,),
    "platform": (str,),
    "processor": (str,),
    "cores": (int,),
    "device": (str,),
    "backend": (str,),
    "xla_flags": (str,),
    "config_sha256": (str,),
    "data_sha256": (str,),
    "chance": (float,),
    "chance_loss": (float,),
    "seed": (int,),
    "mode": (str,),
    "width": (int,),
    "conv": (str,),
    "chunk": (int,),
    "population": (str,),
    "members": (int,),
    "started": (str,),
    "ended": (str,),
    "restarts": (list,),
    "attempts": (list,),
    "bit_exact": (bool,),
    "population_seconds": NUMBER,
    "compile_seconds": NUMBER,
    "checkpoint_seconds": NUMBER,
    "run_steps_per_second": NUMBER,
    "matmul_fraction": NUMBER,
    "peak_memory_mb": NUMBER,
}
"""The facts in the provenance of every result, and their types.

restarts: for each time that the population was continued from a checkpoint, at which step, when,
and which of DECIDES_BITS had changed. attempts: what ended the earlier attempts that failed.
bit_exact: whether an uninterrupted run would have given the same bits.
"""
DECIDES_BITS = (
    "training_version",
    "versions",
    "processor",
    "cores",
    "device",
    "backend",
    "xla_flags",
    "mode",
    "conv",
    "width",
    "chunk",
)
"""What must be the same at the start and at every restart for the result to be bit-exact."""


def missing_facts(provenance: dict[str, Any]) -> list[str]:
    """Return the names of SCHEMA that a provenance lacks or has with a wrong type."""
    return [
        name
        for name, kinds in SCHEMA.items()
        if name not in provenance
        or not isinstance(provenance[name], kinds)
        or (isinstance(provenance[name], bool) and bool not in kinds)
    ]


def changed_facts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """Return name -> [before, after] of what decides bits and differs."""
    before, after = ({"training_version": training_version_of(f)} | f for f in (before, after))
    return {
        name: [before.get(name), after.get(name)]
        for name in DECIDES_BITS
        if before.get(name) != after.get(name)
    }


def timing_place(facts: dict[str, Any]) -> str:
    """Return under which key the step times of a machine and of this code are kept."""
    if "training_version" in facts:
        return f"{facts.get('processor')}, training version {facts['training_version']}"
    return f"{facts.get('processor')}, code {facts.get('code')}"  # results before versions


SENT: dict[str, Any] = {}
"""git_facts of the command that sent its code to this process."""


@functools.cache
def git_facts() -> dict[str, Any]:
    """Return the commit of the code and whether its tree has changes; "unknown" and None without
    git or outside a repository."""
    try:
        run = functools.partial(
            subprocess.run, cwd=ROOT, capture_output=True, text=True, timeout=5, check=True
        )
        git = ["git", "-c", f"safe.directory={ROOT}"]  # its owner may be another user
        run([*git, "ls-files", "--error-unmatch", __file__])  # not somebody else's repository
        commit = run([*git, "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changes = run([*git, "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": "unknown", "git_dirty": None}
    return {"git_commit": commit, "git_dirty": bool(changes)}


def is_commit_lost() -> bool:
    """Return whether the code is in a repository of its own that git cannot read."""
    return git_facts()["git_commit"] == "unknown" and (ROOT / ".git").exists()


def host_facts() -> dict[str, Any]:
    """Return what every result says of the host that made it."""
    return (
        git_facts()
        | SENT
        | {
            "training_version": TRAINING_VERSION,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": processor_name(),
            "cores": len(available_cores()),
            "xla_flags": compiler_flags(),
            "versions": {name: metadata.version(name) for name in PACKAGES},
        }
    )


def compiler_flags() -> str:
    """Return XLA_FLAGS, and other variables by which libraries of accelerators change numbers."""
    others = (f"{name}={os.environ[name]}" for name in OTHER_FLAGS if os.environ.get(name))
    return " ".join([*filter(None, [os.environ.get("XLA_FLAGS")]), *others])


def available_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@functools.cache
def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
