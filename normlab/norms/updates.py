"""How running statistics are moved from outside: frozen by name, re-estimated, moved once for
several batches; and layers with several sets of them."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.norms.plain import name_of
from normlab.norms.running import RunningNorm


@contextlib.contextmanager
def _answering(method: str, answer: Callable[[str], Any]) -> Iterator[list[str]]:
    """Within it, a method of every layer with running statistics returns answer(path) unless that
    is None. Yields the paths that were asked."""
    asked: list[str] = []

    def intercept(call, args, kwargs, context):
        if context.method_name != method or not isinstance(context.module, RunningNorm):
            return call(*args, **kwargs)
        asked.append("/".join(context.module.path))
        found = answer(asked[-1])
        return call(*args, **kwargs) if found is None else found

    with nn.intercept_methods(intercept):
        yield asked


@contextlib.contextmanager
def frozen(*patterns: str) -> Iterator[None]:
    """Within it, training uses and keeps the running statistics of the layers of these names.

    A pattern such as "block_1/*" is matched with the path of a layer in the network, as
    fnmatch does. The parameters of a layer are frozen by the optimizer (optax.masked).
    Enter it inside the function that is compiled: jit remembers what it traced.
    Raises ValueError at its end for a pattern that no called layer has.

    >>> from normlab.norms import BatchNorm
    >>> x, layer = jnp.array([[1.0], [3.0]]), BatchNorm(epsilon=0.0)
    >>> variables = layer.init(jax.random.key(0), x)
    >>> with frozen("*"):
    ...     layer.apply(variables, x, train=True).tolist()
    [[1.0], [3.0]]
    """

    def answer(path: str) -> tuple[bool, bool] | None:
        return (True, False) if any(fnmatch.fnmatchcase(path, p) for p in patterns) else None

    with _answering("switches", answer) as asked:
        yield
    for pattern in patterns:
        if not fnmatch.filter(asked, pattern):
            raise ValueError(
                f"frozen: no layer {pattern!r} was called (called: {', '.join(asked) or 'none'}); "
                "enter it inside the compiled function"
            )


def reestimate(
    apply: Callable[[Any, Any], tuple[Any, Any]], variables: Any, batches: Iterable[Any]
) -> dict[str, Any]:
    """Return the variables with the running statistics of these batches in place of their own.

    They are the mean of the batches' statistics, weighted by the number of examples. This is
    precise batch norm, and what averaged weights (SWA, EMA) need. `momentum` and `average` have no
    part in it; `norm_state` is kept.
    apply(variables, batch) -> (anything, moved collections): the network in training mode, with
    mutable=["batch_stats", ...]. It is compiled here, once for each shape of a batch.
    Raises ValueError where no layer moves, or where there is no batch.

    >>> from normlab.norms import BatchNorm
    >>> layer, batches = BatchNorm(), [jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [7.0]])]
    >>> variables = layer.init(jax.random.key(0), batches[0])
    >>> run = lambda v, x: layer.apply(v, x, train=True, mutable=["batch_stats"])
    >>> reestimate(run, variables, batches)["batch_stats"]["mean"].tolist()
    [4.0]
    """

    @jax.jit
    def moved(variables: Any, batch: Any, rate: jax.Array) -> Any:
        with _answering("rate", lambda path: rate) as asked:
            state = apply(variables, batch)[1]
        if not asked:
            raise ValueError(
                "reestimate: no layer moves its running statistics; `apply` must train them, and "
                "must not be compiled itself"
            )
        return state["batch_stats"]

    seen, variables = 0, dict(variables)
    for batch in batches:
        count = len(jax.tree.leaves(batch)[0])
        seen += count
        variables["batch_stats"] = moved(variables, batch, jnp.asarray(count / seen, float))
    if not seen:
        raise ValueError("reestimate: no batches; give at least one")
    return variables


def average_states(states: Any, weights: Any = None) -> Any:
    """Return one state in place of [k] that k parts of a batch left, each from the same state.

    For gradient accumulation: statistics then move once for the whole batch, by the mean of its
    parts' statistics. It is what one pass with stats_batch, the size of a part, leaves.
    `states`: the collections `batch_stats` and `norm_state`, every leaf with a first axis [k], as
    lax.scan stacks them. `weights` [k]: the valid values of each part, equal if left out.

    >>> state = {"batch_stats": {"var": jnp.array([[1.0], [3.0]])}}
    >>> average_states(state)["batch_stats"]["var"].tolist()
    [2.0]
    """
    states = dict(states)
    stats = states.pop("batch_stats", {})
    # counters and vectors of kernels move in each part alike
    kept = jax.tree.map(lambda leaf: leaf[0], states)
    return {"batch_stats": _average(stats, weights), **kept}


def _average(tree: Any, weights: Any) -> Any:
    if not isinstance(tree, Mapping):
        dtype = jnp.promote_types(tree.dtype, jnp.float32)
        w = jnp.ones(len(tree), dtype) if weights is None else jnp.asarray(weights, dtype)
        return jnp.tensordot(w / w.sum(), tree, 1).astype(tree.dtype)
    if "mean_lo" not in tree:
        return {name: _average(leaf, weights) for name, leaf in tree.items()}
    # as a pair: the mean of large means would lose what mean_lo holds
    first = tree["mean"][0]
    low = _average((tree["mean"] - first) + tree["mean_lo"], weights)
    mean = first + low
    rest = {name: leaf for name, leaf in tree.items() if name not in ("mean", "mean_lo")}
    return {"mean": mean, "mean_lo": (first - mean) + low, **_average(rest, weights)}


class Branches(nn.Module):
    """One place in a network with a layer for each of `names`; the call says which one is used.

    For batches of several kinds that must not share statistics, such as clean and adversarial
    images (auxiliary batch norm, arXiv:1911.09665): layer(x, train=True, branch="adversarial").
    Without `branch`, the first is used. Every branch has its own parameters and state, in a
    subtree of its name, all made at initialization.
    Raises ValueError for a branch that is none of them.

    >>> from normlab.norms import build
    >>> layer = build("batch", branches=("clean", "adversarial")).norm(name="norm_1")
    >>> sorted(layer.init(jax.random.key(0), jnp.ones((4, 3)))["batch_stats"])
    ['adversarial', 'clean']
    """

    norm: Callable[..., Any]
    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x: Any, *given: Any, branch: str | None = None, **more: Any) -> jax.Array:
        branch = self.names[0] if branch is None else branch
        if branch not in self.names:
            raise ValueError(f"{name_of(self)}: branch {branch!r} is none of {self.names}")
        layers = {name: self.norm(name=name) for name in self.names}
        if self.is_initializing():
            for layer in layers.values():
                layer(x, *given, **more)
        return layers[branch](x, *given, **more)
