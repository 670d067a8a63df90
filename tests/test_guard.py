"""The overflow guard: one real branch in a population, and right under every transformation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_runs import small

from normlab.models.build import build_model
from normlab.norms import NORMS, build
from normlab.statistics.normalize import normalize
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

MEMBERS, EPSILON = 4, 1e-5
X = np.random.default_rng(0).standard_normal((MEMBERS, 2, 6, 3))
SCALES = np.array([1e20, 1.0, 1e20, 1e-2]).reshape(-1, 1, 1, 1)
"""Two members overflow, two do not."""
PULL, TANGENT = np.random.default_rng(1).standard_normal((2, 6, 3))
HUGE = (X * SCALES).astype(np.float32)


def loss(x) -> Any:
    y, _ = normalize(x, (0,), epsilon=EPSILON)
    return (jnp.asarray(PULL, y.dtype) * y**2).sum()


def naive_loss(x) -> Any:
    centred = x - x.mean(0)
    y2 = centred**2 / ((centred**2).mean(0) + EPSILON)
    return (jnp.asarray(PULL, x.dtype) * y2).sum()


def curvature(loss: Callable, x, unit) -> Any:
    """The Hessian's product with a tangent as large as the input."""
    return jax.jvp(jax.grad(loss), (x,), (jnp.asarray(TANGENT, x.dtype) * unit,))[1]


def float64(f: Callable, *arrays) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(f)(*(jnp.asarray(a, jnp.float64) for a in arrays)))


def cases(f: Callable, *arguments) -> int:
    """How many loops of statistics that are computed again the lowered program has."""
    text = jax.jit(f).lower(*arguments).as_text()
    # Each asks for a largest value; the condition of a scan compares two numbers.
    return sum("reduce" in part for part in re.findall(r"cond \{(.*?)\} do \{", text, re.DOTALL))


def assert_near(value, reference):
    """Each member and row by itself: their magnitudes are 20 orders apart."""
    assert value.shape == reference.shape
    rows = (value.reshape(-1, *X.shape[2:]), reference.reshape(-1, *X.shape[2:]))
    for one, other in zip(*rows, strict=True):
        unit = np.abs(other).max()
        assert np.abs(one / unit - other / unit).max() < 3e-6


SLOPE = jax.grad(loss)
SLOPES = {
    "vmap of vmap": jax.vmap(jax.vmap(SLOPE)),
    "map of vmap": lambda x: lax.map(jax.vmap(SLOPE), x),
    "vmap of map": jax.vmap(lambda x: lax.map(SLOPE, x)),
    "vmap of scan": jax.vmap(lambda x: lax.scan(lambda _, r: (None, SLOPE(r)), None, x)[1]),
    "scan of vmap": lambda x: lax.scan(lambda _, r: (None, jax.vmap(SLOPE)(r)), None, x)[1],
    "forward over vmap": lambda x: jax.vmap(jax.vmap(jax.jacfwd(loss)))(x),
}


@pytest.mark.parametrize("way", SLOPES)
def test_slopes_at_huge_input(way):
    expected = float64(jax.vmap(jax.vmap(jax.grad(naive_loss))), HUGE)
    assert_near(np.asarray(jax.jit(SLOPES[way])(HUGE), np.float64), expected)
    assert cases(SLOPES[way], HUGE) == 1


def test_hessian_products_at_huge_input():
    def products(of: Callable) -> Callable:
        along = jax.vmap(lambda x, unit: curvature(of, x, unit), in_axes=(0, None))
        return jax.vmap(along)

    units = SCALES.ravel().astype(np.float32)
    expected = float64(products(naive_loss), HUGE, units)
    assert_near(np.asarray(jax.jit(products(loss))(HUGE, units), np.float64), expected)
    assert cases(products(loss), HUGE, units) == 1


def test_a_member_that_overflows_leaves_its_neighbours_as_they_were():
    run = jax.jit(jax.vmap(jax.vmap(SLOPE)))
    with_huge, ordinary = np.asarray(run(HUGE)), np.asarray(run(X.astype(np.float32)))
    np.testing.assert_array_equal(with_huge[1], ordinary[1])
    assert not np.array_equal(with_huge[0], ordinary[0])


@pytest.mark.parametrize("name", [name for name, row in NORMS.items() if row.over])
def test_no_scheme_turns_its_branches_into_selects(name):
    norm, x = build(name).norm(name="norm_1"), np.zeros((MEMBERS, 4, 2, 2, 8), np.float32)
    variables = jax.eval_shape(lambda x: norm.init(jax.random.key(0), x, train=True), x[0])

    def loss(variables, x):
        y: Any = norm.apply(variables, x, train=True, mutable=["batch_stats", "norm_state"])
        return (y[0] ** 2).sum(), y[1]

    slope = jax.grad(loss, argnums=1, has_aux=True)
    one = cases(slope, variables, x[0])
    assert cases(jax.vmap(slope, in_axes=(None, 0)), variables, x) == one


def test_a_population_has_one_branch_for_each_norm():
    config = small(norm__name="batch", model__widths=(8, 9, 10))
    net = build_model(config, classes=3, conv_form="lax")
    batch = Batch(jnp.zeros((8, 5)), jnp.zeros(8, jnp.int32), jnp.ones(()))

    def member(seed):
        hyper = hyper_of(config)._replace(seed=seed)
        state = init_state(net, config["optim.name"], hyper, jnp.zeros((8, 5)))
        return make_train_step(net, config["optim.name"], hyper)(state, batch)

    states = jax.eval_shape(jax.vmap(member), jnp.arange(MEMBERS))[0]
    step = make_train_step(net, config["optim.name"], hyper_of(config))
    assert cases(jax.vmap(step, in_axes=(0, None)), states, batch) == 3
