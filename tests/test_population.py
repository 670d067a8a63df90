"""A member of a population gets the result that it gets alone, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from small_runs import small, train

from normlab import data
from normlab.settings import Config
from normlab.training.population import Outcome, Population, choose_conv, choose_mode

WIDTH = 12
NET = {"model.name": "cnn", "model.widths": (4, 4), "norm.name": "batch", "train.steps": 10}


def members(mode: str, width: int) -> list[Config]:
    """Twelve runs that differ in every traced setting."""
    changes = NET | {"host.mode": mode, "host.width": width, "train.eval_every": 10}
    return [
        small(
            changes,
            seed=i % 4,
            optim__lr=0.02 * 1.5 ** (i % 5),
            optim__momentum=[0.0, 0.5, 0.9][i % 3],
            optim__weight_decay=[0.0, 1e-3][i % 2],
            init__gain=[0.5, 1.0, 2.0, 1.5][i // 3],
        )
        for i in range(WIDTH)
    ]


Result = tuple[Outcome, Any]


def run(configs: list[Config], dataset: data.Dataset) -> list[Result]:
    """Outcome and final state of each member."""
    outcomes, states = train(configs, dataset)
    states = jax.device_get(states._replace(key=states.step))
    return [(o, jax.tree.map(lambda v, i=i: v[i], states)) for i, o in enumerate(outcomes)]


def assert_equal_bits(one: Result, two: Result) -> None:
    assert one[0].curve == two[0].curve
    assert one[0].final == two[0].final
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("synthetic")


@pytest.fixture(scope="module")
def mapped(dataset) -> list[Result]:
    return run(members("map", WIDTH), dataset)


@pytest.fixture(scope="module")
def at_once(dataset) -> list[Result]:
    return run(members("vmap", WIDTH), dataset)


def test_under_map_a_member_gets_the_result_it_gets_alone(mapped, dataset):
    for config, expected in zip(members("map", 1), mapped, strict=True):
        (alone,) = run([config], dataset)
        assert_equal_bits(alone, expected)
    losses = [r[0].final["test_loss"] for r in mapped]
    assert len(set(losses)) == WIDTH


@pytest.mark.parametrize("mode", ["map", "vmap"])
def test_at_equal_width_neither_slot_nor_padding_matters(mode, mapped, at_once, dataset):
    configs, together = members(mode, WIDTH), mapped if mode == "map" else at_once
    for group in ([3], [11, 5, 0, 7], list(range(WIDTH - 1, -1, -1))):
        for i, result in zip(group, run([configs[i] for i in group], dataset), strict=True):
            assert_equal_bits(result, together[i])


def test_map_and_vmap_agree_to_rounding(mapped, at_once):
    for (one, _), (other, _) in zip(mapped, at_once, strict=True):
        assert one.final["test_loss"] == pytest.approx(other.final["test_loss"], rel=1e-3)


def test_a_population_wider_than_its_setting_is_not_cut(dataset):
    outcomes, states = train([small(seed=s, host__width=1) for s in range(3)], dataset)
    assert len(outcomes) == 3 and states.is_alive.shape == (3,)
    assert all(o.final for o in outcomes)


def test_padding_is_not_alive(dataset):
    _, states = train([small(host__width=3)], dataset)
    np.testing.assert_array_equal(states.is_alive, [True, False, False])
    np.testing.assert_array_equal(states.step, [20, 0, 0])


def test_a_cpu_chooses_map_and_the_forms_that_suit_it_unless_told():
    assert choose_mode("auto") == "map" and choose_mode("vmap") == "vmap"
    assert choose_conv("auto", "map") == "cpu" and choose_conv("auto", "vmap") == "patches"
    assert choose_conv("lax", "map") == "lax"


LATE = {"train.late_batch": 4, "train.late_from": 5}


@pytest.mark.parametrize("changes", [LATE, {"train.stop_at_loss": 0.5}])
def test_under_vmap_the_data_set_is_not_copied_to_the_members(changes, dataset):
    """A branch on a predicate of each member's own would copy it: to 14 tensors here."""
    changes = changes | {"eval.train_examples": 100, "eval.probes": "activations"}
    config = small(NET | changes | {"host.mode": "vmap", "host.width": 3})
    population = Population([config], dataset)
    states = jax.eval_shape(population.program.start, *population._start_inputs())
    inputs = population.hyper, population.batches(0, 5), population.schedule.chunk(0, 5)
    advance: Any = population.program.advance
    lowered = advance.lower(states, *inputs, population.images)
    rows, values = dataset.images.shape
    assert f"tensor<{rows}x{values}xui8>" in lowered.as_text()
    assert f"tensor<3x{rows}x{values}xui8>" not in lowered.as_text()
