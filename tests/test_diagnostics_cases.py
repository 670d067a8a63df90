"""Diagnostics whose answer is known in closed form, and what each kind of network gives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normlab.diagnostics import gradients, shift
from normlab.diagnostics.inputs import DiagnosticInputs
from normlab.diagnostics.names import probe_names
from normlab.diagnostics.rank import mean_cosine, stable_rank
from normlab.diagnostics.rotation import angle
from normlab.diagnostics.sizes import cosine, length, unit
from normlab.diagnostics.table import DIAGNOSTICS, STATEFUL
from normlab.diagnostics.taps import activation_inputs, name_of, outline, run
from normlab.models.cnn import CNN
from normlab.models.mlp import MLP
from normlab.models.resnet import ResNet
from normlab.norms.builder import build

ZEROS = jax.nn.initializers.zeros


def draw(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs_of(net: Any, variables: Any, x: Any, whole: Any = None) -> DiagnosticInputs:
    state = {name: variables.get(name, {}) for name in ("batch_stats", "norm_state")}
    params = variables["params"]
    return DiagnosticInputs(
        net=net,
        whole=whole,
        params=params,
        state=state,
        x=x,
        y=jnp.arange(len(x)) % 2,
        held_out=x,
        stats_x=x,
        key=jax.random.key(1),
        descend=lambda grads: jax.tree.map(lambda p, g: p - 0.1 * g, params, grads),
        rate=jnp.float32(0.1),
    )


def shapes_of(net: Any, x: np.ndarray, **parts) -> DiagnosticInputs:
    """Inputs without numbers, to trace."""
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))
    return inputs_of(
        net, jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), variables), x, **parts
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drfit", "unknown probe 'drfit'; did you mean 'drift'"),
        ("rank+drift+rank", "the probe 'rank' stands 2 times"),
        ("rank+", "unknown probe ''"),
    ],
)
def test_names_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message) as error:
        probe_names(text)
    assert "\n" not in str(error.value)


def test_the_slope_leaves_the_ends_out():
    """Of ten layers and a head: the image, the first and the last hidden output."""
    sizes = [jnp.float32(10 ** (-0.3 * i)) for i in range(11)]
    for end in (0, 1, 10):
        sizes[end] = jnp.float32(1e5)
    assert len(gradients.middle(sizes)) == 8
    assert float(gradients.slope(gradients.middle(sizes))) == pytest.approx(-0.3, rel=1e-4)
    assert gradients.middle(sizes[:4]) == sizes[1:4]  # one would remain
    assert len(gradients.middle(sizes[:5])) == 2
    vanished = float(gradients.slope([jnp.float32(1), jnp.float32(0)]))
    assert vanished == pytest.approx(np.log10(np.finfo(np.float32).tiny))
    assert np.isnan(float(gradients.slope(sizes[:1])))


def test_lengths_and_angles_of_small_things():
    turns = np.array([1e-6, 0.01, 1.0, np.pi])
    a, b = np.array([3.0, 0.0]), 5 * np.stack([np.cos(turns), np.sin(turns)], 1)

    @jax.jit
    def look(tiny, a, b):
        angles = jax.vmap(angle, (None, 0))(a, b)
        return length(tiny), cosine(tiny, jnp.ones(4)), length(0 * tiny), unit(0 * tiny), angles

    size, turn, zero, zeros, angles = look(jnp.full(4, 1e-25), jnp.asarray(a), jnp.asarray(b))
    assert size == pytest.approx(2e-25) and turn == pytest.approx(1)
    assert zero == 0 and not zeros.any()
    np.testing.assert_allclose(angles, turns, rtol=1e-3)


def test_rank_and_cosine_of_known_matrices():
    same = np.outer([1.0, 2.0, -1.0], [2.0, 1.0, 0.0])
    apart = 1e-30 * np.diag([1.0, 2.0, 2.0])
    matrices = jnp.asarray(np.stack([same, apart, 0 * same]), jnp.float32)
    look = jax.jit(jax.vmap(lambda h: (stable_rank(h), mean_cosine(h))))
    ranks, cosines = look(matrices)
    np.testing.assert_allclose(ranks, [1, 9 / 4, 0], rtol=1e-5)
    np.testing.assert_allclose(cosines, [-1 / 3, 0, 0], atol=1e-6)  # of 1, -1, -1


def test_a_convolution_that_copies_the_image():
    """Channel c is a x + b, so that all of it is known; two runs at once under vmap, twice."""
    a, b, x = np.array([1.0, 2.0, 0.5]), np.array([0.3, -90.0, 0.1]), draw((9, 10, 10, 1))
    net = CNN(layers=build("none"), widths=(3,), pools=(False,), classes=2, kernel_init=ZEROS)
    kernel = np.zeros((3, 3, 1, 3), np.float32)
    kernel[1, 1, 0] = a
    head = {"kernel": draw((3, 2)), "bias": draw(2)}
    base = inputs_of(net, {"params": {}}, x)
    names = ("activations", "dead", "health", "rank", "moments", "statistics")
    drift = STATEFUL["drift"]

    @jax.jit
    @jax.vmap
    def look(factor, bias, state):
        params = {"conv_1": {"kernel": kernel * factor, "bias": bias}, "head": head}
        inputs = base._replace(params=params)
        values, state = drift.observe(inputs, state)
        for name in names:
            values |= DIAGNOSTICS[name](inputs)
        return values, state

    shape = {"conv_1": {"kernel": kernel, "bias": np.float32(b)}, "head": head}
    start = drift.initial_state(base._replace(params=shape))
    assert start["sorted"].shape == (300, 3)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start)
    first, state = look(jnp.ones((2, 3)), jnp.array([b, b]), state)
    factor, move = np.array([1.0, 1.0, -1.4]), np.array([0.5, -0.25, 0.1])
    second, _ = look(jnp.array([np.ones(3), factor]), jnp.array([b, b + move]), state)
    one = {name: float(v[0]) for name, v in first.items()}
    assert not any(name.startswith("statistics") for name in one)

    def near(value) -> Any:
        return pytest.approx(float(value), rel=1e-3, abs=1e-5)

    y = x.astype(np.float64) * a + b
    flat = y.reshape(-1, 3)
    assert one["activations.mean.norm_1"] == near(np.abs(flat.mean(0)).mean())
    assert one["activations.std.norm_1"] == near(flat.std(0).mean())
    assert one["activations.p15"] == near(np.percentile(flat[:, 0], 15))
    assert one["dead.share.head"] == near(1 / 3)
    assert "dead.share.conv_1" not in one
    assert one["health.ratio.norm_1"] == near(np.max(np.abs(flat.mean(0)) / flat.std(0)))
    h = np.maximum(y, 0).mean((1, 2))
    values = np.linalg.svd(h, compute_uv=False) ** 2
    assert one["rank.stable.head"] == near(values.sum() / values.max())
    assert one["moments.normalized"] == one["moments.scaled"] == 0
    assert np.isnan(one["drift.step"]) and np.isnan(one["drift.moments"])
    old = flat[::3]  # 900 values are too many
    new = (x.astype(np.float64) * a * factor + b + move).reshape(-1, 3)[::3]
    distance = np.abs(np.sort(new, 0) - np.sort(old, 0)).mean(0)
    np.testing.assert_allclose(distance[:2], np.abs(move[:2]), rtol=1e-6)  # as W1 of a shift
    expected = (distance / old.std(0)).mean()
    np.testing.assert_allclose(second["drift.step"], [0, expected], rtol=1e-3, atol=1e-6)
    changes = np.abs(new.mean(0) - old.mean(0)) + np.abs(new.std(0) - old.std(0))
    expected = (changes / old.std(0)).mean()
    np.testing.assert_allclose(second["drift.moments"], [0, expected], rtol=1e-3, atol=1e-6)


def test_what_positions_are_kept():
    """An odd stride, 512 values at most."""
    for shape, kept in (((16, 12, 12, 1), 461), ((64, 28, 28, 1), 507), ((5, 4, 4, 1), 80)):
        net = CNN(layers=build("none"), widths=(2,), pools=(False,), classes=2, kernel_init=ZEROS)
        inputs = shapes_of(net, np.zeros(shape, np.float32))
        assert STATEFUL["drift"].initial_state(inputs)["sorted"].shape == (kept, 2)


def dense_inputs(placement: str, noise: float) -> tuple[DiagnosticInputs, Any]:
    layers = build("none", act=jnp.tanh, noise=noise)
    init = jax.nn.initializers.normal(1.0)
    net = MLP(layers=layers, widths=(5,), classes=2, kernel_init=init, placement=placement)
    x = draw((6, 4), 3)
    init_all = jax.jit(lambda x: net.init(jax.random.key(0), x, train=True))
    return inputs_of(net, init_all(x), jnp.asarray(x)), x


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_what_enters_the_activation(placement):
    """With noise after the norm; the layer's output where the norm follows the activation. The
    gradient of the head's input is that of the logits times the head's kernel."""
    inputs, x = dense_inputs(placement, 1.0)

    @jax.jit
    def look(params):
        taps = run(inputs, params)
        entering = activation_inputs(inputs, taps)[0]
        names = ("gradients", "landscape") if placement == "pre" else ("gradients",)
        told = [DIAGNOSTICS[name](inputs) for name in names]
        norm, (first, head) = taps.norms[0], taps.layers
        return entering, norm.y, norm.noisy, first.y, head.x, taps.logits, told

    entering, y, noisy, hidden, received, logits, told = look(inputs.params)
    dense = inputs.params["dense_1"]
    pre = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    np.testing.assert_allclose(hidden, pre, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, pre if placement == "pre" else np.tanh(pre), atol=1e-5)
    assert np.abs(noisy - y).max() > 0.1
    np.testing.assert_array_equal(entering, noisy if placement == "pre" else hidden)
    np.testing.assert_allclose(received, np.tanh(noisy) if placement == "pre" else noisy, atol=1e-5)
    odds = np.exp(logits)
    wrong = odds / odds.sum(1, keepdims=True) - np.eye(2)[np.arange(6) % 2]
    slopes = told[0]
    expected = np.linalg.norm(wrong @ np.asarray(inputs.params["head"]["kernel"]).T) / 6
    assert slopes["gradients.input.head"] == pytest.approx(expected, rel=1e-3)
    expected = np.linalg.norm(np.asarray(received).T @ wrong) / 6
    assert slopes["gradients.kernel.head"] == pytest.approx(expected, rel=1e-3)
    for landscape in told[1:]:
        assert landscape["landscape.relative"] == landscape["landscape.relative_frozen"] > 0


BLOCKS = tuple(f"stage_{stage}_block_1" for stage in (1, 2))


@pytest.mark.parametrize("order", ["post", "pre"])
def test_layers_and_norms_of_a_residual_network(order):
    layers = build("frn", kernel="scaled_standardize")
    net = ResNet(
        layers=layers, widths=(2, 4), blocks=1, classes=2, kernel_init=ZEROS, order=order,
        residual="fixup",
    )  # fmt: skip
    inputs = shapes_of(net, np.zeros((4, 8, 8, 1), np.float32))
    taps = outline(inputs)
    convs = ["conv_stem", *(f"{block}/conv_{i}" for block in BLOCKS for i in (1, 2))]
    norms = [f"{block}/norm_{i}" for block in BLOCKS for i in (1, 2)]
    assert [name_of(layer) for layer in taps.layers] == [*convs, "head"]
    ends = (["norm_stem"], []) if order == "post" else ([], ["norm_last"])
    assert [name_of(norm) for norm in taps.norms] == ends[0] + norms + ends[1]
    assert taps.layers[-1].x.shape == (4, 4) and taps.norms[-1].x.shape == (4, 4, 4, 4)
    number = shift.numbers(inputs.params, taps)
    assert number["conv_stem"]["kernel"] == 0 and number["head"]["bias"] == 5
    last = number[BLOCKS[1]]
    assert last["conv_1"]["reparam"]["gain"] == 3 and last["conv_2"]["kernel"] == 4
    assert last["branch_scale"] == last["before_conv_1"] == 4
    beside = {"post": ("norm_1", "act_1", 3), "pre": ("norm_2", "act_2", 3)}[order]
    assert last[beside[0]]["scale"] == last[beside[1]]["tau"] == beside[2]
    assert number[BLOCKS[0]]["norm_1"]["scale"] == (1 if order == "post" else 0)


@pytest.mark.parametrize(
    ("norm", "kept"),
    [("evonorm_b0", {"var"}), ("mean_only_batch", {"mean"}), ("batch_renorm", {"mean", "var"})],
)
def test_norms_that_keep_one_statistic(norm, kept):
    def make(**options) -> CNN:
        layers = build(norm, **options)
        return CNN(layers=layers, widths=(2,), pools=(True,), classes=2, kernel_init=ZEROS)

    inputs = shapes_of(make(), np.zeros((4, 6, 6, 1), np.float32), whole=make(momentum=0.0))
    names = ("statistics", "moments", "rotation")
    told = jax.eval_shape(lambda: [DIAGNOSTICS[name](inputs) for name in names])
    assert set(told[0]) == {f"statistics.{kind}.norm_1" for kind in kept}
    assert len(told[1]) == 4 and len(told[2]) == 4
