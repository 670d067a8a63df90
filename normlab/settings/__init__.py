"""Configurations: flat or nested, complete or not; every setting is a row of `table.py`."""

from __future__ import annotations

from typing import Any

from normlab.lookup import did_you_mean
from normlab.settings.row import Setting
from normlab.settings.table import SETTINGS

__all__ = [
    "LATER",
    "PROGRAM_SETTINGS",
    "SETTINGS",
    "Config",
    "Setting",
    "defaults",
    "flatten",
    "from_json",
    "nearest_setting",
    "nest",
    "program_key",
]

Config = dict[str, Any]
"""A flat configuration: dotted setting name -> value."""

PROGRAM_SETTINGS = (
    "data.name",
    "data.batch",
    "data.augment",
    "data.length",
    "data.patch",
    "model.",
    "norm.",
    "optim.name",
    "train.on_nonfinite",
    "train.late_batch",
    "train.stop_at_loss",
    "init.kernel",
    "eval.batch_statistics",
    "eval.long",
    "eval.probes",
)
"""What decides a compiled program. Rates, schedules, lengths and evaluation times are its inputs,
so runs that differ only in those share one compilation."""


LATER = (
    *("data.length", "data.length_spread", "data.patch", "model.cell", "model.heads"),
    *("model.normed", "norm.time", "norm.masked", "data.length_law", "norm.least", "eval.long"),
    *("model.qk_norm", "model.tied", "data.permuted", "model.dtype", "model.precision"),
)
"""Settings that were introduced after programs had names. At their defaults they are no part of
them, so that step times that are stored under these names remain."""


def program_key(config: Config) -> tuple[tuple[str, Any], ...]:
    """Return the settings that decide the program of `config`, hashable."""
    return tuple((k, v) for k, v in sorted(config.items()) if k.startswith(PROGRAM_SETTINGS))


def defaults() -> Config:
    """Return every setting at its default."""
    return {name: setting.default for name, setting in SETTINGS.items()}


def nest(config: Config) -> dict[str, Any]:
    """Return the configuration as nested groups: {"optim.lr": 1} -> {"optim": {"lr": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in config.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def flatten(tree: dict[str, Any], prefix: str = "") -> Config:
    """Return nested groups as a flat configuration, the inverse of `nest`."""
    out: Config = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            out |= flatten(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def from_json(tree: Config) -> Config:
    """Return a configuration read from JSON with its lists as tuples again."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}


def nearest_setting(name: str) -> str:
    """Return "; did you mean 'x'?" for the legal name nearest to `name`, or an empty string."""
    return did_you_mean(name, SETTINGS, cutoff=0.5)
