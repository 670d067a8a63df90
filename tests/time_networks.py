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


def transformer_reference(params, x, norm, placement, time, heads, lengths, masked=True):
    """Return the logits of an encoder of sequences, or of a decoder of tokens [N, T], in float64:
    [N, T, C], and one loop for each head and example. Parameters decide what the blocks have."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    is_text, steps, size = x.ndim == 2, x.shape[1], p["positions"].shape[-1] // heads
    valid = np.arange(steps) < np.asarray(lengths)[:, None]

    def dense(name, scope, y):
        return y @ scope[name]["kernel"] + scope[name]["bias"]

    def normalize(place, y):
        """y [N, T, ..., C]: over C, over the examples of each step, or over all of them."""
        if norm == "none":
            return y
        affine = place["steps" if time == "step" else "norm"]
        affine = affine["norm"] if time == "step" else affine
        if norm in ("layer", "rms"):
            mean = y.mean(-1, keepdims=True) if norm == "layer" else 0
            var = ((y - mean) ** 2).mean(-1, keepdims=True)
        elif time == "sequence":
            counted = (y[valid] if masked else y).reshape(-1, y.shape[-1])
            mean, var = counted.mean(0), counted.var(0)
        else:
            live = [y[valid[:, t], t].reshape(-1, y.shape[-1]) for t in range(steps)]
            shape = (steps, *(1,) * (y.ndim - 3), y.shape[-1])
            mean = np.stack([s.mean(0) for s in live]).reshape(shape)
            var = np.stack([s.var(0) for s in live]).reshape(shape)
        return (y - mean) / np.sqrt(var + 1e-5) * affine["scale"] + affine.get("bias", 0)

    def attention(scope, y):
        q, k, v = (
            part.reshape(*y.shape[:2], heads, size)
            for part in np.split(dense("dense_qkv", scope, y), 3, -1)
        )
        if "norm_queries" in scope:
            q, k = normalize(scope["norm_queries"], q), normalize(scope["norm_keys"], k)
        out = np.zeros_like(y)
        for n in range(len(y)):
            for head in range(heads):
                for t in range(steps):
                    seen = slice(0, t + 1 if is_text else lengths[n])
                    weights = np.exp(k[n, seen, head] @ q[n, t, head] / np.sqrt(size))
                    mixed = weights @ v[n, seen, head] / weights.sum()
                    out[n, t, head * size : (head + 1) * size] = mixed
        return dense("dense_out", scope, out)

    def feed(scope, y):
        return dense("dense_2", scope, np.maximum(dense("dense_1", scope, y), 0))

    if is_text:
        h = p["embedding"]["embedding"][x]
    else:
        h = dense("dense_in", p, np.asarray(x, np.float64)[..., :-1])
    h = h + p["positions"][:, 0]
    for block in (p[name] for name in sorted(p) if name.startswith("block")):
        for name, branch in (("attention", attention), ("dense", feed)):
            before, after = block.get(f"norm_{name}"), block.get(f"norm_{name}_after")
            y = branch(block, h if placement == "post" else normalize(before, h))
            y = normalize(after, y) if placement == "peri" else y
            h = h + y * block.get(f"gain_{name}", 1)
            h = normalize(before, h) if placement == "post" else h
    h = h if placement == "post" else normalize(p.get("norm_last"), h)
    if is_text:
        return dense("head", p, h) if "head" in p else h @ p["embedding"]["embedding"].T
    mean = np.stack([h[n, :length].mean(0) for n, length in enumerate(lengths)])
    return dense("head", p, mean)
