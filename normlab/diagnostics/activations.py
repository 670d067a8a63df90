"""The distribution of what enters the activations, at one moment."""

from __future__ import annotations

import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import by_unit, means_and_stds
from normlab.diagnostics.taps import activation_inputs, name_of, run

PERCENTILES = (15, 50, 85)


def observe(inputs: DiagnosticInputs) -> Values:
    """Return, in training mode on the diagnostic batch, of what enters each norm's activation:

    activations.mean.<norm>, activations.std.<norm>: mean over units of |mean| and of the standard
    deviation; activations.p15, .p50, .p85: percentiles of the first unit of the last one.
    """
    taps, values = run(inputs, inputs.params), {}
    entering = activation_inputs(inputs, taps)
    for norm, (mean, std) in zip(taps.norms, means_and_stds(entering), strict=True):
        values[f"activations.mean.{name_of(norm)}"] = jnp.abs(mean).mean()
        values[f"activations.std.{name_of(norm)}"] = std.mean()
    found = jnp.percentile(by_unit(entering[-1])[:, 0], jnp.array(PERCENTILES, jnp.float32))
    values |= {f"activations.p{p}": found[i] for i, p in enumerate(PERCENTILES)}
    return values
