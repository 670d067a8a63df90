"""Power normalization: batch norm for sequences, by a running mean square and never centred."""

from __future__ import annotations

from jax import lax

from normlab.norms.running import RunningNorm
from normlab.statistics.moments import Reduction, mean_over, per_channel, to_float32, zero_masked
from normlab.statistics.normalize import normalize, scale_and_shift


class PowerNorm(RunningNorm):
    """y = scale * x / sqrt(square + epsilon) + bias, `square` the running mean square per channel.

    Training and evaluation have the same formula. Training uses the value before its own update,
    so no example depends on another. The running value follows the mean of x^2 over N, H, W.
    The gradient is the paper's approximation and not the derivative of y. With g the gradient of
    x / sqrt(square + epsilon) and means over N, H, W, it is
    dL/dx = (g - x mean(g x) / (mean(x^2) + epsilon)) / sqrt(square + epsilon).
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` [C].
    State: the leaf `var`, the mean square, of RunningNorm's; options as there.
    Raises ValueError where BatchNorm does.
    Source: arXiv:2003.07845, section 4. Deviations: the paper averages mean(g x_hat) over steps
    too (its nu), which the backward pass would have to keep. Here it is at the fixed point of
    that recursion for this batch. The paper's warm-up by the batch's own mean square and its
    scaling of groups before the layer are left out.

    >>> import jax
    >>> x = jax.numpy.array([[2.0], [-2.0]])
    >>> layer = PowerNorm(epsilon=0.0, momentum=0.0)
    >>> variables = layer.init(jax.random.key(0), x)
    >>> y, moved = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    >>> y.tolist(), moved["batch_stats"]["var"].tolist()
    ([[2.0], [-2.0]], [4.0])
    """

    leaves = ("var",)

    def from_batch(self, x, axes, running, parameters, **options):
        fixed = to_float32(lax.stop_gradient(x))
        unit, m = normalize(fixed, axes, epsilon=self.epsilon, centered=False, **options)
        tangent = to_float32(x) - fixed  # zeros, whose derivative is that of x
        dims = Reduction(axes, axis_name=options["axis_name"])
        along = mean_over(zero_masked(unit * tangent, options["mask"]), dims, m.n)
        return self.scaled(fixed + (tangent - unit * along), running, parameters), m

    def from_running(self, x, mask, running, parameters):
        return self.scaled(to_float32(x), running, parameters)

    def scaled(self, x, running, parameters):
        """Return scale * x / sqrt(square + epsilon) + bias."""
        inverse = lax.rsqrt(running.var + self.epsilon)
        return scale_and_shift(x * per_channel(inverse, x.ndim), *parameters)
