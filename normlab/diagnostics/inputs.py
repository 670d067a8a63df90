"""What a diagnostic gets of a run at one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

Values = dict[str, jax.Array]
"""Scalars by "<diagnostic>.<quantity>" or "<diagnostic>.<quantity>.<layer>"."""
DiagnosticState = dict[str, jax.Array]
"""What a diagnostic keeps from one measurement to the next."""


class DiagnosticInputs(NamedTuple):
    """A network between two steps, and images to measure it with."""

    net: nn.Module
    whole: nn.Module | None
    """The same network whose training pass leaves exactly the statistics of its images in
    `batch_stats`; None where the scheme has no running statistics."""
    params: Any
    state: dict[str, Any]
    """The collections batch_stats and norm_state."""
    x: jax.Array
    """[B, ...] training images, as many as in a training batch."""
    y: jax.Array
    """[B] their classes."""
    held_out: jax.Array
    """[n, ...] images outside of the training split."""
    stats_x: jax.Array
    """[m, ...] images that running statistics are re-estimated on."""
    key: jax.Array
    """For the stream `noise`; all passes of one measurement get the same."""
    descend: Callable[[Any], Any]
    """(gradients) -> the parameters after the optimiser's next step on them, at `rate`."""
    rate: jax.Array
    """The learning rate of the step just taken; the schedule may give the next one another."""
