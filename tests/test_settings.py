"""The table of settings: reasons, defaults, nesting, evaluation times."""

from __future__ import annotations

import pytest

from normlab.runs.config import ConfigError, resolve
from normlab.settings import (
    SETTINGS,
    defaults,
    flatten,
    nearest_setting,
    nest,
    program_key,
)
from normlab.training.evaluation_steps import eval_steps

RANGED = [
    (name, side) for name, s in SETTINGS.items() for side in ("low", "high") if getattr(s, side)
]


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_has_a_reason_and_a_legal_default(name):
    setting = SETTINGS[name]
    assert setting.why and setting.kind in ("static", "traced", "measurement", "execution")
    assert not setting.choices or setting.default in setting.choices
    assert resolve({name: setting.default}).config == resolve({}).config


@pytest.mark.parametrize("name, side", RANGED)
def test_range_is_refused_beyond_its_ends(name, side):
    setting = SETTINGS[name]
    limit = type(setting.default)(getattr(setting, side))
    step = 1 if side == "high" else -1
    with pytest.raises(ConfigError, match=rf"^{name} = .* must be a(t|bove)"):
        resolve({name: limit + step})


def test_fixed_names_exist():
    """People type these; renaming one breaks their command lines."""
    names = """seed data.name data.batch model.name model.placement model.widths model.depth
    norm.name norm.groups norm.epsilon norm.momentum norm.stats_batch optim.name optim.lr
    optim.momentum optim.weight_decay optim.schedule init.gain train.steps train.eval_every"""
    assert set(names.split()) <= set(SETTINGS)


def test_nest_and_flatten_are_inverse():
    config = defaults()
    tree = nest(config)
    assert tree["norm"]["epsilon"] == 1e-5 and tree["seed"] == 0
    assert flatten(tree) == config


def test_nearest_setting():
    assert nearest_setting("optimizer.lr") == "; did you mean 'optim.lr'?"
    assert nearest_setting("zzz") == ""


@pytest.mark.parametrize("growth", [1.0, 1.05, 1.1, 1.5, 2.0])
@pytest.mark.parametrize("every", [1, 7, 50, 400])
@pytest.mark.parametrize("steps", [1, 2, 49, 50, 51, 300, 10_000])
def test_evaluation_times(steps, every, growth):
    """Increasing, ending with the last step; never farther apart than `every` or the factor."""
    points = eval_steps(steps, every, growth)
    assert points[0] == min(every, steps) and points[-1] == steps
    for before, after in zip(points, points[1:], strict=False):
        assert before < after
        assert after - before <= every or after / before <= growth
    for before, after in zip(points, points[1:-1], strict=False):
        assert after - before >= every


def test_times_to_a_target_are_dense():
    """The studies of speed evaluate by a factor of at most 1.1 from step 10 on."""
    points = eval_steps(1500, 1, 1.1)
    assert points[:10] == list(range(1, 11))
    assert all(b <= max(1.1 * a, a + 1) for a, b in zip(points, points[1:], strict=False))
    assert len(points) < 70


def test_program_depends_on_network_and_norm_alone():
    config = defaults()
    for name in ("seed", "optim.lr", "train.steps", "optim.schedule", "train.eval_every"):
        assert program_key(config | {name: SETTINGS[name].low or 5}) == program_key(config)
    for change in ({"norm.name": "group"}, {"data.batch": 32}, {"model.widths": (8,)}):
        assert program_key(config | change) != program_key(config)
