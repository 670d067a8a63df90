"""Batch normalization: statistics over the batch, a running average for evaluation."""

from __future__ import annotations

from normlab.norms.running import RunningNorm
from normlab.statistics.normalize import normalize


class BatchNorm(RunningNorm):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias, mean and var over N, H, W per channel.

    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C].
    State: as in RunningNorm, as are the options. Training uses the batch's statistics, evaluation
    the running ones.
    Raises ValueError where stats_batch does not divide N, where a statistic would be made of one
    value, for stats_batch with axis_name.
    Source: arXiv:1502.03167, algorithms 1 and 2. Deviation: the running variance is the biased one
    (as in Flax and Keras; running_var="unbiased" is the paper's and PyTorch's n / (n - 1)).

    >>> import jax
    >>> layer = BatchNorm()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 3)), train=True)
    >>> sorted(variables["batch_stats"])
    ['mean', 'mean_lo', 'var']
    """

    def from_batch(self, x, axes, running, parameters, **options):
        scale, bias = parameters
        return normalize(x, axes, epsilon=self.epsilon, scale=scale, bias=bias, **options)
