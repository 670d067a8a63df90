"""The idiomatic Flax Linen loop: one jitted step with donated state, one dispatch a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.loops.network import EPSILON, GROUPS, MOMENTUM, RATE, Job, Network
from benchmarks.loops.stepwise import Run, Stepwise

ACTIVATIONS = {"relu": nn.relu, "sigmoid": nn.sigmoid}


def norm_of(scheme: str, train: bool, dimensions: int) -> Callable[..., Any]:
    """Return Flax's layer of a scheme; what has none (none, affine) does nothing."""
    space = tuple(range(1, dimensions))
    layers = {
        "batch": partial(nn.BatchNorm, use_running_average=not train, momentum=MOMENTUM),
        "layer": partial(nn.LayerNorm, reduction_axes=space),
        "layer_channels": nn.LayerNorm,
        "group": partial(nn.GroupNorm, num_groups=GROUPS),
        "instance": nn.InstanceNorm,
        "rms": nn.RMSNorm,
    }
    if scheme not in layers:
        return lambda name: lambda x: x
    return partial(layers[scheme], epsilon=EPSILON)


class Net(nn.Module):
    network: Network

    @nn.compact
    def __call__(self, x: Any, train: bool) -> jax.Array:
        kept = x
        for kind, name, features, stride in self.network.ops:
            if kind == "dense":
                x = nn.Dense(features, name=name)(x)
            elif kind == "conv":
                x = nn.Conv(features, (3, 3), stride, padding=1, name=name)(x)
            elif kind == "norm":
                x = norm_of(self.network.norm, train, x.ndim)(name=name)(x)
            elif kind == "act":
                x = ACTIVATIONS[self.network.act](x)
            elif kind == "pool":
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            elif kind == "mean":
                x = x.mean((1, 2))
            elif kind == "keep":
                more = (0, features - x.shape[-1])
                kept = jnp.pad(x[:, ::stride, ::stride], ((0, 0),) * 3 + (more,))
            else:
                x = x + kept
        return x


class State(NamedTuple):
    params: Any
    batch_stats: Any
    momentum: Any


class Loop(Stepwise):
    """`form` "device": the examples are JAX arrays, indexed as in Flax's MNIST example. Otherwise
    they are NumPy's on a CPU."""

    def __init__(self, job: Job, form: str = ""):
        super().__init__(job)
        as_array = jnp.asarray if form or jax.default_backend() != "cpu" else np.asarray
        self.images, self.labels = as_array(job.inputs), as_array(job.labels)
        self.net = Net(job.network)
        self.rate = RATE
        self.draw = jax.jit(lambda seed: self.net.init(jax.random.key(seed), self.images[:2], True))
        self.train_step = jax.jit(self._train_step, donate_argnums=0)
        self.count = jax.jit(self._count)
        self.load()

    def _begin(self, params: Any, batch_stats: Any) -> None:
        self.state = State(params, batch_stats, optax.trace(MOMENTUM).init(params))

    def load(self) -> None:
        params = jax.tree.map(jnp.array, self.job.weights)  # Flax's names are ours
        self._begin(params, self.draw(0).get("batch_stats", {}))

    def start(self, run: Run) -> None:
        variables = self.draw(run.seed)
        self._begin(variables["params"], variables.get("batch_stats", {}))
        self.rate = run.rate

    def _train_step(self, state: State, x, y, rate) -> tuple[State, jax.Array]:
        def loss_of(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, moved = self.net.apply(variables, x, True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), moved.get("batch_stats", {})

        (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, momentum = optax.trace(MOMENTUM).update(grads, state.momentum)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        return State(params, batch_stats, momentum), loss

    def _count(self, state: State, x, y) -> jax.Array:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits: Any = self.net.apply(variables, x, False)
        return jnp.sum(logits.argmax(-1) == y)

    def step(self, rows: np.ndarray) -> jax.Array:
        x, y = self.images[rows], self.labels[rows]
        self.state, loss = self.train_step(self.state, x, y, self.rate)
        return loss

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    def count_correct(self, rows: np.ndarray) -> jax.Array:
        return self.count(self.state, self.images[rows], self.labels[rows])
