"""What a run is made of between two steps, and the settings that it takes as inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from normlab.settings import Config
from normlab.training.optim import direction


class Hyper(NamedTuple):
    """The traced settings of one member; in a population every leaf is [S]."""

    seed: Any
    lr: Any
    momentum: Any
    weight_decay: Any
    gain: Any
    init_seed: Any = None
    """Draws the initial weights; None: the seed does."""
    norm_scale: Any = 1.0


class TrainState(NamedTuple):
    """One run between two steps; in a population every leaf has a leading member axis S."""

    step: jax.Array
    params: Any
    batch_stats: Any
    norm_state: Any
    opt_state: Any
    key: jax.Array
    is_alive: jax.Array
    """False from the first non-finite loss or gradient on: the state no longer moves."""
    diagnostic_state: Any = {}
    """What diagnostics keep from one measurement to the next, by name."""

    @property
    def variables(self) -> dict[str, Any]:
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "norm_state": self.norm_state,
        }


def hyper_of(config: Config) -> Hyper:
    return Hyper(
        seed=config["seed"],
        lr=config["optim.lr"],
        momentum=config["optim.momentum"],
        weight_decay=config["optim.weight_decay"],
        gain=config["init.gain"],
        init_seed=config["seed"] if config["init.seed"] < 0 else config["init.seed"],
        norm_scale=config["init.norm_scale"],
    )


def scale_hidden(params: Any, gain: Any, norm_scale: Any = 1.0) -> Any:
    """Return params with every hidden kernel times `gain` and every scale of a norm times
    `norm_scale`; the head keeps its own. A norm whose name ends in _zero has a scale of 0."""

    def scale(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        norms = [part.key for part in path[:-1] if part.key.startswith("norm")]
        if path[-1].key == "scale" and norms:
            return jnp.zeros_like(leaf) if norms[-1].endswith("_zero") else leaf * norm_scale
        is_hidden = path[0].key != "head" and path[-1].key == "kernel"
        return leaf * gain if is_hidden else leaf

    return jax.tree_util.tree_map_with_path(scale, params)


def init_state(net: nn.Module, optimizer: str, hyper: Hyper, first_batch: jax.Array) -> TrainState:
    """Return step 0: a pure function of the member's seed, gain and first batch.

    Parameters are drawn by module name, so arms share the bits of every parameter they share.
    """
    key = jax.random.key(hyper.seed)
    drawn = key if hyper.init_seed is None else jax.random.key(hyper.init_seed)
    variables = net.init(jax.random.fold_in(drawn, 0), first_batch, train=True)
    params = scale_hidden(variables["params"], hyper.gain, hyper.norm_scale)
    transform = direction(optimizer, hyper.momentum, hyper.weight_decay)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        norm_state=variables.get("norm_state", {}),
        opt_state=transform.init(params),
        key=jax.random.fold_in(key, 1),
        is_alive=jnp.ones((), bool),
    )
