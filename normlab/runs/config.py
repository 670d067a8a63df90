"""From what somebody typed to the resolved configuration that a run is a pure function of."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, NamedTuple

from normlab.data import DATASETS, check
from normlab.layers.table import find_kernel
from normlab.models.table import MODELS
from normlab.norms.outside import OutsideNorm
from normlab.norms.table import COMMON, NORMS, Norm, find_norm
from normlab.runs.constraints import check_training, training_examples
from normlab.runs.errors import ConfigError
from normlab.settings import SETTINGS, Config, defaults, nearest_setting, program_key

LAYERS, WIDEST, LARGEST = 1000, 65_536, 10**300
"""Limits of what is counted up to before anything runs, and of whole numbers."""


class Resolved(NamedTuple):
    config: Config
    notes: list[str]
    """Settings that were reset because nothing in this configuration takes them."""


def resolve(config: Config, data_dir: str | None = None, needs_data: bool = True) -> Resolved:
    """Return `config` complete, checked and canonical; raises ConfigError.

    `needs_data`: also that its data set is prepared under `data_dir`, which reports need not.
    Settings that the scheme, network or optimiser does not take go back to their defaults, so that
    two configurations that mean the same run have the same id.
    """
    full = defaults() | {name: _typed(name, value) for name, value in config.items()}
    for name, value in full.items():
        _check_range(name, value)
    try:
        row = find_norm(full["norm.name"])
        find_kernel(full["norm.kernel"])
        if needs_data or full["data.name"] not in DATASETS:
            check(full["data.name"], data_dir)
    except ValueError as error:  # DataError is one
        is_known = full["norm.name"] in NORMS
        hint = "" if is_known else "; one of your own needs --norms=FILE"
        raise ConfigError(f"{error}{hint}") from error
    if full["model.name"] not in MODELS:
        raise ConfigError(f"unknown model {full['model.name']!r} (models: {', '.join(MODELS)})")
    resolved, notes = _reset_unused(full, row)
    check_training(resolved)
    row = find_norm(resolved["norm.name"])
    _check_layers(resolved, row)
    return Resolved(resolved, notes)


def _typed(name: str, value: Any) -> Any:
    if name not in SETTINGS:
        raise ConfigError(f"unknown setting {name!r}{nearest_setting(name)}")
    default = SETTINGS[name].default
    if isinstance(default, tuple) and isinstance(value, (list, tuple)) and value:
        if all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value):
            return tuple(value)
    elif isinstance(default, float) and isinstance(value, (int, float)):
        if not isinstance(value, bool):
            is_huge = isinstance(value, int) and abs(value) > LARGEST
            return math.inf if is_huge else float(value)
    elif type(value) is type(default) and value != ():
        return value
    kind = "tuple of positive int" if isinstance(default, tuple) else type(default).__name__
    raise ConfigError(f"{name} = {value!r} is not of type {kind} (default: {default!r})")


def _check_range(name: str, value: Any) -> None:
    setting = SETTINGS[name]
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{name} = {value!r} is not one of {', '.join(setting.choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value} is not finite")
    if setting.low is not None:
        is_low = value <= setting.low if setting.is_open else value < setting.low
        if is_low:
            above = "above" if setting.is_open else "at least"
            raise ConfigError(f"{name} = {value} must be {above} {setting.low}")
    if isinstance(value, tuple):
        if len(value) > LAYERS or max(value) > WIDEST:
            told = f"at most {LAYERS} widths of at most {WIDEST}"
            raise ConfigError(f"{name} = {str(value):.60}... must be {told}")
    elif setting.high is not None and value > setting.high:
        raise ConfigError(f"{name} = {value} must be at most {setting.high}")


def _unused(config: Config, row: Norm) -> list[str]:
    model = MODELS[config["model.name"]]
    names = [n for n in SETTINGS if n.startswith("norm.") and n != "norm.name"]
    unused = [n for n in names if n.removeprefix("norm.") not in row.options + COMMON]
    names = [n for n in SETTINGS if n.startswith("model.") and n != "model.name"]
    unused += [n for n in names if n.removeprefix("model.") not in model.options]
    if config["optim.name"] == "sgd":
        unused.append("optim.momentum")
    if not row.running_statistics:
        unused += ["eval.stats_examples", "eval.batch_statistics"]
    return unused


def _reset_unused(config: Config, row: Norm) -> tuple[Config, list[str]]:
    config, notes = dict(config), []
    if row.equals and not MODELS[config["model.name"]].is_convolutional:
        notes.append(f"norm.name={config['norm.name']} is {row.equals} in a network without space")
        config["norm.name"] = row.equals
    for name in _unused(config, row):
        if config[name] != SETTINGS[name].default:
            notes.append(f"{name}={config[name]} is not used here and reset to the default")
            config[name] = SETTINGS[name].default
    if config["norm.stats_batch"] == config["data.batch"]:
        config["norm.stats_batch"] = 0
    examples = training_examples(config)
    config["eval.stats_examples"] = min(config["eval.stats_examples"], examples)
    return config, notes


def _check_layers(config: Config, row: Norm) -> None:
    model, image = MODELS[config["model.name"]], DATASETS[config["data.name"]].shape
    try:
        if model.check:
            model.check(config, row)
        shapes = model.shapes(config, image)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    name = config["norm.name"]
    for i, (height, width, channels) in enumerate(shapes, 1):
        if row.grouped and channels % config["norm.groups"]:
            legal = [g for g in range(1, channels + 1) if channels % g == 0]
            raise ConfigError(
                f"norm.groups = {config['norm.groups']} does not divide the {channels} channels "
                f"of layer {i}; use one of {legal}"
            )
        values = _values_per_statistic(config, row, height, width, channels)
        if row.needs_space and height * width < 2:
            values = 1
        if row.over and values < 2:
            raise ConfigError(
                f"norm.name = {name!r}: a statistic of layer {i} would be made of {values} value "
                f"(H, W, C = {height}, {width}, {channels}), at least 2 are needed; use a larger "
                "batch or a scheme that averages over more axes"
            )
    if "shift" in find_kernel(config["norm.kernel"]).invariant and not model.is_convolutional:
        fan_ins = [math.prod(image), *(c for _, _, c in shapes[:-1])]
        if min(fan_ins) < 2:
            raise ConfigError(
                f"norm.kernel = {config['norm.kernel']!r} needs at least 2 inputs to every layer, "
                f"model.widths = {config['model.widths']} gives 1; use wider layers"
            )
    if row.act and config["model.placement"] == "post":
        raise ConfigError(
            f"model.placement = 'post': norm {name!r} replaces the activation too and can only "
            "stand in its place; use placement 'pre'"
        )
    channels = shapes[-1][2]
    is_per_channel = row.needs_space or (row.grouped and config["norm.groups"] == channels)
    if (
        config["model.placement"] == "post"
        and model.ends_in_global_mean
        and row.centered
        and is_per_channel
    ):
        raise ConfigError(
            f"model.placement = 'post' puts norm {name!r} right before the global mean of "
            f"{config['model.name']!r}, whose output is then a constant; use placement 'pre'"
        )


def _values_per_statistic(config: Config, row: Norm, height: int, width: int, channels: int) -> int:
    sizes = {
        "N": config["norm.stats_batch"] or config["data.batch"],
        "H": height,
        "W": width,
        "C": channels,
        "C/G": channels // config["norm.groups"] if row.grouped else channels,
    }
    return math.prod(sizes[letter] for letter in row.over)


def identity(config: Config) -> Config:
    """Return what makes a run itself: its settings without those of the host, nor any that is at
    the value it had when it was introduced; so adding a setting keeps every id."""
    kept = {
        name: value
        for name, value in config.items()
        if SETTINGS[name].kind != "host" and value != SETTINGS[name].silent
    }
    version = find_norm(config["norm.name"]).version
    return kept | ({"norm.version": version} if version > 1 else {}) | outside_file(config)


def outside_file(config: Config) -> Config:
    """Return the hash of the file that a run's norm comes from, {} for a norm of normlab."""
    row = find_norm(config["norm.name"])
    return {"norm.file": row.sha256} if isinstance(row, OutsideNorm) else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def config_sha256(config: Config) -> str:
    """Return the sha256 of a resolved configuration, whatever the order of its settings."""
    return _digest(identity(config))


def run_id(config: Config) -> str:
    """Return the name of the run of a resolved configuration: 16 hex digits of its sha256."""
    return config_sha256(config)[:16]


def program_id(config: Config) -> str:
    """Return the name of the compiled program that trains a run."""
    return _digest([*program_key(config), *outside_file(config).items()])[:16]


def cohort_id(config: Config) -> str:
    """Return the name of the cohort: the runs that may train in one population."""
    kept = {n: v for n, v in config.items() if SETTINGS[n].kind in ("static", "observe")}
    return _digest(kept)[:16]
