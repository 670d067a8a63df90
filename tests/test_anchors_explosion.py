"""What theory predicts of gradients at initialisation comes out of normlab's own network."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.page import Table
from benchmarks.validation import theory
from benchmarks.validation.theory import Case, Growth, Squares, growth


def test_the_predictions_are_the_published_ones():
    assert theory.RELU == pytest.approx(1.467, abs=5e-4)
    assert theory.linear(8) == pytest.approx(1.2)
    predicted = {(c.act, c.norm, c.batch): c.predicted for c in theory.CASES}
    assert predicted["relu", "batch", 64] == theory.RELU
    assert predicted["relu", "batch", 8] is None


DEPTH, SPAN = 12, (4, 11)


@pytest.fixture(scope="module")
def measured() -> dict[str, Squares]:
    """Relu networks with batch norm, before and after one step, and the same without norm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theory, "DEPTH", DEPTH)
        batch = theory.measure(Case("relu", "batch", 64, 256), rates=(1.0,), seeds=2)
        none = theory.measure(Case("relu", "none", 64, 256), seeds=2)
    return {"batch": batch[0], "stepped": batch[1], "none": none[0]}


def test_gradients_explode_behind_batch_norm_as_predicted(measured):
    for squares in measured["batch"]:
        assert squares.shape == (2, DEPTH)
        assert growth(squares, SPAN).mean == pytest.approx(theory.RELU, rel=0.05)


def test_without_norm_he_weights_keep_the_gradient(measured):
    assert growth(measured["none"].outputs, SPAN).mean == pytest.approx(1, rel=0.1)


def test_a_step_lowers_the_growth(measured):
    for before, after in zip(measured["batch"], measured["stepped"], strict=True):
        assert growth(after, SPAN).mean < 0.95 * growth(before, SPAN).mean


def test_the_gradients_are_those_of_the_outputs_and_kernels(monkeypatch):
    monkeypatch.setattr(theory, "DEPTH", 2)
    case = Case("linear", "none", 3, 4)
    net = theory.network(case)
    one = theory.draw(net, case, 0)
    _, squares = theory.make_gradients(net, case)(one)
    layers = [one.params[name] for name in ("dense_1", "dense_2", "head")]
    first = one.x @ layers[0]["kernel"] + layers[0]["bias"]
    second = first @ layers[1]["kernel"] + layers[1]["bias"]
    shares = jax.nn.softmax(second @ layers[2]["kernel"] + layers[2]["bias"])
    of_logits = (shares - jax.nn.one_hot(one.y, theory.CLASSES)) / 3
    of_second = of_logits @ layers[2]["kernel"].T
    of_first = of_second @ layers[1]["kernel"].T
    outputs = [jnp.sum(of_first**2), jnp.sum(of_second**2)]
    kernels = [jnp.sum((one.x.T @ of_first) ** 2), jnp.sum((first.T @ of_second) ** 2)]
    np.testing.assert_allclose(squares.outputs, outputs, rtol=1e-5)
    np.testing.assert_allclose(squares.kernels, kernels, rtol=1e-5)


def test_the_growth_is_per_layer_towards_the_input():
    squares = np.array([[8.0, 4.0, 2.0, 1.0], [27.0, 9.0, 3.0, 1.0]])
    found = growth(squares, (1, 4))
    assert found.mean == pytest.approx(2.5)
    assert found.half == pytest.approx(12.706 * math.sqrt(0.5) / math.sqrt(2), rel=1e-4)
    assert growth(squares, (2, 3)).mean == pytest.approx(2.5)


def test_a_prediction_passes_where_the_whole_interval_is_near():
    assert Growth(1.02, 0.009).is_within(0.03, 1.0)
    assert not Growth(1.02, 0.011).is_within(0.03, 1.0)
    assert not Growth(0.96, 0.001).is_within(0.03, 1.0)
    assert not Growth(math.nan, 0.0).is_within(0.03, 1.0)


def powers(base: float) -> Squares:
    """Gradients that grow by about `base` a layer."""
    squares = (base * np.array([[0.999], [1.001]])) ** -np.arange(theory.DEPTH)
    return Squares(squares, squares)


def test_the_page_says_which_predictions_hold():
    right, wrong, free = (
        Case("relu", "batch", b, 8, p) for b, p in ((64, 1.5), (8, 1.5), (2, None))
    )
    grid = {right: powers(1.5), wrong: powers(1.6), free: powers(3.0)}
    assert theory.verdict(grid).splitlines() == [
        "1 of 2 predictions hold.",
        f"- not: {wrong.title}",
    ]
    first, *_, after = theory.tables(grid, {0.0: powers(1.5), 0.1: powers(1.1)})
    assert isinstance(first, Table)
    assert [row[4] for row in first.rows] == ["pass", "**fail**", "-"]
    assert [row[0] for row in after.rows] == ["no step", "0.1"]
    assert after.rows[1][2].startswith("1.100")
