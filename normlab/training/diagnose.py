"""Diagnostics of a run, inside the compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from normlab.diagnostics.names import probe_names
from normlab.settings import Config
from normlab.training.optim import direction
from normlab.training.state import Hyper, TrainState

DIAGNOSTIC_STREAM = 2
"""Folded into a run's key before the step. The noise that diagnostics see changes with every step,
and no step trains with it."""


class Diagnostics(NamedTuple):
    start: Callable[[TrainState, Hyper, Any], dict[str, Any]]
    """(state at step 0, hyper, x) -> the first `diagnostic_state`."""
    observe: Callable[..., tuple[TrainState, dict[str, Any]]]
    """(state, hyper, relative rate, data, batches) -> state with a new `diagnostic_state`, and
    values by name."""


def make_diagnostics(config: Config, net: nn.Module, whole: nn.Module | None) -> Diagnostics:
    """Return the diagnostics of a configuration; without any, both functions do nothing."""
    names = probe_names(config["eval.probes"])
    if not names:
        return Diagnostics(lambda state, hyper, x: {}, lambda state, *_: (state, {}))
    from normlab.diagnostics.inputs import DiagnosticInputs
    from normlab.diagnostics.table import DIAGNOSTICS, STATEFUL

    def inputs_of(state: TrainState, hyper: Hyper, rate, x, y, held_out, stats_x):
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
            key=jax.random.fold_in(jax.random.fold_in(state.key, DIAGNOSTIC_STREAM), state.step),
            descend=descend,
            rate=hyper.lr * rate,
        )

    def start(state: TrainState, hyper: Hyper, x) -> dict[str, Any]:
        first = inputs_of(state, hyper, 1.0, x, jax.numpy.zeros(len(x), int), x, x)
        return {name: STATEFUL[name].initial_state(first) for name in names if name in STATEFUL}

    def observe(state: TrainState, hyper: Hyper, rate, data, batches):
        size, stats_x = config["data.batch"], data.gather(batches.stats)
        y, held_out = batches.stats_labels[:size], data.gather(batches.held_out)
        inputs = inputs_of(state, hyper, rate, stats_x[:size], y, held_out, stats_x)
        values, kept = {}, dict(state.diagnostic_state)
        for name in names:
            if name in STATEFUL:
                new, kept[name] = STATEFUL[name].observe(inputs, kept[name])
            else:
                new = DIAGNOSTICS[name](inputs)
            values |= new
        return state._replace(diagnostic_state=kept), values

    return Diagnostics(start, observe)
