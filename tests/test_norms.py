"""Rows of NORMS: what they say, identities between them, refusals; the battery has the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import ORACLES

from normlab import norms
from normlab.norms import NORMS, build
from normlab.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {"epsilon": 1e-3, "momentum": 0.8, "groups": 2, "stats_batch": 0}
CONV = (6, 4, 3, 8)
STARTS = {"scale": 1.0, "bias": 0.0}
WITH_STATISTICS = [name for name, row in NORMS.items() if row.over]


def make(name: str, **options) -> nn.Module:
    """A layer with those of OPTIONS, overridden by `options`, that its row takes."""
    legal = NORMS[name].options + NORMS[name].arguments
    taken = {o: v for o, v in (OPTIONS | options).items() if o in legal}
    return build(name, **taken).norm(name="norm_1")


def draw(shape, loc=0.0, seed=0) -> np.ndarray:
    return (loc + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def init(norm: nn.Module, x) -> dict[str, Any]:
    return dict(norm.init(jax.random.key(0), x, train=True))


def evaluate(norm: nn.Module, variables, x, train=False) -> Any:
    return norm.apply(variables, x, train=train)


def variables_of(norm: nn.Module, x) -> dict[str, Any]:
    """Initial variables, with a scale of 1 and a bias of 0 moved away from there."""
    variables = init(norm, x)
    params = {
        k: draw(v.shape, 1.0, seed=5) if np.array_equal(v, np.full(v.shape, STARTS.get(k))) else v
        for k, v in variables.get("params", {}).items()
    }
    return {**variables, "params": params}


def train_mode(norm: nn.Module):
    """(variables, x, mask) -> y and the state it leaves."""
    return lambda variables, x, mask=None: norm.apply(
        variables, x, train=True, mask=mask, mutable=["batch_stats", "norm_state"]
    )


def test_every_row_has_an_oracle():
    assert set(ORACLES) == set(NORMS)


@pytest.mark.parametrize("name", NORMS)
def test_parameters_and_state_are_those_of_the_row(name):
    row, channels = NORMS[name], CONV[-1]
    variables = init(make(name), draw(CONV))
    shapes = {k: v.shape for k, v in variables.get("params", {}).items()}
    assert set(shapes) == set(row.parameters)
    assert all(shapes.get(k, (channels,)) == (channels,) for k in STARTS)
    stats = variables.get("batch_stats", {})
    assert bool(stats) == row.running_statistics
    assert set(stats) <= {"mean", "mean_lo", "var"} and ("mean" in stats) == ("mean_lo" in stats)
    assert all(v.shape == (channels,) for v in stats.values())


def train_outputs(name, x, **options):
    """Output, gradient and new state in training mode, with non-trivial parameters."""
    norm = make(name, **options)
    variables = variables_of(norm, x)
    cotangent = draw(x.shape, seed=9)

    def value(x):
        y, moved = train_mode(norm)(variables, x)
        return jnp.sum(cotangent * y), (y, moved)

    slope, (y, moved) = jax.jit(jax.grad(value, has_aux=True))(x)
    return y, slope, moved


def assert_same(one, two):
    for a, b in zip(one[:2], two[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(8, 4), CONV[:3] + (4,)])
def test_ghost_batches_are_separate_batch_norms(shape):
    x, size = draw(shape, 2.0), 2
    y, _, moved = train_outputs("batch", x, stats_batch=size)
    parts = [x[i : i + size] for i in range(0, len(x), size)]
    norm = make("batch")
    variables = variables_of(norm, x)
    separate = [train_mode(norm)(variables, part) for part in parts]
    np.testing.assert_allclose(y, np.concatenate([s[0] for s in separate]), rtol=1e-5, atol=1e-6)
    averaged = jax.tree.map(lambda *v: np.mean(v, axis=0), *[s[1] for s in separate])
    for leaf in ("mean", "var"):
        np.testing.assert_allclose(
            moved["batch_stats"][leaf], averaged["batch_stats"][leaf], rtol=1e-5
        )


def test_one_ghost_batch_is_the_whole_batch():
    x = draw(CONV)
    whole = train_outputs("batch", x, stats_batch=0)
    jax.tree.map(
        np.testing.assert_array_equal, train_outputs("batch", x, stats_batch=len(x)), whole
    )


def test_group_of_each_channel_is_instance_and_of_all_is_layer():
    x = draw(CONV, 2.0)
    assert_same(train_outputs("group", x, groups=CONV[-1]), train_outputs("instance", x))
    assert_same(train_outputs("group", x, groups=1), train_outputs("layer", x))


def test_batch_of_one_image_is_instance():
    x = draw((1, *CONV[1:]), 2.0)
    assert_same(train_outputs("batch", x), train_outputs("instance", x))


def test_rms_is_layer_norm_of_centred_input():
    x = draw((6, 8))
    x = x - x.mean(1, keepdims=True)
    layer = build("layer_channels", epsilon=1e-3).norm(name="norm_1")
    y, _ = layer.init_with_output(jax.random.key(0), x)
    rms, _ = build("rms", epsilon=1e-3).norm(name="norm_1").init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(rms, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n, row in NORMS.items() if row.equals])
def test_rows_that_equal_another_on_dense_input(name):
    x = draw((4, 8))
    assert_same(train_outputs(name, x), train_outputs(NORMS[name].equals, x))


@pytest.mark.parametrize("shape", [(16, 4), (4, 3, 3, 4)])
def test_batch_norm_gradient_sums_to_zero(shape):
    """sum dx = 0 and sum xhat dx = 0 per channel, for epsilon 0 (arXiv:1702.03275)."""
    x, axes = draw(shape, 3.0), tuple(range(len(shape) - 1))
    y, slope, _ = train_outputs("batch", x, epsilon=1e-12)
    exact = x.astype(np.float64)
    hat = (exact - exact.mean(axes)) / exact.std(axes)
    np.testing.assert_allclose(np.asarray(slope, np.float64).sum(axes), 0, atol=1e-5)
    np.testing.assert_allclose((np.asarray(slope, np.float64) * hat).sum(axes), 0, atol=1e-5)
    assert np.abs(slope).max() > 0.1


def test_dense_batch_norm_of_two_examples_emits_plus_and_minus_one():
    norm = build("batch", epsilon=1e-12).norm(name="norm_1")
    (y, _), _ = norm.init_with_output(jax.random.key(0), draw((2, 8)), train=True), None
    np.testing.assert_allclose(np.abs(y), 1, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, row in NORMS.items() if row.grouped])
def test_groups_must_divide_the_channels(name):
    message = r"norm_1: groups 3 does not divide C = 8; use one of \[1, 2, 4, 8\]"
    with pytest.raises(ValueError, match=message) as error:
        make(name, groups=3).init(jax.random.key(0), draw(CONV))
    assert "\n" not in str(error.value)


def test_ghost_batches_must_divide_the_batch():
    with pytest.raises(ValueError, match="norm_1: stats_batch 4 does not divide the batch of 6"):
        make("batch", stats_batch=4).init(jax.random.key(0), draw(CONV), train=True)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_a_statistic_of_one_value_is_refused(name):
    x = draw((1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"norm_1: .*\(1, 1, 1, 1\).*1 value, at least 2"):
        make(name, groups=1).init(jax.random.key(0), x, train=True)
    allowed = make(name, groups=1, allow_degenerate=True)
    y, _ = allowed.init_with_output(jax.random.key(0), x, train=True)
    assert np.isfinite(y).all()


def test_unknown_names_and_options_are_refused_with_the_list():
    with pytest.raises(ValueError, match="unknown norm 'bathc'; did you mean 'batch'") as error:
        build("bathc")
    assert all(name in str(error.value) for name in NORMS)
    with pytest.raises(ValueError, match=r"'layer' takes no option 'groups' \(it takes epsilon, "):
        build("layer", groups=2)
    with pytest.raises(ValueError, match="unknown conv_form 'fft'"):
        build("layer", conv_form="fft")


def test_statistics_go_to_flax_and_back():
    x, ours = draw(CONV, 1e4), make("batch")
    theirs = nn.BatchNorm(use_running_average=True, epsilon=OPTIONS["epsilon"])
    variables = variables_of(ours, x)
    variables |= train_mode(ours)(variables, x)[1]
    tree = {"block": {"norm_1": variables["batch_stats"]}}
    released = norms.release(tree)
    assert set(released["block"]["norm_1"]) == {"mean", "var"}
    near = draw(CONV)
    flax = {"params": variables["params"], "batch_stats": released["block"]["norm_1"]}
    expected: Any = theirs.apply(flax, near)
    np.testing.assert_allclose(evaluate(ours, variables, near), expected, rtol=1e-5, atol=1e-5)
    apart = {"mean": np.float32(1), "mean_lo": np.float32(0.5), "var": np.float32(2)}
    assert norms.release(apart) == {"mean": 1.5, "var": 2}
    adopted = norms.adopt(released)
    np.testing.assert_array_equal(adopted["block"]["norm_1"]["mean_lo"], 0)
    jax.tree.map(np.testing.assert_array_equal, norms.release(adopted), released)
    flax["batch_stats"] = adopted["block"]["norm_1"]
    np.testing.assert_allclose(evaluate(ours, flax, near), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_rows_say_what_their_modules_take(name):
    row, module = NORMS[name], make(name)
    assert set(row.options) <= set(type(module).__dataclass_fields__)
    assert set(row.over) <= {"N", "H", "W", "T", "C", "C/G"}
    assert row.grouped == ("C/G" in row.over) == ("groups" in row.options)
    assert set(row.arguments) <= set(type(module).__dataclass_fields__)
    assert row.running_statistics == ("momentum" in row.options)
    assert all(f"norm.{option}" in SETTINGS for option in row.options)
    assert row.title and (row.source or not row.over)


def test_the_table_is_readable_without_jax():
    code = (
        "import sys, normlab.norms as n; print(','.join(n.NORMS)); "
        "sys.exit(any(m in sys.modules for m in ('jax', 'flax', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, ",".join(NORMS))


def test_masked_groups_weigh_nothing_in_running_statistics():
    """Ghost batches of which one is all padding: the running ones are those of the valid rows."""
    layer = norms.BatchNorm(stats_batch=4, momentum=0.0)
    x = 5 + jax.random.normal(jax.random.key(0), (12, 3))
    mask = jnp.arange(12)[:, None] < 8
    variables = layer.init(jax.random.key(1), x, train=True)
    moved: Any = layer.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
    stats = moved[1]["batch_stats"]
    groups = np.asarray(x[:8], np.float64).reshape(2, 4, 3)
    np.testing.assert_allclose(stats["mean"] + stats["mean_lo"], groups.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], groups.var(1).mean(0), rtol=1e-5)


@pytest.mark.parametrize("name", [n for n, row in norms.NORMS.items() if row.over])
def test_a_mask_that_does_not_broadcast_is_refused(name):
    layer = norms.build(name).norm(name="norm_1")
    x = jnp.ones((4, 4, 4, 4))
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) does not broadcast .* \[N, 1\]"):
        layer.init(jax.random.key(0), x, train=True, mask=jnp.ones(3, bool))
