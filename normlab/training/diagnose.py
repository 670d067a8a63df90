"""What probes see of a run, inside the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from normlab.diagnostics.names import probe_names
from normlab.settings import Config
from normlab.training.optim import direction
from normlab.training.state import Hyper, TrainState

PROBE_STREAM = 2
"""Folded into a run's key before the step: the noise that probes see changes with every step, and
is that of no step."""


class Diagnostics(NamedTuple):
    start: Callable[[TrainState, Hyper, Any], dict[str, Any]]
    """(state at step 0, hyper, x) -> what the probes remember at first."""
    observe: Callable[..., tuple[TrainState, dict[str, Any]]]
    """(state, hyper, relative rate, data, feed) -> state with its memory moved, values by name."""


def make_diagnostics(config: Config, net: nn.Module, whole: nn.Module | None) -> Diagnostics:
    """Return the probes of a configuration; those of none do nothing."""
    names = probe_names(config["eval.probes"])
    if not names:
        return Diagnostics(lambda state, hyper, x: {}, lambda state, *_: (state, {}))
    from normlab.diagnostics.inputs import DiagnosticInputs
    from normlab.diagnostics.table import MEMORIES, PROBES

    def scene(state: TrainState, hyper: Hyper, rate, x, y, held_out, stats_x) -> DiagnosticInputs:
        transform = direction(config["optim.name"], hyper.momentum, hyper.weight_decay)

        def descend(grads: Any) -> Any:
            updates, _ = transform.update(grads, state.opt_state, state.params)
            return jax.tree.map(lambda p, u: p - hyper.lr * rate * u, state.params, updates)

        return DiagnosticInputs(
            net=net,
            whole=whole,
            params=state.params,
            state={"batch_stats": state.batch_stats, "norm_state": state.norm_state},
            x=x,
            y=y,
            held_out=held_out,
            stats_x=stats_x,
            key=jax.random.fold_in(jax.random.fold_in(state.key, PROBE_STREAM), state.step),
            descend=descend,
            rate=hyper.lr * rate,
        )

    def start(state: TrainState, hyper: Hyper, x) -> dict[str, Any]:
        first = scene(state, hyper, 1.0, x, jax.numpy.zeros(len(x), int), x, x)
        return {name: MEMORIES[name](first) for name in names if name in MEMORIES}

    def observe(state: TrainState, hyper: Hyper, rate, data, feed):
        size, stats_x = config["data.batch"], data.gather(feed.stats)
        y, held_out = feed.stats_labels[:size], data.gather(feed.held_out)
        now = scene(state, hyper, rate, stats_x[:size], y, held_out, stats_x)
        values, memory = {}, dict(state.memory)
        for name in names:
            told, moved = PROBES[name](now, memory.get(name, {}))
            values |= told
            memory |= {name: moved} if name in memory else {}
        return state._replace(memory=memory), values

    return Diagnostics(start, observe)
