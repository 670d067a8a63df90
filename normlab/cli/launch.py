"""Flags that say where runs train: `--launch` and `--launch.<name>`."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

from absl import flags

from normlab.cli.files import UsageError
from normlab.launch.engines.engine import Engine
from normlab.launch.engines.options import ONLY, LaunchOptions
from normlab.launch.lease import held
from normlab.runs.files import network_file_system
from normlab.runs.store import Store

FLAGS = flags.FLAGS
CLUSTERS = "ray|slurm"
ENGINES = ("local", "ray", "slurm")


def define_launch() -> None:
    """Define `--launch` and its options."""
    none = LaunchOptions()
    text = "Where runs train: on this machine, or on a cluster: see docs/scaling.md."
    flags.DEFINE_enum("launch", "local", ENGINES, text)
    text = "Ray: HOST:PORT of the head, auto (of this machine) or local (a new cluster)."
    flags.DEFINE_string("launch.address", none.address, text)
    flags.DEFINE_string("launch.partition", none.partition, "Slurm: of the jobs.")
    flags.DEFINE_string("launch.account", none.account, "Slurm: of the jobs.")
    text = "Slurm: features that nodes must have."
    flags.DEFINE_string("launch.constraint", none.constraint, text)
    text = "Slurm: a line of shell before the worker; may be repeated."
    flags.DEFINE_multi_string("launch.setup", [], text)
    text = "Slurm: how many jobs of an array run at the same time; 0: all."
    flags.DEFINE_integer("launch.array_parallelism", none.array_parallelism, text, 0)
    text = "Populations that train at the same time; 0: as many as have room."
    flags.DEFINE_integer("launch.slots", none.slots, text, 0)
    flags.DEFINE_integer("launch.cpus", none.cpus, "Cores of a population.", 1)
    flags.DEFINE_integer("launch.gpus", none.gpus, "GPUs of a population.", 0)
    text = "Memory that is reserved for a population, in GiB."
    flags.DEFINE_float("launch.mem_gb", none.mem_gb, text, 0)
    text = "Minutes after which a population saves and gives its place back; 0: never."
    flags.DEFINE_float("launch.timeout_min", none.timeout_min, text, 0)
    text = "How often a population is tried again whose machine was lost."
    flags.DEFINE_integer("launch.retries", none.retries, text, 0)
    text = "ship: nodes get this code. installed: they have their own."
    flags.DEFINE_enum("launch.code", none.code, ("ship", "installed"), text)
    text = "Slurm, network disks: continue though another command seems to direct these results."
    flags.DEFINE_bool("take_over", False, text)


def given_options() -> LaunchOptions:
    """Return the options; raises UsageError where they mean nothing."""
    values: dict[str, Any] = {
        field.name: FLAGS[f"launch.{field.name}"].value for field in fields(LaunchOptions)
    }
    values["setup"] = tuple(values["setup"])
    given = [name for name in values if FLAGS[f"launch.{name}"].present]
    if FLAGS.launch == "local" and given:
        engine = ONLY.get(given[0], CLUSTERS)
        raise UsageError(
            f"launch.{given[0]} = {values[given[0]]!r} is for --launch={engine}; on this machine "
            "--config.host.processes=N says how many train"
        )
    for name in given:
        if ONLY.get(name, FLAGS.launch) != FLAGS.launch:
            raise UsageError(
                f"launch.{name} = {values[name]!r} is for --launch={ONLY[name]}, not for "
                f"{FLAGS.launch}; leave it out"
            )
    for name in ("mem_gb", "timeout_min"):
        if not math.isfinite(values[name]):
            raise UsageError(f"launch.{name} = {values[name]}; give a finite number")
    if "://" in values["address"]:
        raise UsageError(
            f"launch.address = {values['address']!r} is no HOST:PORT; run the command on a machine "
            "of the cluster and leave it out"
        )
    return LaunchOptions(**values)


def make_engine(store: Store, data_dir: str | None) -> Engine | None:
    """Return the workers that the flags ask for, None for those of this machine. Raises UsageError,
    ConfigError, and ModuleNotFoundError without the extra."""
    options = given_options()
    if FLAGS.take_over and FLAGS.launch != "slurm" and not network_file_system(store.root):
        raise UsageError(
            "take_over is for --launch=slurm and for results on a network disk; here several "
            "commands may work at the same time: leave it out"
        )
    if FLAGS.launch == "local":
        return None
    if FLAGS.launch == "slurm":
        from normlab.launch.engines.slurm import SlurmEngine

        return SlurmEngine(store, options, data_dir, FLAGS.take_over)
    from normlab.launch.engines.ray import RayEngine

    return RayEngine(store, options, data_dir)


def one_command(store: Store) -> AbstractContextManager[None]:
    """Return what keeps other commands from results on a network disk, where locks cannot. The
    engine of Slurm sees to that itself."""
    if FLAGS.launch == "slurm" or not network_file_system(store.root):
        return nullcontext()
    return held(store.root, FLAGS.take_over)
