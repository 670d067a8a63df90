"""How long a whole training step takes inside a population, beside Flax's norm in the same network.

The network, the optimizer and the data are the project's own in both; only the norm differs. The
programs are compiled as the engine compiles them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from benchmarks import select
from benchmarks.layers import REPEATS, Work, take_turns
from benchmarks.page import Table, machine
from benchmarks.reference_libraries import Layer, flax_module
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
MODES = ("map", "vmap")
SCHEMES = ("batch", "layer", "group")


class Network(NamedTuple):
    title: str
    shape: tuple[int, ...]
    """Of one batch."""
    settings: Config


NETWORKS = (
    Network(
        "MLP 784-100-100-100-10, batch 60",
        (60, 784),
        {"model.name": "mlp", "model.widths": (100, 100, 100)},
    ),
    Network(
        "CNN 16-32-64 on 8x8, batch 64",
        (64, 8, 8, 1),
        {"model.name": "cnn", "model.widths": (16, 32, 64)},
    ),
)


class FlaxNorm(nn.Module):
    """Flax's layer of a scheme with the signature of ours, in training mode."""

    scheme: str
    epsilon: float
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: Any = None) -> jax.Array:
        del train, mask
        layer = Layer(self.scheme, x.shape, str(x.dtype), self.epsilon, self.groups)
        module = flax_module(layer)
        assert module is not None
        return module(x)


def networks(network: Network, scheme: str, mode: str) -> dict[str, nn.Module]:
    """Return the same network with our norm, with Flax's and with none."""
    config = defaults() | network.settings
    form = choose_conv("auto", mode)
    ours = build_model(config | {"norm.name": scheme}, CLASSES, form)
    norm = functools.partial(FlaxNorm, scheme, config["norm.epsilon"], config["norm.groups"])
    theirs = ours.clone(layers=dataclasses.replace(ours.layers, norm=norm))
    return {
        "normlab": ours,
        "flax": theirs,
        "none": build_model(config | {"norm.name": "none"}, CLASSES, form),
    }


def step_work(net: nn.Module, network: Network, members: int, mode: str) -> Work:
    """Return the compiled chunk of STEPS training steps of all members."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.random((STEPS, *network.shape), np.float32))
    y = jnp.asarray(random.integers(0, CLASSES, (STEPS, network.shape[0]), np.int32))
    batches = Batch(x, y, jnp.ones(STEPS))
    hyper = Hyper(*(np.full(members, value) for value in hyper_of(defaults())))
    hyper = hyper._replace(seed=np.arange(members))

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

    def work(times: int) -> None:
        nonlocal states
        for _ in range(times):
            states = jax.block_until_ready(program(states, hyper, batches))

    return work


class Plan(NamedTuple):
    schemes: list[str]
    repeats: int
    members: int = MEMBERS
    networks: tuple[Network, ...] = NETWORKS


def plan(schemes: Sequence[str] = (), repeats: int = REPEATS) -> Plan:
    """Return what to measure, () being all there is; raises BadSelection."""
    return Plan(select("scheme", list(schemes), list(SCHEMES)), repeats)


def measure(plan: Plan, network: Network, scheme: str, mode: str) -> list[str]:
    """Return a line of the table."""
    work = {
        name: step_work(net, network, plan.members, mode)
        for name, net in networks(network, scheme, mode).items()
    }
    seconds = take_turns(work, (0, 1), plan.repeats)
    ours = seconds["normlab"]
    per_step = 1e6 * ours / (STEPS * plan.members)
    ratios = [f"{ours / seconds[name]:.2f}" for name in ("flax", "none")]
    return [network.title, scheme, mode, f"{per_step:.0f}", *ratios]


def run(plan: Plan, tell: Callable[[str], None]) -> str:
    """Measure; tell the progress and the table; return the section of the page."""
    lines = []
    for network in plan.networks:
        for scheme in plan.schemes:
            for mode in MODES:
                lines.append(measure(plan, network, scheme, mode))
                tell(", ".join(lines[-1]))
    columns = ("network", "scheme", "members by", "us of one member", "/ Flax", "/ no norm")
    where = machine(["flax"])
    table = Table("Training steps", columns, lines, INTRODUCTION.format(plan.members) + where)
    tell("\n".join(["", where, table.terminal()]))
    return table.markdown()


INTRODUCTION = """Microseconds of one training step (SGD) of one member, in a population of {}, and
the ratio of our time to that with Flax's default layer in the same network, and to that without a
norm. Medians over rounds in which the three take turns, compiled with the engine's options. """
