"""Analytic anchors: what theory says of normalized networks, to be true before any training study.

A1 (schemes that equal each other), A3 (sums in the backward pass), A7 at a batch of 2, A9 (scaled
weight standardization) and A2, A4 of kernel schemes are tested beside the schemes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

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
def test_a2_what_a_norm_does_not_feel_of_the_kernel_before_it(name, unit, matrix, shift, example):
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
            told = {
                "grown": length(new) ** 2 - length(w) ** 2,
                "step": (rate * length(g)) ** 2,
                "turn": angle(w, new) ** 2,
                "fourth": length(w) ** 4,
                "unit_gradient": (length(g) * length(w)) ** 2,
            }
            return new, told

        return jax.lax.scan(step, draw((16, 1), 6), jax.random.split(jax.random.key(1), 2000))[1]

    pairs = jnp.array([0.1, 0.1, 0.2]), jnp.array([0.0, 0.05, 0.025])
    return {name: np.asarray(v) for name, v in jax.jit(jax.vmap(walk))(*pairs).items()}


def test_a4_without_decay_a_scale_invariant_kernel_only_grows(walks):
    """|w|^2 grows by |rate * gradient|^2 at every step, to the rounding of |w|^2."""
    grown, step = walks["grown"][0], walks["step"][0]
    rounding = 4 * np.finfo(np.float32).eps * np.sqrt(walks["fourth"][0])
    assert (np.abs(grown - step) <= rounding + 1e-3 * step).all()
    assert (grown[:50] > 0).all()


def test_a5_decay_leads_to_an_equilibrium_of_length_and_rotation(walks):
    """|w|^4 = rate |gradient at |w| = 1|^2 / (2 decay), rotation sqrt(2 rate decay) a step."""
    settled = {name: v[1:, 500:].mean(1) for name, v in walks.items()}
    rate, decay = np.array([0.1, 0.2]), np.array([0.05, 0.025])
    expected = rate * settled["unit_gradient"] / (2 * decay)
    np.testing.assert_allclose(settled["fourth"], expected, rtol=0.05)
    np.testing.assert_allclose(np.sqrt(settled["turn"]), np.sqrt(2 * rate * decay), rtol=0.05)


def test_a7_a_normalized_value_is_at_most_the_root_of_b_minus_1():
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
def test_a8_the_variance_of_a_residual_stream_grows_linearly_or_doubles(name, expected):
    """Block after block at the start: by 1 under batch norm, whose branches have variance 1
    whatever they get; by a factor of 2 without."""
    branch = Branch(name, 256)
    run = jax.jit(lambda key, x: x + branch.init_with_output(key, x)[0])
    x, found = draw((128, 256)), []
    for i in range(len(expected)):
        found.append(float(jnp.square(x).mean()))
        x = run(jax.random.key(i), x)
    np.testing.assert_allclose(found, expected, rtol=0.12)


def test_a10_dropout_before_batch_norm_shifts_its_variance():
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


def test_a11_batch_norm_keeps_examples_apart_with_depth():
    """Without a norm activations of rectifiers go to rank 1, all examples alike."""
    plain, batch = (deep(name, nn.relu, 2**0.5) for name in ("none", "batch"))
    look = jax.jit(lambda h: (stable_rank(h), mean_cosine(h)))
    (rank, cosine), (batch_rank, batch_cosine) = look(plain), look(batch)
    assert rank < 1.1 and cosine > 0.95
    assert batch_rank > 2 and batch_cosine < 0.5


def test_a11_the_rank_of_linear_networks():
    """Batch norm: the root of the width at least; group norm: less with larger groups."""

    def spread(h: jax.Array) -> float:
        """At most the rank: (sum of singular values)^2 / sum of their squares."""
        values = np.linalg.svd(np.asarray(h, np.float64), compute_uv=False)
        return values.sum() ** 2 / (values**2).sum()

    plain, batch = (spread(deep(name, lambda h: h, 1.0)) for name in ("none", "batch"))
    small, large = (spread(deep("group", lambda h: h, 1.0, groups=g)) for g in (8, 1))
    assert batch > 32**0.5 > large > plain
    assert small > 2 * large
