"""Running statistics moved from outside, and layers with several sets of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from trained_layers import MUTABLE, draw

from normlab import norms


class Net(nn.Module):
    """Two norms, of which the outer one is in a block."""

    layers: Any

    @nn.compact
    def __call__(self, x, train):
        x = self.layers.norm(name="norm_1")(x, train=train)
        return Block(self.layers, name="block")(nn.Dense(4, name="dense")(x), train)


class Block(nn.Module):
    layers: Any

    @nn.compact
    def __call__(self, x, train):
        return self.layers.norm(name="norm_2")(x, train=train)


def network(**options: Any) -> tuple[Any, Any, np.ndarray]:
    net, x = Net(norms.build("batch", **options)), draw((24, 4), loc=3.0)
    return net, jax.jit(lambda x: net.init(jax.random.key(0), x, train=True))(x), x


def train(net: Any, variables: Any, x: Any) -> Any:
    return net.apply(variables, x, train=True, mutable=MUTABLE)


def statistics(tree: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a layer in float64."""
    mean = np.asarray(tree["mean"], np.float64) + np.asarray(tree["mean_lo"], np.float64)
    return mean, np.asarray(tree["var"], np.float64)


def test_frozen_layers_use_and_keep_their_running_statistics():
    net, variables, x = network(epsilon=0.0)

    @jax.jit
    def step(variables, x):
        with norms.frozen("block/*"):
            return train(net, variables, x)

    y, state = step(variables, x)
    first, second = state["batch_stats"]["norm_1"], state["batch_stats"]["block"]["norm_2"]
    assert np.abs(first["mean"]).max() > 0.1
    np.testing.assert_array_equal(second["mean"], 0)
    dense, wide = variables["params"]["dense"], np.asarray(x, np.float64)
    hidden = (wide - wide.mean(0)) / wide.std(0)
    right = hidden @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"])
    np.testing.assert_allclose(y, right, atol=1e-5)  # the second norm has mean 0, variance 1


def test_a_frozen_name_that_no_layer_has_is_refused():
    net, variables, x = network()
    with pytest.raises(ValueError, match=r"no layer 'norm_9' .*called: norm_1, block/norm_2"):
        with norms.frozen("norm_*", "norm_9"):
            train(net, variables, x)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"average": "debiased"}])
def test_reestimated_statistics_are_those_of_the_batches(options):
    """Batches of 8 and one of 4; a large mean, which one float32 cannot hold."""
    net, variables, x = network(**options)
    x = x + np.float32(1e6)
    batches = [x[:8], x[8:16], x[16:20]]
    found = norms.reestimate(lambda v, x: train(net, v, x), variables, batches)
    wide = [np.asarray(b, np.float64) for b in batches]
    weights = np.array([8, 8, 4]) / 20
    mean, var = statistics(found["batch_stats"]["norm_1"])
    np.testing.assert_allclose(mean, weights @ [b.mean(0) for b in wide], rtol=0, atol=1e-6)
    np.testing.assert_allclose(var, weights @ [b.var(0) for b in wide], rtol=1e-5)
    kept = {k: v for k, v in variables.items() if k != "batch_stats"}
    others = {k: v for k, v in found.items() if k != "batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, others, kept)


def test_what_cannot_be_reestimated_is_refused():
    net, variables, x = network()
    compiled = jax.jit(lambda v, x: train(net, v, x))
    compiled(variables, x)
    with pytest.raises(ValueError, match="must not be compiled itself"):
        norms.reestimate(compiled, variables, [x])
    with pytest.raises(ValueError, match="no batches"):
        norms.reestimate(lambda v, x: train(net, v, x), variables, [])


def test_an_accumulated_batch_moves_the_statistics_once():
    """It leaves what one pass with groups of the parts' size leaves: state and gradient."""
    net, variables, x = network(average="debiased")
    ghosts, _, _ = network(average="debiased", stats_batch=6)
    x, cotangent = x + np.float32(1e6), draw((24, 4), seed=1)

    def gradient(net, variables, x, cotangent):
        def loss(params):
            y, state = train(net, {**variables, "params": params}, x)
            return jnp.vdot(cotangent, y), state

        return jax.grad(loss, has_aux=True)(variables["params"])

    @jax.jit
    def accumulated(variables, x, cotangent):
        def part(total, given):
            grads, state = gradient(net, variables, *given)
            return jax.tree.map(jnp.add, total, grads), state

        zeros = jax.tree.map(jnp.zeros_like, variables["params"])
        parts = x.reshape(4, 6, 4), cotangent.reshape(4, 6, 4)
        grads, states = jax.lax.scan(part, zeros, parts)
        return grads, norms.average_states(states)

    grads, state = accumulated(variables, x, cotangent)
    right, whole = jax.jit(lambda *given: gradient(ghosts, *given))(variables, x, cotangent)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
    assert int(state["norm_state"]["norm_1"]["count"]) == 1
    pairs = (statistics(tree["batch_stats"]["norm_1"]) for tree in (state, whole))
    (mean, var), (right_mean, right_var) = pairs
    np.testing.assert_allclose(mean, right_mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(var, right_var, rtol=1e-6)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=0, atol=1e-6)


def test_parts_of_a_batch_count_by_their_weights():
    parts = {"mean": [[1e6], [1e6 + 1]], "mean_lo": [[1e-3], [0]], "var": [[1], [1]]}
    state = {"batch_stats": {"n": {k: np.array(v, np.float32) for k, v in parts.items()}}}
    found = norms.average_states(state, weights=[3, 1])["batch_stats"]["n"]
    assert abs(statistics(found)[0].item() - (1e6 + 0.25 + 0.75e-3)) < 1e-8


def test_branches_have_their_own_statistics_and_the_call_says_which():
    layer = norms.build("batch", branches=("clean", "adversarial")).norm(name="norm_1")
    x = draw((16, 4), loc=5.0)
    variables = layer.init(jax.random.key(0), x, train=True)
    _, moved = layer.apply(variables, x, train=True, branch="adversarial", mutable=MUTABLE)
    stats = moved["batch_stats"]
    np.testing.assert_array_equal(stats["clean"]["mean"], 0)
    np.testing.assert_allclose(stats["adversarial"]["mean"], 0.1 * x.mean(0), rtol=1e-5)
    given = {**variables, **moved}
    first, named, other = (
        layer.apply(given, x, **more)
        for more in ({}, {"branch": "clean"}, {"branch": "adversarial"})
    )
    np.testing.assert_array_equal(first, named)
    assert np.abs(np.asarray(first) - other).max() > 0.1
    with pytest.raises(ValueError, match="norm_1: branch 'dirty' is none of"):
        layer.apply(given, x, branch="dirty")
