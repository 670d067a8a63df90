"""Instance normalization with running statistics: the other half of PyTorch's InstanceNorm."""

from __future__ import annotations

from normlab.norms.plain import name_of, refuse_one_value
from normlab.norms.running import RunningNorm
from normlab.statistics.axes import axes_of
from normlab.statistics.normalize import normalize


class RunningInstanceNorm(RunningNorm):
    """y = scale * (x - mean) / sqrt(var + epsilon) + bias, over H, W per example and channel.

    That is training. In evaluation, mean and var are the running ones, per channel.
    The running statistics follow the mean over the batch of the examples' means and variances.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C].
    State: RunningNorm's, options too, but for axis_name: no statistic is shared in training.
    Raises ValueError where an instance has one value in training, and for axis_name.
    Source: arXiv:1607.08022; running statistics as PyTorch's InstanceNorm(track_running_stats=True)
    keeps them. Deviation: variances are biased unless running_var="unbiased", as PyTorch's are.

    >>> import jax
    >>> x = jax.numpy.array([[[1.0], [3.0]], [[5.0], [7.0]]])
    >>> layer = RunningInstanceNorm(momentum=0.0)
    >>> variables = layer.init(jax.random.key(0), x)
    >>> _, moved = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    >>> moved["batch_stats"]["mean"].tolist(), moved["batch_stats"]["var"].tolist()
    ([4.0], [1.0])
    """

    def parameters(self, x):
        if x.ndim == 2:
            refuse_one_value(self, x.shape, ())
        if self.axis_name is not None:
            raise ValueError(
                f"{name_of(self)}: axis_name {self.axis_name!r} has nothing to share, statistics "
                "are of one example; leave it out and average the state over the devices"
            )
        return super().parameters(x)

    def from_batch(self, x, axes, running, parameters, **options):
        if x.ndim > 2:
            shape = (x.shape[0] * x.shape[1], *x.shape[2:])
            refuse_one_value(self, shape, axes_of(("H", "W"), len(shape)))
        scale, bias = parameters
        space = tuple(range(2, x.ndim - 1))
        return normalize(x, space, epsilon=self.epsilon, scale=scale, bias=bias, **options)
