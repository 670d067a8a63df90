"""Flags that name files and folders: results, and norms, networks and data of your own."""

from __future__ import annotations

import functools

from absl import flags
from ml_collections import config_flags

from normlab.data import add_data, outside_data
from normlab.launch.surroundings import without_accelerator
from normlab.launch.trackers import KINDS, Tracker
from normlab.lookup import local_path
from normlab.models.outside import add_models
from normlab.norms.outside import add_norms
from normlab.runs.errors import ConfigError, LabError
from normlab.settings import Config

USAGE = 2
"""The exit code for a mistake in the command."""

FLAGS = flags.FLAGS


class UsageError(LabError):
    """A command line that means nothing."""

    code, kind = USAGE, "usage"


class PathParser(flags.ArgumentParser):
    """The value of a flag is a path of this machine."""

    def parse(self, argument: str) -> str:
        return local_path(argument)


class PathsParser(flags.ListParser):
    """The same for a list."""

    def parse(self, argument: str | list[str]) -> list[str]:
        return [local_path(path) for path in super().parse(argument)]


def define_path(name: str, default: str | None, text: str) -> None:
    """Define a flag that is a path."""
    flags.DEFINE(PathParser(), name, default, text, serializer=flags.ArgumentSerializer())


def define_paths(name: str, text: str) -> None:
    """Define a flag that is a list of paths, or of names."""
    flags.DEFINE(PathsParser(), name, [], text, serializer=flags.CsvListSerializer(","))


def define_results() -> None:
    """Define `--results=DIR`."""
    define_path("results", "results", "Directory of all results.")


def define_data_dir() -> None:
    """Define `--data_dir=DIR`."""
    define_path("data_dir", None, "Directory of prepared data sets.")


def define_trackers() -> None:
    """Define `--tensorboard=DIR` and `--wandb=DIR`."""
    define_path("tensorboard", None, "Write curves for TensorBoard below this directory.")
    define_path("wandb", None, "Write offline runs of Weights & Biases below this directory.")


def make_trackers() -> list[Tracker]:
    """Return the trackers that the flags ask for."""
    return [make(FLAGS[flag].value) for flag, make in KINDS.items() if FLAGS[flag].value]


def define_norms() -> None:
    """Define `--norms=FILE,...`."""
    define_paths("norms", "Files with norms of your own, see docs/your_own_norm.md.")


def load_norms() -> list[str]:
    """Add the norms of --norms to the table and return their names; raises ConfigError.

    Only here does a command line run a file that may import jax, which takes a second. A helper
    process would take as long, and its answer would have to be checked again.
    """
    try:
        with without_accelerator():
            return add_norms(FLAGS.norms)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def define_data() -> None:
    """Define `--data=FILE`."""
    text = "A data set of your own, in place of data.name: see docs/your_own_data.md."
    define_path("data", None, text)


def define_model() -> None:
    """Define `--model=FILE`."""
    text = "A file with networks of your own: see docs/your_own_network.md."
    define_path("model", None, text)


@functools.cache
def load_models() -> list[str]:
    """Add the networks of --model to the table and return their names; raises ConfigError."""
    if "model" not in FLAGS or not FLAGS.model:
        return []
    try:
        with without_accelerator():
            return add_models([FLAGS.model])
    except ValueError as error:
        raise ConfigError(str(error)) from error


def given_model() -> Config:
    """Return the setting that chooses the network of --model; {} without --model. Raises UsageError
    where it is not clear which one is meant."""
    names = load_models()
    chosen = config_flags.get_override_values(FLAGS["config"]).get("model.name", "")
    if chosen in names or not names:
        return {}
    if chosen:
        raise UsageError(
            f"--model={FLAGS.model} and --config.model.name={chosen} name two networks; leave one "
            "of them out"
        )
    if len(names) > 1:
        raise UsageError(
            f"--model={FLAGS.model} has {', '.join(names)}; choose one with "
            f"--config.model.name={names[0]}"
        )
    return {"model.name": names[0]}


@functools.cache
def given_data() -> Config:
    """Add the data set of --data to the table, print what it is, and return the setting that
    chooses it; {} without --data. Raises DataError, and UsageError where two data sets are named.
    """
    if "data" not in FLAGS or not FLAGS.data:
        return {}
    if "config" in FLAGS and "data.name" in config_flags.get_override_values(FLAGS["config"]):
        raise UsageError("--data and --config.data.name name two data sets; leave one of them out")
    with without_accelerator():
        name = add_data(FLAGS.data)
    print(outside_data()[name].line(name), flush=True)
    return {"data.name": name}
