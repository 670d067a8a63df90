"""How long a whole training step takes inside a population, compared with Flax's norm in the same
network.

The network, the optimizer and the data are the project's own in both; only the norm differs. The
programs are compiled as the engine compiles them. docs/benchmarks.md says how to read the table.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from benchmarks import runner
from benchmarks.reference_libraries import Layer, flax_makers
from benchmarks.runner import Options, emit
from normlab.models.build import build_model
from normlab.settings import Config, defaults
from normlab.training.population import choose_conv
from normlab.training.program import CPU_OPTIONS
from normlab.training.state import Hyper, hyper_of, init_state
from normlab.training.step import Batch, make_train_step

MEMBERS = 16
STEPS = 20
"""Training steps of one measured program."""
CLASSES = 10
REPEATS = 15
MODES = ("map", "vmap")
SCHEMES = ("batch", "layer", "group")
COLUMNS = ("network", "scheme", "members by", "us of one member", "/ Flax", "/ no norm")
Shape = tuple[int, ...]
NETWORKS: dict[str, tuple[Shape, Config]] = {
    "MLP 784-100-100-100-10, batch 60": (
        (60, 784),
        {"model.name": "mlp", "model.widths": (100, 100, 100)},
    ),
    "CNN 16-32-64 on 8x8, batch 64": (
        (64, 8, 8, 1),
        {"model.name": "cnn", "model.widths": (16, 32, 64)},
    ),
}
"""Title -> the shape of one batch, settings."""


class FlaxNorm(nn.Module):
    """Flax's layer of a scheme with the signature of ours, in training mode."""

    scheme: str
    epsilon: float
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: Any = None) -> jax.Array:
        del train, mask
        layer = Layer(self.scheme, x.shape, str(x.dtype), self.epsilon, self.groups)
        mode = {"use_running_average": False} if self.scheme == "batch" else {}
        return flax_makers(layer)[self.scheme]()(x, **mode)


def networks(settings: Config, scheme: str, mode: str) -> dict[str, nn.Module]:
    """Return the same network with our norm, with Flax's and with none."""
    config = defaults() | settings
    form = choose_conv("auto", mode)
    ours = build_model(config | {"norm.name": scheme}, CLASSES, form)
    norm = partial(FlaxNorm, scheme, config["norm.epsilon"], config["norm.groups"])
    theirs = ours.clone(layers=dataclasses.replace(ours.layers, norm=norm))
    none = build_model(config | {"norm.name": "none"}, CLASSES, form)
    return {"normlab": ours, "flax": theirs, "none": none}


def make_turn(net: nn.Module, shape: Shape, mode: str) -> Callable[[], float]:
    """Return what takes STEPS training steps of all members on batches of a shape, compiled, and
    returns the microseconds of one step of one member."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.random((STEPS, *shape), np.float32))
    y = jnp.asarray(random.integers(0, CLASSES, (STEPS, shape[0]), np.int32))
    batches = Batch(x, y, jnp.ones(STEPS))
    hyper = Hyper(*(np.full(MEMBERS, value) for value in hyper_of(defaults())))
    hyper = hyper._replace(seed=np.arange(MEMBERS))

    def start(hyper: Hyper):
        return init_state(net, "sgd", hyper, x[0])

    def advance(state, hyper: Hyper, batches: Batch):
        return lax.scan(make_train_step(net, "sgd", hyper), state, batches)[0]

    def advance_all(states, hyper, batches):
        if mode == "vmap":
            return jax.vmap(advance, (0, 0, None))(states, hyper, batches)
        return lax.map(lambda member: advance(member[0], member[1], batches), (states, hyper))

    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    states = jax.jit(jax.vmap(start), compiler_options=options)(hyper)
    program = jax.jit(advance_all, compiler_options=options, donate_argnums=0)
    program = program.lower(states, hyper, batches).compile()

    def turn() -> float:
        nonlocal states
        began = time.perf_counter()
        states = jax.block_until_ready(program(states, hyper, batches))
        return 1e6 * (time.perf_counter() - began) / (STEPS * MEMBERS)

    return turn


def run(options: Options) -> str:
    """Measure; print the progress and the table; return the section of the page."""
    schemes = runner.select("scheme", options.schemes, SCHEMES)
    lines, spreads = [], []
    for (title, (shape, settings)), scheme, mode in itertools.product(
        NETWORKS.items(), schemes, MODES
    ):
        nets = networks(settings, scheme, mode)
        turns = {name: make_turn(net, shape, mode) for name, net in nets.items()}
        found = runner.take_turns(turns, options.repeats or REPEATS, warm_up=1)
        ours = found["normlab"]
        ratios = [runner.ratio_of(ours, found[name]) for name in ("flax", "none")]
        cells = [f"{statistics.median(ours):.0f}", *(ratio.text for ratio in ratios)]
        lines.append([title, scheme, mode, *cells])
        spreads += ratios
        emit(", ".join(lines[-1]))
    head = [runner.machine(["flax"]), runner.spread_text(spreads)]
    return runner.publish(head, [runner.table("Training steps", COLUMNS, lines)])
