"""EvoNorm: norm and activation in one formula, found by evolution; no activation follows it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from normlab.norms.group import count_groups
from normlab.norms.plain import ROOM, Scheme, finish, parameter, refuse_one_value, safe_divide
from normlab.norms.running import RunningNorm
from normlab.statistics.axes import axes_of
from normlab.statistics.moments import Mask, moments, per_channel, std, to_float32, zero_masked


class EvoNormB0(RunningNorm):
    """y = scale * x / max(std_NHW(x), v x + std_HW(x)) + bias, where std^2 = variance + epsilon.

    The first std is the batch's, per channel; the second that of each example and channel.
    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` and `v` (1 at first), [C].
    State: the leaf `var` alone of RunningNorm's; options as there. Evaluation uses the running
    variance for the batch's; the variance over H, W is always the example's own. All are biased.
    Raises ValueError where a statistic would be made of one value, as in dense inputs [N, C].
    Source: arXiv:2004.02967, table of the EvoNorms and code in the appendix. Deviation: none.
    Gradients are off by up to a tenth at a std from 4e18 to 1.8e19, by 1e-6 below and above.

    >>> layer = EvoNormB0()
    >>> variables = layer.init(jax.random.key(0), jax.numpy.ones((4, 2, 2, 3)), train=True)
    >>> sorted(variables["params"]), sorted(variables["batch_stats"])
    (['bias', 'scale', 'v'], ['var'])
    """

    leaves = ("var",)

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        x = zero_masked(to_float32(x), mask)
        space = axes_of(("H", "W"), x.ndim)
        self.refuse_one_image(x.ndim)
        refuse_one_value(self, x.shape, space)
        v = per_channel(parameter(self, "v", 1, x.shape[-1]), x.ndim)
        over_batch = self.batch_std(x, train, mask)
        # of whole examples: seen by groups of them, XLA rounds the gradient differently
        m = moments(x, space, mask=mask)
        # std * ROOM as a quotient: of a sum of two products, a compiler may round either.
        over_space = std(m._replace(shrink=m.shrink / ROOM), self.epsilon * ROOM**2)
        small = x * ROOM
        below = jnp.maximum(over_batch * ROOM, v * small + over_space)
        return finish(self, safe_divide(small, below))

    def batch_std(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        """Return the std over N, H, W of the batch, or the running one; moves the running one."""
        running = self.running(x)
        uses_running, moves = self.switches(train)
        result = per_channel(jnp.sqrt(running.var + self.epsilon), x.ndim)
        if not uses_running or moves:
            shape, axes = self.ghosts(x.shape)
            valid = None if mask is None else mask.reshape(shape)
            batch = moments(x.reshape(shape), axes, mask=valid, axis_name=self.shared_along)
            if moves:
                self.move(running, batch)
            if not uses_running:
                result = std(batch, self.epsilon)
                if len(shape) > x.ndim:  # groups of examples
                    result = jnp.repeat(result[:, 0], shape[1], axis=0)
        return result


class EvoNormS0(Scheme):
    """y = scale * x sigmoid(v x) / sqrt(var + epsilon) + bias, var over H, W and C / G channels.

    Shapes: x [N, ..., C] -> the same; parameters `scale`, `bias` and `v` (1 at first), [C].
    State: none; training and evaluation agree. The variance is biased, per example and group;
    `group_size` > 0 gives C / G instead of G.
    Raises ValueError where G does not divide C, or a statistic would be made of one value.
    Source: arXiv:2004.02967, table of the EvoNorms and code in the appendix. Deviation: none.

    >>> x = jax.numpy.array([[[0.0, 20.0], [20.0, 0.0]]])
    >>> y, _ = EvoNormS0(groups=1).init_with_output(jax.random.key(0), x)
    >>> y.round(3).tolist()
    [[[0.0, 2.0], [2.0, 0.0]]]
    """

    groups: int = 4
    group_size: int = 0
    epsilon: float = 1e-5
    allow_degenerate: bool = False

    def respond(self, x: jax.Array, train: bool, mask: Mask) -> jax.Array:
        space = axes_of(("H", "W"), x.ndim)
        groups = count_groups(self, x.shape[-1])
        refuse_one_value(self, x.shape, space, groups)
        x = zero_masked(to_float32(x), mask)
        v = per_channel(parameter(self, "v", 1, x.shape[-1]), x.ndim)
        over_group = std(moments(x, space, groups=groups, mask=mask), self.epsilon)
        return finish(self, safe_divide(x, over_group) * jax.nn.sigmoid(v * x))
