"""What the schemes with running statistics share: groups of examples, switches, averages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from normlab.norms.plain import Scheme, affine, name_of, refuse_one_value
from normlab.statistics.along import groups_of
from normlab.statistics.averages import (
    Average,
    has_variance,
    normalize_by,
    start_average,
    update_average,
)
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import Mask, Moments, zero_masked
from normlab.statistics.normalize import scale_and_shift

AVERAGES = ("moving", "debiased", "cumulative")
VARIANCES = ("biased", "unbiased")


class RunningNorm(Scheme):
    """Base of the schemes whose statistics run over the batch and are averaged for evaluation.

    State: collection `batch_stats`, leaves `mean`, `mean_lo`, `var` [C]; the running mean is the
    unrounded sum mean + mean_lo. With an `average` other than "moving", and in a scheme that
    `counts`, also `norm_state` with the leaf `count`, the number of updates. Training moves them,
    evaluating and initialising do not.

    epsilon: added to the variance. momentum: weight of the OLD running statistics.
    average: "moving" is new = momentum * old + (1 - momentum) * batch. "debiased" is the same
    without a trace of the start: rate (1 - momentum) / (1 - momentum^t) at update t. "cumulative"
    is the mean of all batches: rate 1 / t.
    running_var: "biased", or "unbiased" (times n / (n - 1), as PyTorch keeps it).
    stats_batch: b > 0 takes statistics over groups of b consecutive examples (ghost batches,
    arXiv:1705.08741), whose average the running ones follow; 0 is the whole batch.
    axis_name: also over the devices, or vmapped calls, along this axis. axis_index_groups: only
    over those of the own group, as ((0, 1), (2, 3)).
    use_running, update_running: what is used and whether it moves; None: as `train` says. Frozen
    statistics are use_running=True, update_running=False.
    allow_degenerate: accept statistics of one value, whose output is constant.
    A batch moves nothing if its statistics are not finite or if at most one value is valid: one
    value has no variance. Otherwise it counts as the batch of its valid values.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    average: str = "moving"
    running_var: str = "biased"
    stats_batch: int = 0
    axis_name: Any = None
    use_running: bool | None = None
    update_running: bool | None = None
    allow_degenerate: bool = False
    axis_index_groups: Any = None

    counts = False
    """Whether the scheme needs the number of updates whatever the `average`."""
    leaves = Average._fields
    """The running statistics that the scheme keeps."""

    def parameters(self, x: jax.Array) -> Any:
        """Return the layer's parameters, made here and nowhere else, for the two methods below."""
        return affine(self, x.shape[-1])

    def from_batch(
        self, x: jax.Array, axes: tuple[int, ...], running: Average, parameters: Any, **options: Any
    ) -> tuple[jax.Array, Moments]:
        """Return y by the statistics of x [N / b, b, ..., C] over `axes`, and those statistics.

        `options` holds the mask, in the shape of x, and axis_name, as `moments` takes them.
        """
        raise NotImplementedError

    def from_running(
        self, x: jax.Array, mask: Mask, running: Average, parameters: Any
    ) -> jax.Array:
        """Return y by the running statistics; x is [N, ..., C] and the mask has its shape."""
        scale, bias = parameters
        return scale_and_shift(normalize_by(x, running, self.epsilon), scale, bias)

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        """Return y by the batch's statistics or the running ones, and move the running ones, as
        `train` and the switches say."""
        parameters, running = self.parameters(x), self.running(x)
        x = zero_masked(x, mask)
        y, (uses_running, moves) = x, self.switches(train)
        if uses_running:
            y = self.from_running(x, mask, running, parameters)
        if not uses_running or moves:
            shape, axes = self.ghosts(x.shape)
            options = {"mask": mask if mask is None else mask.reshape(shape)}
            options["axis_name"] = self.shared_along
            by, batch = self.from_batch(x.reshape(shape), axes, running, parameters, **options)
            y = y if uses_running else by.reshape(x.shape)
            if moves:
                self.move(running, batch)
        return y

    @property
    def shared_along(self) -> Any:
        """The axis name; none while initializing, which may happen outside of that axis."""
        if self.is_initializing():
            return None
        return groups_of(name_of(self), self.axis_name, self.axis_index_groups)

    def switches(self, train: bool) -> tuple[bool, bool]:
        """Return whether the running statistics are used, and whether they move."""
        uses = not train if self.use_running is None else self.use_running
        moves = train if self.update_running is None else self.update_running
        return uses, moves and not self.is_initializing()

    def ghosts(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape of a batch split into groups, [N / b, b, ..., C], and the axes of one
        statistic. Dense batches of one group stay [N, C]. Raises ValueError where it cannot."""
        name, size = name_of(self), self.stats_batch or shape[0]
        count = shape[0] // self.stats_batch if self.stats_batch else 1
        if self.stats_batch and self.axis_name is not None:
            raise ValueError(
                f"{name}: stats_batch {self.stats_batch} and axis_name {self.axis_name!r} exclude "
                "each other; groups of examples are counted in the whole batch, so drop axis_name"
            )
        if self.stats_batch and shape[0] % size:
            raise ValueError(f"{name}: stats_batch {size} does not divide the batch of {shape[0]}")
        grouped = (count, size, *shape[1:])
        axes = axes_of(("N", "H", "W"), len(shape))
        refuse_one_value(self, grouped[1:], axes, axis_name=self.shared_along)
        if len(shape) == 2 and count == 1:
            return shape, axes  # an axis of 1 makes the backward pass 8 times slower
        return grouped, tuple(a + 1 for a in axes)

    def running(self, x: jax.Array) -> Average:
        """Return the running statistics, made on first use; those not kept are at their start.
        They are in the type of x where that is wider."""
        for option, value, legal in (
            ("average", self.average, AVERAGES),
            ("running_var", self.running_var, VARIANCES),
        ):
            if value not in legal:
                known = ", ".join(legal)
                raise ValueError(f"{name_of(self)}: {option} {value!r} is not one of {known}")
        if self.counts or self.average != "moving":
            self.updates()
        channels = x.shape[-1]
        start = start_average(channels)
        for leaf in self.leaves:
            value = self.variable("batch_stats", leaf, getattr, start, leaf).value
            if value.shape != (channels,):
                raise ValueError(
                    f"{name_of(self)}: running {leaf} has shape {value.shape}, the input has "
                    f"{channels} channels; initialize with an input like those of training"
                )
            start = start._replace(**{leaf: value})
        return Average(*(v.astype(jnp.promote_types(v.dtype, x.dtype)) for v in start))

    def updates(self) -> jax.Array:
        """Return how many updates there were, a counter in `norm_state` made on first use."""
        if not self.has_variable("norm_state", "count"):
            self.variable("norm_state", "count", jnp.zeros, (), jnp.int32)
        return self.get_variable("norm_state", "count")

    def move(self, running: Average, batch: Moments) -> None:
        """Move the running statistics towards those of a batch."""
        if not self.is_mutable_collection("batch_stats"):
            raise ValueError(
                f"{name_of(self)}: training moves running statistics, which are not mutable here; "
                "pass mutable=['batch_stats', 'norm_state'], or build the layer with "
                "update_running=False"
            )
        rate = self.rate()
        self.count_update(batch)
        unbiased = self.running_var == "unbiased"
        for leaf, value in update_average(running, batch, rate, unbiased)._asdict().items():
            if leaf in self.leaves:
                kept = self.get_variable("batch_stats", leaf).dtype
                self.put_variable("batch_stats", leaf, value.astype(kept))

    def rate(self) -> float | jax.Array:
        """Return how far this update moves them towards the batch's, from 0 to 1."""
        if self.average == "moving":
            return 1 - self.momentum
        count = self.updates() + 1
        leaves = [self.get_variable("batch_stats", leaf) for leaf in self.leaves]
        dtype = jnp.result_type(jnp.float32, *leaves)
        if self.average == "cumulative" or self.momentum >= 1:
            return jnp.ones((), dtype) / count
        momentum = jnp.asarray(self.momentum, dtype)  # in one type, so that the first rate is 1
        return (1 - momentum) / (1 - momentum**count)

    def refuse_one_image(self, ndim: int) -> None:
        """Raise where x [A, B, C] may be one image of a vmapped call or a batch of sequences."""
        if self.axis_name is not None and ndim == 3:
            raise ValueError(
                f"{name_of(self)}: along axis_name {self.axis_name!r}, an input of 3 axes may be "
                "an image [H, W, C] or sequences [N, T, C], which have other statistics; write "
                "x[None] for the image, x[:, None] for the sequences"
            )

    def count_update(self, batch: Moments) -> None:
        """Count one update, unless the batch moves nothing; raises ValueError where the counter is
        not mutable. The first batch that is counted then leaves no trace of the start."""
        if not self.has_variable("norm_state", "count"):
            return
        if not self.is_mutable_collection("norm_state"):
            raise ValueError(
                f"{name_of(self)}: counts its updates in the collection "
                "norm_state, which is not mutable; pass mutable=['batch_stats', 'norm_state']"
            )
        moves = jnp.any(has_variance(batch)).astype(jnp.int32)
        self.put_variable("norm_state", "count", self.updates() + moves)
