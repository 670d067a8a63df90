"""What the tests of networks with time share: sequences, parameters, two checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normlab.training.step import MUTABLE


def noise_until(lengths: np.ndarray, steps: int, features: int, seed: int = 0) -> np.ndarray:
    """Return x [N, T, D + 1] with noise of size 1 at the steps and zeros behind the ends."""
    x = np.random.default_rng(seed).normal(size=(len(lengths), steps, features + 1))
    x[..., -1] = 1
    return (x * (np.arange(steps) < lengths[:, None])[..., None]).astype(np.float32)


def drawn(net: Any, x: Any, seed: int = 1) -> Any:
    """Return variables with scales and biases that are not 1 and 0."""
    variables = net.init(jax.random.key(seed), x, train=True)
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype),
        variables["params"],
    )
    return {**variables, "params": moved}


def outputs(net: Any, variables: Any, weights: np.ndarray) -> Callable[[Any], Any]:
    """Return x -> (gradients of sum(weights logits), (logits, moved state)) in training."""

    @jax.jit
    def run(x):
        def loss(params):
            out, moved = net.apply({**variables, "params": params}, x, train=True, mutable=MUTABLE)
            return (out * weights.astype(np.float32)).sum(), (out, moved)

        return jax.grad(loss, has_aux=True)(variables["params"])

    return run


def check_against(reference: Callable[[Any], np.ndarray], net: Any, variables: Any, x: Any) -> None:
    """Compare logits with a float64 reference of the parameters, and one derivative for each
    parameter with a finite difference of it."""
    expected = reference(variables["params"])
    weights = np.sin(np.arange(expected.size)).reshape(expected.shape)
    grads, (logits, _) = outputs(net, variables, weights)(x)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        place = tuple(int(i) for i in np.unravel_index(leaf.size // 2, leaf.shape))
        kept, ends, found = leaf[place], [], grads
        for step in (1e-6, -1e-6):
            leaf[place] = kept + step
            ends.append((reference(params) * weights).sum())
        leaf[place] = kept
        for part in path:
            found = found[part.key]
        np.testing.assert_allclose(
            found[place], (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=2e-5, err_msg=str(path)
        )


def check_ends(net: Any, x: np.ndarray) -> None:
    """Compare the bits of outputs, state and gradients where anything else is behind the ends."""
    variables = drawn(net, x)
    classes = jax.eval_shape(lambda x: net.apply(variables, x, train=False), x).shape
    run = outputs(net, variables, np.ones(classes))
    first = jax.tree.leaves(run(x))
    for wrong in (np.nan, 1e30, -np.inf):
        other = np.where(x[..., -1:] == 0, np.float32(wrong), x)
        other[..., -1] = x[..., -1]
        for a, b in zip(first, jax.tree.leaves(run(other)), strict=True):
            assert np.array_equal(a, b)
