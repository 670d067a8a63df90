"""The idiomatic Flax Linen loop: one jitted step with donated state, one dispatch a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

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


class Loop(Stepwise):
    """`form` "device": the examples are JAX arrays, indexed as in Flax's MNIST example. Otherwise
    they are NumPy's on a CPU."""

    def __init__(self, job: Job, form: str = ""):
        super().__init__(job)
        as_array = jnp.asarray if form or jax.default_backend() != "cpu" else np.asarray
        self.images, self.labels = as_array(job.inputs), as_array(job.labels)
        self.net = Net(job.network)
        self.draw = jax.jit(lambda seed: self.net.init(jax.random.key(seed), self.images[:2], True))
        self.train_step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self.count = jax.jit(self._count)
        self.load()

    def _begin(self, variables: Any, rate: float = RATE) -> None:
        self.variables, self.rate = variables, rate
        self.momentum = optax.trace(MOMENTUM).init(variables["params"])

    def load(self) -> None:
        params = jax.tree.map(jnp.array, self.job.weights)  # Flax's names are ours
        self._begin({**self.draw(0), "params": params})

    def start(self, run: Run) -> None:
        self._begin(self.draw(run.seed), run.rate)

    def _apply(self, given: Any, x: Any) -> Any:
        return self.net.apply(given, x, True, mutable=["batch_stats"])

    def _train_step(self, variables: Any, momentum: Any, x, y, rate) -> tuple[Any, Any, jax.Array]:
        def loss_of(params):
            given = {**variables, "params": params}
            logits, moved = self._apply(given, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), moved

        params = variables["params"]
        (loss, moved), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, momentum = optax.trace(MOMENTUM).update(grads, momentum)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        return {**moved, "params": params}, momentum, loss

    def _count(self, variables: Any, x, y) -> jax.Array:
        logits: Any = self.net.apply(variables, x, False)
        return jnp.sum(logits.argmax(-1) == y)

    def _gather(self, rows: np.ndarray) -> Any:
        return self.images[rows], self.labels[rows]

    def step(self, rows: np.ndarray) -> jax.Array:
        x, y = self._gather(rows)
        self.variables, self.momentum, loss = self.train_step(
            self.variables, self.momentum, x, y, self.rate
        )
        return loss

    def wait(self) -> None:
        jax.block_until_ready(self.variables)

    def count_correct(self, rows: np.ndarray) -> jax.Array:
        return self.count(self.variables, *self._gather(rows))
