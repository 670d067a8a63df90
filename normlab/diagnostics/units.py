"""What enters activations, dead units, channels near trouble or with mean 0 and deviation 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.diagnostics.inputs import DiagnosticInputs, Values
from normlab.diagnostics.sizes import TINY, by_unit, means_and_stds
from normlab.diagnostics.taps import activation_inputs, name_of, run, statistics_of

PERCENTILES = (15, 50, 85)
NEAR = 0.1
"""How far a mean may be from 0 and a standard deviation from 1."""
RESOLVED = 2.0**24
"""The largest mean over standard deviation that float32 can distinguish from a constant."""


def observe_activations(inputs: DiagnosticInputs) -> Values:
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


def observe_dead(inputs: DiagnosticInputs) -> Values:
    """Return dead.share.<layer>, the share of the layer's inputs that are always 0.

    Such a unit is 0 for all examples and at all positions. The first layer, which receives the
    image, has no value.
    """
    values = {}
    for layer in run(inputs, inputs.params).layers[1:]:
        is_dead = jnp.all(by_unit(layer.x) == 0, axis=0)
        values[f"dead.share.{name_of(layer)}"] = is_dead.astype(jnp.float32).mean()
    return values


def observe_health(inputs: DiagnosticInputs) -> Values:
    """Return health.ratio.<norm>, the largest |mean| / standard deviation of a channel that enters
    the norm, 2^24 at most, in training mode over batch and space."""
    values = {}
    norms = run(inputs, inputs.params).norms
    found = means_and_stds([norm.x for norm in norms])
    for norm, (mean, std) in zip(norms, found, strict=True):
        mean = jnp.abs(mean)
        floor = jnp.maximum(mean / RESOLVED, TINY)
        values[f"health.ratio.{name_of(norm)}"] = jnp.max(mean / jnp.maximum(std, floor))
    return values


def are_near(arrays: list[jax.Array]) -> list[jax.Array]:
    """Return for the channels of each array whether their mean is 0 and their standard deviation 1
    to within NEAR."""
    found = means_and_stds(arrays)
    return [(jnp.abs(mean) <= NEAR) & (jnp.abs(std - 1) <= NEAR) for mean, std in found]


def share(near: list[jax.Array], counts: list[jax.Array] | None = None) -> jax.Array:
    """Return the share of channels that are near, all layers together, among those that count
    (None: all)."""
    is_near = jnp.concatenate(near)
    count = jnp.ones_like(is_near) if counts is None else jnp.concatenate(counts)
    return jnp.sum(is_near & count) / jnp.sum(count)


def observe_moments(inputs: DiagnosticInputs) -> Values:
    """Return the share of channels, of all norms or layers together, whose |mean| <= 0.1 and
    |standard deviation - 1| <= 0.1 over batch and space:

    moments.normalized: normalized values in training on the diagnostic batch, without scale and
    bias. moments.scaled: after them. moments.received: what conv, dense and head receive, but for
    the image. moments.evaluation: normalized values in evaluation mode on held-out images with
    re-estimated statistics. Channels whose scale is next to 0 are left out of the first and last.
    """
    training = run(inputs, inputs.params)
    statistics = statistics_of(inputs, inputs.stats_x)
    evaluation = run(inputs, inputs.params, x=inputs.held_out, train=False, batch_stats=statistics)
    norms, count = training.norms, len(training.norms)
    received = [layer.x for layer in training.layers[1:]]
    near = are_near([n.x_hat for n in norms] + [n.y for n in norms] + received)
    known = [n.is_known for n in norms]
    values = {
        "moments.normalized": share(near[:count], known),
        "moments.scaled": share(near[count : 2 * count]),
        "moments.received": share(near[2 * count :]),
        "moments.evaluation": share(are_near([n.x_hat for n in evaluation.norms]), known),
    }
    return values
