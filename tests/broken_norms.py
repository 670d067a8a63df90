"""A batch norm as one writes it in ten minutes, and copies of it that are each broken in one place;
`Good` passes everything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normlab.norms import Norm
from normlab.statistics.axes import refuse_degenerate
from normlab.statistics.moments import normalize


class Plain(nn.Module):
    """Batch norm in two passes, right on ordinary input; what others break is a method."""

    epsilon: float = 1e-5
    momentum: float = 0.9

    def axes(self, z):
        return tuple(range(z.ndim - 1))

    def to_float32(self, x):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def zero_masked(self, z, valid):
        return jnp.where(valid, z, 0)

    def refuse(self, x):
        if x[..., 0].size < 2:
            raise ValueError(f"Plain: one value for each channel of {x.shape}")

    def moments(self, z, valid):
        n = jnp.maximum(valid.sum(self.axes(z), keepdims=True), 1)
        mean = (jnp.where(valid, z, 0) / n).sum(self.axes(z), keepdims=True)
        square = jnp.square(jnp.where(valid, z - mean, 0))
        return mean, square.sum(self.axes(z), keepdims=True) / n

    def rate(self):
        return 1 - self.momentum

    def moves(self, train, valid):
        return valid.any() if train and not self.is_initializing() else None

    def evaluate(self, z, mean, var):
        return (z - mean) * lax.rsqrt(var + self.epsilon)

    def finish(self, y, valid, dtype):
        return jnp.where(valid, y, 0).astype(dtype)

    @nn.compact
    def __call__(self, x, *, train: bool = False, mask=None):
        self.refuse(x)
        valid = jnp.broadcast_to(True if mask is None else mask, x.shape)
        z, channels = self.zero_masked(self.to_float32(x), valid), x.shape[-1:]
        running = [
            self.variable("batch_stats", leaf, lambda v=v: jnp.full(channels, v, jnp.float32))
            for leaf, v in (("mean", 0), ("var", 1))
        ]
        batch = self.moments(z, valid)
        moves = self.moves(train, valid)
        if moves is not None:
            for now, new in zip(running, batch, strict=True):
                mean = jnp.mean(new, tuple(range(new.ndim - 1)))
                step = self.rate() * (mean - now.value)
                now.value = now.value + jnp.where(moves, step, 0).astype(jnp.float32)
        if train:
            y = (z - batch[0]) * lax.rsqrt(batch[1] + self.epsilon)
        else:
            y = self.evaluate(z, running[0].value, running[1].value)
        y = y * self.param("scale", nn.initializers.ones, channels, jnp.float32)
        y = y + self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        return self.finish(y, valid, x.dtype)


class WrongDivisor(Plain):
    def moments(self, z, valid):
        mean, var = super().moments(z, valid)
        n = jnp.maximum(valid.sum(self.axes(z), keepdims=True), 2)
        return mean, var * n / (n - 1)


class ConstantMean(Plain):
    def moments(self, z, valid):
        mean, var = super().moments(z, valid)
        return lax.stop_gradient(mean), var


class ConstantVariance(Plain):
    def moments(self, z, valid):
        mean, var = super().moments(z, valid)
        return mean, lax.stop_gradient(var)


class CountsMasked(Plain):
    def moments(self, z, valid):
        return super().moments(z, jnp.ones_like(valid))


class ReadsMasked(CountsMasked):
    def zero_masked(self, z, valid):
        return z


class ForgetsBlank(Plain):
    """Right in the forward pass; the slopes of masked NaN are 0 * NaN."""

    def zero_masked(self, z, valid):
        return z


class NoValidValue(Plain):
    def moments(self, z, valid):
        n = valid.sum(self.axes(z), keepdims=True)
        mean, var = super().moments(z, valid)
        return jnp.where(n > 0, mean, jnp.nan), var

    def moves(self, train, valid):
        return True if train and not self.is_initializing() else None


class KeepsMasked(Plain):
    def finish(self, y, valid, dtype):
        return jnp.where(valid, y, 1).astype(dtype)


class MovedAtInit(Plain):
    def moves(self, train, valid):
        return valid.any() if train else None


class MovedInEvaluation(Plain):
    def moves(self, train, valid):
        return valid.any() if not self.is_initializing() else None


class NeverMoved(Plain):
    def moves(self, train, valid):
        return None


class WrongMomentum(Plain):
    def rate(self):
        return self.momentum


class WrongAxes(Plain):
    def axes(self, z):
        return tuple(range(1, z.ndim - 1))


class NoSquareRoot(Plain):
    def evaluate(self, z, mean, var):
        return (z - mean) / (var + self.epsilon)


class BatchInEvaluation(Plain):
    def evaluate(self, z, mean, var):
        mean, var = self.moments(z, jnp.ones_like(z, bool))
        return super().evaluate(z, mean, var)


class KeepsWide(Plain):
    def finish(self, y, valid, dtype):
        return jnp.where(valid, y, 0)


class Cancels(Plain):
    def moments(self, z, valid):
        mean, _ = super().moments(z, valid)
        square, _ = super().moments(z * z, valid)
        return mean, jnp.maximum(square - mean * mean, 0)


class HalfStatistics(Plain):
    def to_float32(self, x):
        return x


class AlwaysFloat32(Plain):
    def to_float32(self, x):
        return x.astype(jnp.float32)


class NeverRefuses(Plain):
    def refuse(self, x):
        pass


class NamesNothing(Plain):
    def refuse(self, x):
        if x[..., 0].size < 2:
            raise ValueError("too few values")


@jax.custom_vjp
def _same(z):
    return z


_same.defvjp(lambda z: (z, None), lambda _, c: (c,))


class ReverseOnly(Plain):
    def to_float32(self, x):
        return _same(super().to_float32(x))


class NoMask(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return x


class OtherState(Plain):
    @nn.compact
    def __call__(self, x, *, train: bool = False, mask=None):
        self.variable("memory", "seen", jnp.zeros, ())
        return super().__call__(x, train=train, mask=mask)


class Good(nn.Module):
    """Instance norm on the shared statistics, without parameters."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train: bool = False, mask=None):
        axes = tuple(range(1, x.ndim - 1))
        refuse_degenerate("Good", x.shape, axes)
        return normalize(x, axes, epsilon=self.epsilon, mask=mask)[0].astype(x.dtype)


def row(module: type[nn.Module], **claims) -> Norm:
    """Return the row of a batch norm in which `claims` replace what it says."""
    honest = dict(
        title=module.__name__,
        family="batch",
        module=module,
        over=("N", "H", "W"),
        options=("epsilon", "momentum"),
        running_statistics=True,
        invariant=("shift", "scale"),
        standard=True,
    )
    return Norm(**{**honest, **claims})


GOOD = row(Good, over=("H", "W"), options=("epsilon",), parameters=(), running_statistics=False)
NORMS = {"good_norm": GOOD, "wrong_divisor": row(WrongDivisor)}
"""What scripts/check_norm.py reads when it is given this file."""
