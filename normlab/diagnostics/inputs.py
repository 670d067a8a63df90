"""What a probe gets to see of a run at one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

Values = dict[str, jax.Array]
"""Scalars by "<probe>.<quantity>" or "<probe>.<quantity>.<layer>"."""
Memory = dict[str, jax.Array]
"""What a probe keeps from one probing to the next; empty for most."""


class DiagnosticInputs(NamedTuple):
    """A network between two steps, and images to probe it with."""

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
    """For the stream `noise`; all passes of one probing get the same."""
    descend: Callable[[Any], Any]
    """(gradients) -> the parameters after the optimiser's next step on them."""
    rate: jax.Array
    """The learning rate of that step."""
