"""Batch normalization: statistics over the batch, a running average for evaluation."""

from __future__ import annotations

import jax
from flax import linen as nn

from normlab.axes import axes_of
from normlab.moments import (
    Average,
    Moments,
    fit_mask,
    normalize,
    normalize_by,
    refuse_degenerate,
    start_average,
    update_average,
)
from normlab.norms.plain import scale_and_bias


class BatchNorm(nn.Module):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias, mean and var over N, H, W per channel.

    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C].
    State: collection `batch_stats`, leaves `mean`, `mean_lo`, `var` [C]; the running mean is the
    unrounded sum mean + mean_lo. Training uses the batch's statistics and moves the running ones,
    new = momentum * old + (1 - momentum) * batch (biased variance); evaluation uses the running
    ones and moves nothing, nor does initialising.
    `stats_batch` b > 0: statistics over groups of b consecutive examples (ghost batches,
    arXiv:1705.08741); the running ones average over the groups. 0 is the whole batch.
    Raises ValueError where b does not divide N, or where a statistic would be made of one value.
    Source: arXiv:1502.03167, algorithms 1 and 2. Deviation: the running variance is the biased one
    (as in Flax and Keras; the paper rescales it by n / (n - 1)).

    >>> layer = BatchNorm()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 3)), train=True)
    >>> sorted(variables["batch_stats"])
    ['mean', 'mean_lo', 'var']
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    stats_batch: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        start = start_average(x.shape[-1])
        leaves = [
            self.variable("batch_stats", name, lambda value=value: value)
            for name, value in zip(Average._fields, start, strict=True)
        ]
        running = Average(*(leaf.value for leaf in leaves))
        if train:
            y, batch = self._normalize_groups(x, mask)
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                for leaf, value in zip(
                    leaves, update_average(running, batch, self.momentum), strict=True
                ):
                    leaf.value = value
        else:
            y = normalize_by(x, running, self.epsilon)
        return scale_and_bias(self, y).astype(x.dtype)

    def _normalize_groups(self, x: jax.Array, mask) -> tuple[jax.Array, Moments]:
        size = self.stats_batch or x.shape[0]
        if x.shape[0] % size:
            raise ValueError(
                f"{self.name}: stats_batch {size} does not divide the batch of {x.shape[0]}"
            )
        groups = (x.shape[0] // size, size, *x.shape[1:])
        axes = tuple(a + 1 for a in axes_of(("N", "H", "W"), x.ndim))
        refuse_degenerate(self.name or "BatchNorm", groups, axes)
        if mask is not None:
            mask = fit_mask(mask, x.shape).reshape(groups)
        y, batch = normalize(x.reshape(groups), axes, epsilon=self.epsilon, mask=mask)
        return y.reshape(x.shape), batch
