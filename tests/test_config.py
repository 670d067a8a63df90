"""Resolving configurations: refusals, what is reset, and the names of runs."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from typing import Any

import pytest

from normlab.runs.config import ConfigError, cohort_id, program_id, redrawn, resolve, run_id
from normlab.settings import SETTINGS, Setting, defaults, from_json
from normlab.studies.setup import config_names, load_config

CNN = {"model.name": "cnn", "model.widths": (16, 32, 64)}

REFUSED = {
    "unknown key": ({"optim.lrr": 1}, "unknown setting 'optim.lrr'; did you mean 'optim.lr'?"),
    "wrong type": ({"optim.lr": "fast"}, "optim.lr = 'fast' is not of type float"),
    "float for int": ({"seed": 1.0}, "seed = 1.0 is not of type int"),
    "bool for int": ({"seed": True}, "seed = True is not of type int"),
    "bool for float": ({"optim.lr": True}, "optim.lr = True is not of type float"),
    "off for float": ({"optim.weight_decay": False}, "= False is not of type float"),
    "bool in a tuple": ({"model.widths": (3, True)}, "is not of type tuple of positive int"),
    "empty tuple": ({"model.widths": ()}, "is not of type tuple of positive int"),
    "below": ({"data.batch": 0}, "data.batch = 0 must be at least 1"),
    "open end": ({"optim.lr": 0}, "optim.lr = 0.0 must be above 0"),
    "zero in float32": ({"norm.epsilon": 1e-60}, "norm.epsilon = 1e-60 must be at least 1e-30"),
    "above": ({"norm.momentum": 1.5}, "norm.momentum = 1.5 must be at most 1"),
    "nan": ({"optim.lr": float("nan")}, "optim.lr = nan is not finite"),
    "infinite": ({"init.gain": float("inf")}, "init.gain = inf is not finite"),
    "choice": ({"optim.name": "lion"}, "is not one of sgd, momentum, adam, adamw"),
    "norm": (
        {"norm.name": "gruop"},
        "unknown norm 'gruop'; did you mean 'group'? (norms: none, affine, batch,",
    ),
    "model": (
        {"model.name": "resnext"},
        "unknown model 'resnext' (models: mlp, cnn, vgg, resnet, resnet50, rnn, encoder, decoder)",
    ),
    "data": ({"data.name": "mnits"}, "choose one of digits, mnist, fashion_mnist, synthetic"),
    "groups": (
        {"norm.name": "group", "norm.groups": 7},
        "norm.groups = 7 does not divide the 100 channels of layer 1; "
        "use one of [1, 2, 4, 5, 10, 20, 25, 50, 100]",
    ),
    "groups of a later layer": (
        {"norm.name": "group", "norm.groups": 8, "model.widths": (64, 36)},
        "does not divide the 36 channels of layer 2",
    ),
    "stats_batch": (
        {"norm.stats_batch": 7},
        "does not divide data.batch = 64; use one of [1, 2, 4, 8, 16, 32, 64]",
    ),
    "batch larger than the data": (
        {"data.batch": 898},
        "data.batch = 898 is larger than the 897 training examples of digits; use at most 897",
    ),
    "warm-up": ({"optim.warmup": 300}, "optim.warmup = 300 must be below train.steps = 300"),
    "instance without space": ({"norm.name": "instance"}, "would be made of 1 value"),
    "one example": ({"norm.stats_batch": 1}, "a statistic of layer 1 would be made of 1 value"),
    "one channel in a group": (
        {"norm.name": "group", "norm.groups": 100},
        "would be made of 1 value",
    ),
    "image used up": (
        CNN | {"model.widths": (8, 8, 8, 8, 8)},
        "nothing is left of the image before layer 5",
    ),
    "instance before the mean": (
        CNN | {"norm.name": "instance", "model.placement": "post"},
        "norm 'instance' right before the global mean of 'cnn', whose output is then a constant",
    ),
    "group with one channel before the mean": (
        {
            "model.name": "cnn",
            "model.widths": (64, 64),
            "model.placement": "post",
            "norm.name": "group",
            "norm.groups": 64,
        },
        "norm 'group' right before the global mean",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    config, words = REFUSED[case]
    with pytest.raises(ConfigError) as refusal:
        resolve(config)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


ODD = (None, True, "", "x" * 5000, "a\nb", "é\u202e", b"x", [], {}, (), (0,), (1.5,), (1,) * 3000)
ODD += (-1, 0, 1, 2, 7, 97, 2**63, 10**400, -0.0, 5e-324, 0.5, 1e30, math.nan, math.inf)


def unlikely_config(rng: random.Random) -> dict[str, Any]:
    """Return up to three settings at their default, a choice, next to a limit or at an odd value;
    rarely one that does not exist."""
    config: dict[str, Any] = {}
    for name in rng.sample(sorted(SETTINGS), rng.randint(1, 3)):
        setting = SETTINGS[name]
        edges = [edge for edge in (setting.low, setting.high) if edge is not None]
        near = [type(setting.default)(edge + step) for edge in edges for step in (-1, 0, 1)]
        odd = rng.choice(ODD)
        config[name] = rng.choice([setting.default, *setting.choices, *near, odd, odd])
    return config | ({rng.choice(("", "x" * 5000, "é\n")): 1} if rng.random() < 0.1 else {})


@pytest.mark.parametrize("seed", range(10))
def test_unlikely_settings_are_refused_in_one_line_or_resolve_to_a_fixed_point(seed, tmp_path):
    rng, accepted = random.Random(seed), 0
    for _ in range(100):
        config = unlikely_config(rng)
        try:
            resolved = resolve(config, str(tmp_path)).config
        except ConfigError as refusal:
            assert "\n" not in str(refusal) and len(str(refusal)) <= 1000, config
            continue
        accepted += 1
        assert resolve(resolved, str(tmp_path)) == (resolved, []), config
        assert run_id(from_json(json.loads(json.dumps(resolved)))) == run_id(resolved), config
    assert 10 <= accepted <= 90


def test_unprepared_data_name_both_ways(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        resolve({"data.name": "mnist"}, str(tmp_path))
    assert "--prepare=mnist --manual_dir=DIR" in str(refusal.value)
    assert "--download" in str(refusal.value)


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["none", "affine", "batch", "layer", "group", "rms"])
def test_schemes_run_in_both_placements(norm, placement):
    for model in ({}, CNN):
        config = {**model, "norm.name": norm, "model.placement": placement}
        assert resolve(config).config["norm.name"] == norm


@pytest.mark.parametrize(
    "config, name",
    [
        ({"norm.name": "layer", "norm.momentum": 0.5}, "norm.momentum"),
        ({"norm.name": "none", "norm.epsilon": 1e-3}, "norm.epsilon"),
        ({"norm.groups": 2}, "norm.groups"),
        ({"model.stride": 2}, "model.stride"),
        ({"optim.name": "sgd", "optim.momentum": 0.5}, "optim.momentum"),
        ({"norm.name": "none", "eval.stats_examples": 64}, "eval.stats_examples"),
    ],
)
def test_unused_settings_are_reset_and_told(config, name):
    resolved, notes = resolve(config)
    assert resolved[name] == SETTINGS[name].identity_default
    assert len(notes) == 1 and notes[0].startswith(f"{name}={config[name]} is not used")
    without = {n: v for n, v in config.items() if n != name}
    assert run_id(resolved) == run_id(resolve(without).config)


def test_layer_channels_is_layer_without_space():
    resolved, notes = resolve({"norm.name": "layer_channels"})
    assert resolved["norm.name"] == "layer" and len(notes) == 1
    assert resolve({**CNN, "norm.name": "layer_channels"}).config["norm.name"] == "layer_channels"


def test_statistics_of_the_whole_batch_have_one_spelling():
    assert resolve({"norm.stats_batch": 64}).config["norm.stats_batch"] == 0
    assert resolve({"norm.stats_batch": 32}).config["norm.stats_batch"] == 32


@pytest.mark.parametrize("name", config_names())
def test_config_files_are_complete(name):
    config = load_config(name)
    assert set(config) == set(SETTINGS)
    if config["data.name"] == "digits":
        assert resolve(config).notes == []


# Runs lie under these names. Change a literal only when the same settings now mean another run
# (a default without `frozen` changed): then old results are no longer found, which must be wanted.
PINNED = {
    "c0a377a664f14988": {},
    "44136fa355b3678a": {"norm.momentum": 0.9},
    "61a40200b2ef4360": {"norm.name": "group"},
    "46a88d505477af68": {"norm.name": "none", "optim.lr": 0.3, "seed": 3},
    "dde45435a7ed1ab1": CNN,
    "be3fb6f70fb13f14": {**CNN, "norm.momentum": 0.9},
}


@pytest.mark.parametrize("name", PINNED)
def test_run_ids_are_pinned(name):
    assert run_id(resolve(PINNED[name]).config) == name


@pytest.mark.parametrize("name", config_names())
def test_another_seed_and_rate_need_no_second_check_of_the_rest(name):
    """Any other value in DRAWN would be one that something else depends on."""
    config, drawn = load_config(name), {"seed": 10_003, "init.seed": 7, "optim.lr": 1}
    found = redrawn(resolve(config, needs_data=False).config, drawn | {"data.batch": 2})
    expected = resolve(config | drawn, needs_data=False).config
    assert found == expected and run_id(found) == run_id(expected)
    assert type(found["optim.lr"]) is float
    for wrong in ({"optim.lr": -1.0}, {"seed": "1"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            redrawn(expected, wrong)


def test_run_id_does_not_depend_on_order_or_json():
    config = resolve({"norm.name": "group", "model.widths": (64, 32)}).config
    turned = dict(reversed(config.items()))
    read_back = from_json({n: list(v) if isinstance(v, tuple) else v for n, v in config.items()})
    assert run_id(config) == run_id(turned) == run_id(read_back)


def another_value(setting: Setting):
    if setting.choices:
        return next(c for c in setting.choices if c != setting.default)
    if isinstance(setting.default, str):
        return "group"
    if isinstance(setting.default, tuple):
        return (7,)
    return setting.default + type(setting.default)(1)


def test_settings_of_execution_are_these_alone():
    names = {name for name, setting in SETTINGS.items() if setting.kind == "execution"}
    hosts = {name for name in SETTINGS if name.startswith("host.")}
    assert names == hosts | {"train.checkpoint_seconds", "data.stream"}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_but_the_hosts_is_part_of_the_run(name):
    other = defaults() | {name: another_value(SETTINGS[name])}
    is_same = run_id(other) == run_id(defaults())
    assert is_same == (SETTINGS[name].kind == "execution")
    is_same_cohort = cohort_id(other) == cohort_id(defaults())
    assert is_same_cohort == (SETTINGS[name].kind in ("execution", "traced"))


def test_adding_a_setting_keeps_the_ids(monkeypatch):
    old = run_id(defaults())
    monkeypatch.setitem(SETTINGS, "train.new", Setting(0, "static", "introduced today"))
    assert run_id(defaults()) == old
    assert run_id(defaults() | {"train.new": 1}) != old


def test_changing_a_default_changes_new_ids_and_no_old_ones(monkeypatch):
    old_config = defaults()
    old = run_id(old_config)
    setting = SETTINGS["norm.epsilon"]
    changed = dataclasses.replace(setting, default=1e-3, frozen=setting.default)
    monkeypatch.setitem(SETTINGS, "norm.epsilon", changed)
    assert run_id(old_config) == old
    assert run_id(defaults()) != old


def test_a_new_version_of_a_scheme_changes_its_ids(monkeypatch):
    from normlab.norms.table import NORMS

    old, other = run_id(defaults()), run_id(defaults() | {"norm.name": "group"})
    monkeypatch.setitem(NORMS, "batch", dataclasses.replace(NORMS["batch"], version=2))
    assert run_id(defaults()) != old
    assert run_id(defaults() | {"norm.name": "group"}) == other


def test_a_program_keeps_its_name_when_settings_are_added():
    """Step times are stored under it."""
    cnn = {"norm.name": "group", "model.name": "cnn", "model.widths": (4,)}
    names = [program_id(resolve(config).config) for config in ({}, cnn)]
    assert names == ["14d99fceecea0c84", "d6934e59ac209424"]
    rnn = {"model.name": "rnn", "model.widths": (4,)}
    cells = [program_id(resolve(rnn | {"model.cell": c}).config) for c in ("gru", "lstm")]
    assert len({*names, *cells}) == 4
