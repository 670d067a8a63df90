"""Leak: whether a norm shows a causal network the tokens that it has to predict.

A small decoder predicts tokens that are drawn evenly and anew at every step. Nothing can be learned
of them, so no causal network has a mean loss below log V, V tokens. A norm that averages over steps
lets a step see later ones, and training finds that. docs/theory.md says how to read the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from benchmarks import runner
from benchmarks.runner import Check, Options, emit
from normlab.layers.factory import factory
from normlab.models.activations import glorot
from normlab.models.transformer import Decoder
from normlab.norms.builder import Layers, build
from normlab.settings import defaults
from normlab.studies.intervals import t_interval
from normlab.training.program import CPU_OPTIONS
from normlab.training.state import hyper_of, init_state
from normlab.training.step import Batch, make_train_step

TOKENS, LENGTH, WIDTH = 8, 12, 32
STEPS, LAST, RATE, SEEDS = 2500, 500, 3e-3, 6
"""The loss is the mean of the last steps. Adam has one rate, which was not tuned."""
BOUND = 0.05
"""Nats below log V above which a norm leaks: about what 500 batches of one text leave to chance."""


class Case(NamedTuple):
    """A norm, what one statistic of it is over, examples of a batch, and whether it may leak."""

    norm: str
    over: str
    batch: int
    leaks: bool | None
    """None: not judged, because many examples thin the leak out."""

    @property
    def title(self) -> str:
        return f"{self.norm}, {self.over}" if self.over else self.norm


EACH, TOKEN, SEQUENCE = "each step", "all steps of all sequences", "all steps of a sequence"
CASES = (
    *(Case("batch", TOKEN, n, n == 1 or None) for n in (1, 2, 4, 16)),
    *(Case(name, TOKEN, 1, True) for name in ("l1_batch", "mean_only_batch")),
    *(Case(name, SEQUENCE, n, True) for name in ("instance", "group", "layer") for n in (1, 4)),
    *(Case("batch", EACH, n, False) for n in (4, 16)),
    *(Case(name, "", 1, False) for name in ("layer", "rms", "group", "dynamic_tanh", "none")),
)
"""Those that a decoder of normlab accepts come last."""


class OverTime(nn.Module):
    """The norm of x [T N, C] as one of sequences [N, T, 1, C], whose steps it takes for height."""

    layers: Layers
    steps: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: Any = None) -> jax.Array:
        del mask
        sequences = x.reshape(self.steps, -1, x.shape[-1]).swapaxes(0, 1)[:, :, None]
        y = self.layers.norm(name="norm")(sequences, train=train)
        return y[:, :, 0].swapaxes(0, 1).reshape(x.shape)


def network(case: Case) -> Decoder:
    """Return a decoder of one block with the norm of `case`, whether it may have it or not."""
    layers = build(case.norm)
    if case.over == SEQUENCE:
        layers = replace(layers, norm=factory(OverTime, layers=layers, steps=LENGTH))
    time = "sequence" if case.over in (TOKEN, SEQUENCE) else "step"
    return Decoder(layers, WIDTH, 1, 2, TOKENS, glorot, time=time)


def measure(case: Case, steps: int = STEPS, seeds: int = SEEDS) -> np.ndarray:
    """Return for each seed how many nats the loss in training mode is below log V at the end."""
    net, hyper = network(case), hyper_of(defaults() | {"optim.lr": RATE})
    step = make_train_step(net, "adam", hyper)

    def drawn(key: jax.Array, number: jax.Array) -> jax.Array:
        shape = (case.batch, LENGTH + 1)
        return jax.random.randint(jax.random.fold_in(key, number), shape, 0, TOKENS)

    def train(seed: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), 7)
        first = drawn(key, jnp.asarray(steps))[:, :-1]
        state = init_state(net, "adam", hyper._replace(seed=seed), first)

        def body(state: Any, number: jax.Array) -> tuple[Any, jax.Array]:
            tokens = drawn(key, number)
            return step(state, Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones(())))

        return lax.scan(body, state, jnp.arange(steps))[1]

    run = jax.jit(lambda seeds: lax.map(train, seeds), compiler_options=CPU_OPTIONS)
    losses = np.asarray(run(np.arange(seeds, dtype=np.uint32)), np.float64)
    return math.log(TOKENS) - losses[:, -min(LAST, steps // 5) :].mean(1)


def judge(case: Case, gains: Sequence[float]) -> Check:
    """Return the line of a case. A leak has its interval above BOUND, no leak has it below."""
    mean, (low, high) = np.mean(gains), t_interval(gains)
    holds = None if case.leaks is None else low > BOUND if case.leaks else high < BOUND
    expected = {True: "leaks", False: "does not", None: "not predicted"}[case.leaks]
    found = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return Check(case.title, [case.title, str(case.batch), expected, found], holds)


def run(options: Options) -> str:
    """Measure; print the progress and the table; return the section of the page."""
    del options  # there is nothing to select
    checks = []
    for number, case in enumerate(CASES, 1):
        emit(f"{number}/{len(CASES)} {case.title}, batch {case.batch}")
        checks.append(judge(case, measure(case).tolist()))
    title = f"Nats below log {TOKENS} = {math.log(TOKENS):.3f}"
    columns = ["norm, statistics over", "sequences", "theory", f"measured, {SEEDS} seeds", ""]
    table = runner.table(title, columns, [check.line for check in checks])
    return runner.publish(
        [runner.machine(["flax"]), runner.verdict("predictions", checks)], [table]
    )
