"""Theory checks: what theory says of normalized networks, to be true before any training study.

Tested with the schemes: schemes that equal each other, sums in the backward pass, scaled weight
standardization, kernel schemes. The suite `theory` of the benchmarks is tested at the end.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from benchmarks.validation import leak, theory
from benchmarks.validation.theory import Case, Growth, Squares, growth
from normlab.diagnostics.rank import mean_cosine, stable_rank
from normlab.diagnostics.rotation import angle
from normlab.diagnostics.sizes import length
from normlab.norms.builder import build

MUTABLE = ["batch_stats"]
BATCH, FAN_IN, WIDTH = 8, 5, 6


def draw(shape, seed=0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def norm_of(name: str, epsilon: float = 1e-12, **options) -> Any:
    options |= {} if name == "none" else {"epsilon": epsilon}
    return build(name, **options).norm(name="norm_1")


@partial(jax.jit, static_argnums=0)
def normalize(norm: Any, x: jax.Array) -> jax.Array:
    """In training mode, with scale 1 and bias 0."""
    return norm.init_with_output(jax.random.key(0), x, train=True)[0]


@pytest.mark.parametrize(
    ("name", "unit", "matrix", "shift", "example"),
    [
        ("batch", True, True, False, False),
        ("layer", False, True, True, True),
        ("rms", False, True, False, True),
    ],
)
def test_what_a_norm_does_not_feel_of_the_kernel_before_it(name, unit, matrix, shift, example):
    """f(aW) = f(W), gradient(aW) = gradient(W) / a, sum of W * gradient = 0; for one unit's
    weights, the whole kernel, a vector added to all units' weights, and an example's length."""
    w, x, c = draw((FAN_IN, WIDTH), 1), draw((BATCH, FAN_IN), 2), draw((BATCH, WIDTH), 3)
    by_unit = jnp.ones(WIDTH).at[2].set(3.0)
    longer = jnp.ones(BATCH).at[4].set(3.0)[:, None]
    kernels = jnp.stack([w, w * by_unit, 4 * w, w + draw((FAN_IN, 1), 4), w])
    inputs = jnp.stack([x, x, x, x, x * longer])
    norm = norm_of(name)

    @jax.jit
    @jax.vmap
    def run(w, x):
        def value(w):
            y = normalize(norm, x @ w)
            return jnp.sum(c * y), y

        slope, y = jax.grad(value, has_aux=True)(w)
        return y, slope

    y, slope = run(kernels, inputs)
    same = [bool(np.abs(y[i] - y[0]).max() < 1e-4) for i in range(1, 5)]
    assert same == [unit, matrix, shift, example]
    np.testing.assert_allclose(4 * slope[2], slope[0], atol=1e-3)
    along = np.asarray(w * slope[0])
    assert abs(along.sum()) < 1e-3 and np.abs(along).max() > 0.1
    assert (np.abs(along.sum(0)).max() < 1e-3) == unit
    if unit:
        np.testing.assert_allclose(slope[1] * by_unit, slope[0], atol=1e-3)


@pytest.fixture(scope="module")
def walks() -> dict[str, np.ndarray]:
    """Gradient descent on a unit before a batch norm, under a new random loss at every step; rows:
    no decay, two pairs (rate, decay) of one product. Columns: 2,000 steps."""
    x, norm = draw((32, 16), 5), norm_of("batch")

    def walk(rate, decay):
        def step(w, key):
            c = jax.random.normal(key, (32,))
            g = jax.grad(lambda w: c @ normalize(norm, x @ w)[:, 0])(w)
            new = w - rate * (g + decay * w)
            facts = {
                "grown": length(new) ** 2 - length(w) ** 2,
                "step": (rate * length(g)) ** 2,
                "turn": angle(w, new) ** 2,
                "fourth": length(w) ** 4,
                "unit_gradient": (length(g) * length(w)) ** 2,
            }
            return new, facts

        return jax.lax.scan(step, draw((16, 1), 6), jax.random.split(jax.random.key(1), 2000))[1]

    pairs = jnp.array([0.1, 0.1, 0.2]), jnp.array([0.0, 0.05, 0.025])
    return {name: np.asarray(v) for name, v in jax.jit(jax.vmap(walk))(*pairs).items()}


def test_without_decay_a_scale_invariant_kernel_only_grows(walks):
    """|w|^2 grows by |rate * gradient|^2 at every step, to the rounding of |w|^2."""
    grown, step = walks["grown"][0], walks["step"][0]
    rounding = 4 * np.finfo(np.float32).eps * np.sqrt(walks["fourth"][0])
    assert (np.abs(grown - step) <= rounding + 1e-3 * step).all()
    assert (grown[:50] > 0).all()


def test_decay_leads_to_an_equilibrium_of_length_and_rotation(walks):
    """|w|^4 = rate |gradient at |w| = 1|^2 / (2 decay), rotation sqrt(2 rate decay) a step."""
    settled = {name: v[1:, 500:].mean(1) for name, v in walks.items()}
    rate, decay = np.array([0.1, 0.2]), np.array([0.05, 0.025])
    expected = rate * settled["unit_gradient"] / (2 * decay)
    np.testing.assert_allclose(settled["fourth"], expected, rtol=0.05)
    np.testing.assert_allclose(np.sqrt(settled["turn"]), np.sqrt(2 * rate * decay), rtol=0.05)


def test_a_normalized_value_is_at_most_the_root_of_b_minus_1():
    x = np.random.default_rng(0).standard_cauchy((BATCH, 200)).astype(np.float32)
    x[:, 0] = 0
    x[3, 0] = 5  # one value apart reaches the bound
    y = np.abs(normalize(norm_of("batch"), jnp.asarray(x)))
    assert y[3, 0] == pytest.approx(np.sqrt(BATCH - 1), rel=1e-6)
    assert y.max() <= np.sqrt(BATCH - 1) * (1 + 1e-6)


class Branch(nn.Module):
    """f of a block x + f(x): norm, relu, dense, norm, relu, dense."""

    name_of_norm: str
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = build(self.name_of_norm)
        for i in (1, 2):
            x = nn.relu(layers.norm(name=f"norm_{i}")(x, train=True))
            init = nn.initializers.he_normal()
            x = layers.dense(self.width, kernel_init=init, name=f"dense_{i}")(x)
        return x


@pytest.mark.parametrize(("name", "expected"), [("batch", range(1, 7)), ("none", 2.0 ** np.r_[:6])])
def test_the_variance_of_a_residual_stream_grows_linearly_or_doubles(name, expected):
    """Block after block at the start: by 1 under batch norm, whose branches have variance 1
    whatever they get; by a factor of 2 without."""
    branch = Branch(name, 256)
    run = jax.jit(lambda key, x: x + branch.init_with_output(key, x)[0])
    x, found = draw((128, 256)), []
    for i in range(len(expected)):
        found.append(float(jnp.square(x).mean()))
        x = run(jax.random.key(i), x)
    np.testing.assert_allclose(found, expected, rtol=0.12)


def test_dropout_before_batch_norm_shifts_its_variance():
    """Kept with probability p, values of mean 0 have 1 / p times their variance: what is normalized
    in training has variance p in evaluation."""
    p, norm = 0.6, norm_of("batch", momentum=0.0)
    x = draw((4000, 4), 7)
    x = x - x.mean(0)

    @jax.jit
    def run(x):
        drop = nn.Dropout(1 - p, deterministic=False)
        dropped: Any = drop.apply({}, x, rngs={"dropout": jax.random.key(2)})
        variables = norm.init(jax.random.key(0), x, train=True)
        y, moved = norm.apply(variables, dropped, train=True, mutable=MUTABLE)
        return y, moved["batch_stats"]["var"], norm.apply({**variables, **moved}, x, train=False)

    y, var, evaluated = run(x)
    np.testing.assert_allclose(np.var(y, 0), 1, rtol=1e-4)
    np.testing.assert_allclose(var, np.var(x, 0) / p, rtol=0.06)
    np.testing.assert_allclose(np.var(evaluated, 0), p, rtol=0.06)


def deep(name: str, act: Any, gain: float, **options) -> jax.Array:
    """Activations [32, 32] after 60 layers."""
    norm = norm_of(name, 1e-5, **options)
    run = jax.jit(lambda h, w: act(normalize(norm, h @ w)))
    h, kernels = draw((32, 32), 8), np.asarray(draw((60, 32, 32), 9)) * gain / 32**0.5
    for w in kernels.astype(np.float32):
        h = run(h, w)
    return h


def test_batch_norm_keeps_examples_apart_with_depth():
    """Without a norm activations of rectifiers go to rank 1, all examples alike."""
    plain, batch = (deep(name, nn.relu, 2**0.5) for name in ("none", "batch"))
    measure = jax.jit(lambda h: (stable_rank(h), mean_cosine(h)))
    (rank, cosine), (batch_rank, batch_cosine) = measure(plain), measure(batch)
    assert rank < 1.1 and cosine > 0.95
    assert batch_rank > 2 and batch_cosine < 0.5


def test_the_rank_of_linear_networks():
    """Batch norm: the root of the width at least; group norm: less with larger groups."""

    def spread(h: jax.Array) -> float:
        """At most the rank: (sum of singular values)^2 / sum of their squares."""
        values = np.linalg.svd(np.asarray(h, np.float64), compute_uv=False)
        return values.sum() ** 2 / (values**2).sum()

    plain, batch = (spread(deep(name, lambda h: h, 1.0)) for name in ("none", "batch"))
    small, large = (spread(deep("group", lambda h: h, 1.0, groups=g)) for g in (8, 1))
    assert batch > 32**0.5 > large > plain
    assert small > 2 * large


# --- the suite


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


def test_gradients_explode_after_batch_norm_as_predicted_and_a_step_lowers_the_growth(measured):
    for before, after in zip(measured["batch"], measured["stepped"], strict=True):
        assert before.shape == (2, DEPTH)
        assert growth(before, SPAN).mean == pytest.approx(theory.RELU, rel=0.05)
        assert growth(after, SPAN).mean < 0.95 * growth(before, SPAN).mean
    assert growth(measured["none"].outputs, SPAN).mean == pytest.approx(1, rel=0.1)


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
    checks = [theory.check(case, squares) for case, squares in grid.items()]
    assert [check.holds for check in checks] == [True, False, None]
    first, *_, after = theory.tables(grid, checks, {0.0: powers(1.5), 0.1: powers(1.1)})
    assert [row[4] for row in first.rows] == ["pass", "**fail**", "-"]
    assert [row[0] for row in after.rows] == ["no step", "0.1"]
    assert str(after.rows[1][2]).startswith("1.100")


def test_a_norm_over_all_tokens_leaks():
    case = leak.Case("batch", leak.TOKEN, 1, True)
    assert case in leak.CASES
    assert leak.judge(case, leak.measure(case, steps=500, seeds=2).tolist()).holds


@pytest.mark.parametrize(
    ("leaks", "gains", "holds"),
    [
        (True, [0.2, 0.25, 0.3], True),
        (True, [0.01, 0.2, 0.4], False),
        (False, [0.01, 0.0, -0.01], True),
        (False, [0.01, 0.0, 0.2], False),
        (None, [0.2, 0.25, 0.3], None),
    ],
)
def test_a_leak_is_judged_by_its_interval(leaks, gains, holds):
    assert leak.judge(leak.Case("batch", leak.EACH, 4, leaks), gains).holds is holds


def test_a_norm_of_whole_sequences_sees_each_sequence_alone():
    net = leak.OverTime(build("instance"), 3)
    x = draw((3 * 2, WIDTH))
    y = net.init_with_output(jax.random.key(0), x, train=True)[0]
    sequences = np.asarray(x).reshape(3, 2, WIDTH)
    wanted = (sequences - sequences.mean(0)) / np.sqrt(sequences.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(3, 2, WIDTH), wanted, atol=1e-5)
