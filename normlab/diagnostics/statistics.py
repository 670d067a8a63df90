"""The gap between running statistics and those of the training images."""

from __future__ import annotations

import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.taps import inside, name_of, outline, statistics_of

FLOOR = 1e-5
"""Added to variances, the default epsilon of our norms: constant channels have no gap."""


def observe(inputs: DiagnosticInputs) -> Values:
    """Return, for the norms that keep running statistics, their distance from re-estimated ones:

    statistics.mean.<norm>: mean over channels of |running mean - mean| / sqrt(variance);
    statistics.var.<norm>: mean over channels of |log(running variance / variance)|. What a norm
    does not keep is left out; a mean without variance is given in its own units.
    """
    values: Values = {}
    if inputs.whole is None:
        return values
    exact = statistics_of(inputs, inputs.stats_x)
    for norm in outline(inputs).norms:
        running, true = inside(inputs.state["batch_stats"], norm.path), inside(exact, norm.path)
        var = true["var"] + FLOOR if "var" in true else 1.0
        if "mean" in running:
            gap = (running["mean"] - true["mean"]) + (
                running.get("mean_lo", 0.0) - true.get("mean_lo", 0.0)
            )
            values[f"statistics.mean.{name_of(norm)}"] = jnp.mean(jnp.abs(gap) / jnp.sqrt(var))
        if "var" in running:
            gap = jnp.log((running["var"] + FLOOR) / var)
            values[f"statistics.var.{name_of(norm)}"] = jnp.mean(jnp.abs(gap))
    return values
