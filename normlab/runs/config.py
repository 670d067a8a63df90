"""From what somebody typed to the resolved configuration that a run is a pure function of."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, NamedTuple

from normlab.data import DATASETS, OutsideData, UnknownDataset, check
from normlab.layers.table import find_kernel
from normlab.models.table import MODELS
from normlab.norms.table import COMMON, NORMS, Norm, find_norm
from normlab.outside import OutsideRow
from normlab.runs.constraints import check_constraints, training_examples
from normlab.runs.errors import ConfigError
from normlab.settings import LATER, SETTINGS, Config, defaults, nearest_setting, program_key

DRAWN = ("seed", "init.seed", "optim.lr")
"""What a study chooses for every run. No other setting depends on these."""
OF_ALL = ("dtype", "precision")
"""Settings `model.*` that every network takes, or refuses."""
LAYERS, WIDEST, LARGEST = 1000, 65_536, 10**300
"""Limits of what is counted up to before anything runs, and of whole numbers."""


class Resolved(NamedTuple):
    config: Config
    notes: list[str]
    """Settings that were reset because nothing in this configuration takes them."""


def resolve(config: Config, data_dir: str | None = None, needs_data: bool = True) -> Resolved:
    """Return `config` complete, checked and canonical; raises ConfigError.

    `needs_data`: also that its data set is prepared under `data_dir`, which reports need not.
    Settings that the scheme, network or optimiser does not take are reset to their defaults. So two
    configurations of the same run have the same id.
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
        hint = "; one of your own needs --data=FILE" if isinstance(error, UnknownDataset) else hint
        raise ConfigError(f"{error}{hint}") from error
    if full["model.name"] not in MODELS:
        raise ConfigError(
            f"unknown model {full['model.name']!r} (models: {', '.join(MODELS)}); one of your own "
            "needs --model=FILE"
        )
    resolved = Resolved(*_reset_unused(full, row))
    check_constraints(resolved.config)
    return resolved


def redrawn(config: Config, settings: Config) -> Config:
    """Return a resolved configuration with the values of DRAWN that `settings` has; raises
    ConfigError. It is a tenth of the work of `resolve`."""
    drawn = {name: _typed(name, settings[name]) for name in DRAWN if name in settings}
    for name, value in drawn.items():
        _check_range(name, value)
    return config | drawn


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
            limit = f"at most {LAYERS} widths of at most {WIDEST}"
            raise ConfigError(f"{name} = {str(value):.60}... must be {limit}")
    elif setting.high is not None and value > setting.high:
        raise ConfigError(f"{name} = {value} must be at most {setting.high}")


def _unused(config: Config, row: Norm) -> list[str]:
    """Return the settings that the norm, the network and the optimiser do not take."""
    model = MODELS[config["model.name"]]
    taken = {"norm": (*row.options, *COMMON), "model": (*model.options, *OF_ALL)}
    if model.has_time and row.over and not row.is_per_sample:
        taken["norm"] += ("time", "masked", *(("least",) if "cell" in model.options else ()))
    made = ["data.length", "data.length_spread", "data.patch", "data.permuted"]
    unused = [] if model.has_time else made
    has_law = config["data.length_spread"] or config["data.length_law"] == "natural"
    unused += [] if model.has_time and has_law else ["data.length_law"]
    unused += [] if "cell" in model.options else ["eval.long"]
    unused += [] if "scale" in row.parameters else ["init.norm_scale"]
    for name in SETTINGS:
        room, _, option = name.partition(".")
        if room in taken and option not in (*taken[room], "name"):
            unused.append(name)
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
        setting = SETTINGS[name]
        if config[name] not in (setting.default, setting.identity_default):
            notes.append(f"{name}={config[name]} is not used here and reset to the default")
        config[name] = setting.identity_default  # a new default changes no id of a run without it
    if config["norm.stats_batch"] == config["data.batch"]:
        config["norm.stats_batch"] = 0
    seen = config["eval.stats_examples"]
    config["eval.stats_examples"] = min(seen, training_examples(config))
    return config, notes


def identity(config: Config) -> Config:
    """Return what makes a run itself: its settings without those of execution. A setting that has
    the value of its introduction is left out, so adding a setting keeps every id."""
    kept = {
        name: value
        for name, value in config.items()
        if SETTINGS[name].kind != "execution" and value != SETTINGS[name].identity_default
    }
    version, data = find_norm(config["norm.name"]).version, DATASETS.get(config["data.name"])
    if isinstance(data, OutsideData):
        kept["data.name"] = data.sha256  # the name of the file is no part of the run
    return kept | ({"norm.version": version} if version > 1 else {}) | outside_file(config)


def outside_file(config: Config) -> Config:
    """Return the hashes of the files that a run's norm and its network come from, if any."""
    rows = {"norm": find_norm(config["norm.name"]), "model": MODELS.get(config["model.name"])}
    return {f"{k}.file": row.sha256 for k, row in rows.items() if isinstance(row, OutsideRow)}


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
    key = [
        (name, value)
        for name, value in program_key(config)
        if name not in LATER or value != SETTINGS[name].identity_default
    ]
    return _digest([*key, *outside_file(config).items()])[:16]


def cohort_id(config: Config) -> str:
    """Return the name of the cohort: the runs that may train in one population."""
    kept = {n: v for n, v in config.items() if SETTINGS[n].kind in ("static", "measurement")}
    return _digest(kept)[:16]
