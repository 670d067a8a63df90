"""The Hessian of the loss, by its products with vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from matfree import decomp, stochtrace

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.taps import live_loss

KRYLOV = 20
"""Steps of Lanczos' method."""
SAMPLES = 16
"""Vectors of signs, of which each gives an unbiased estimate of the trace."""
START, SIGNS = 1, 2
"""Folded into the key."""


def observe(inputs: DiagnosticInputs) -> Values:
    """Return of the Hessian of the diagnostic batch's loss in training mode, where the batch
    statistics are live, that is, move with the parameters:

    curvature.top: its largest eigenvalue (from below, by Lanczos' method); curvature.trace:
    Hutchinson's estimate, the same signs whenever the key is the same.
    """
    w, restore = ravel_pytree(inputs.params)

    def times(v: jax.Array) -> jax.Array:
        # Reverse over reverse: the max pool has no forward mode.
        return jax.grad(lambda w: jax.grad(lambda w: live_loss(inputs, restore(w)))(w) @ v)(w)

    start = jax.random.normal(jax.random.fold_in(inputs.key, START), w.shape)
    lanczos = decomp.tridiag_sym(min(KRYLOV, w.size), custom_vjp=False)
    top = jnp.linalg.eigvalsh(lanczos(times, start).J_small)[-1]
    integrand = stochtrace.monte_carlo_trace()
    estimate = stochtrace.estimator_monte_carlo(integrand, stochtrace.sampler_signs(w, num=1))
    keys = jax.random.split(jax.random.fold_in(inputs.key, SIGNS), SAMPLES)
    # One after another: at once they would hold the activations of SAMPLES batches.
    traces = lax.map(lambda key: estimate(times, key), keys)
    return {"curvature.top": top, "curvature.trace": traces.mean()}
