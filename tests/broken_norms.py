"""A batch norm as one writes it in ten minutes, and copies of it that are each broken in one place;
`Good` passes everything."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normlab.norms import BatchNorm, Norm, Scheme, finish
from normlab.norms.running import RunningNorm
from normlab.statistics.axes import refuse_degenerate
from normlab.statistics.moments import to_float32, zero_masked
from normlab.statistics.normalize import normalize


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


def broken(name: str, base: type[Plain] = Plain, **methods: Any) -> type[Plain]:
    """A copy of `base` with these methods in the place of its own."""
    metaclass: Any = type(base)
    return metaclass(name, (base,), {"__module__": __name__, **methods})


def unbiased(self, z, valid):
    mean, var = Plain.moments(self, z, valid)
    n = jnp.maximum(valid.sum(self.axes(z), keepdims=True), 2)
    return mean, var * n / (n - 1)


def constant_mean(self, z, valid):
    mean, var = Plain.moments(self, z, valid)
    return lax.stop_gradient(mean), var


def constant_variance(self, z, valid):
    mean, var = Plain.moments(self, z, valid)
    return mean, lax.stop_gradient(var)


def cancelling(self, z, valid):
    mean, _ = Plain.moments(self, z, valid)
    square, _ = Plain.moments(self, z * z, valid)
    return mean, jnp.maximum(square - mean * mean, 0)


def nan_of_nothing(self, z, valid):
    mean, var = Plain.moments(self, z, valid)
    return jnp.where(valid.sum(self.axes(z), keepdims=True) > 0, mean, jnp.nan), var


def batch_in_evaluation(self, z, mean, var):
    return Plain.evaluate(self, z, *self.moments(z, jnp.ones_like(z, bool)))


def moved_without_values(self, train, valid):
    return True if train and not self.is_initializing() else None


def refuse_without_names(self, x):
    if x[..., 0].size < 2:
        raise ValueError("too few values")


@jax.custom_vjp
def _same(z):
    return z


_same.defvjp(lambda z: (z, None), lambda _, c: (c,))

WrongDivisor = broken("WrongDivisor", moments=unbiased)
ConstantMean = broken("ConstantMean", moments=constant_mean)
ConstantVariance = broken("ConstantVariance", moments=constant_variance)
Cancels = broken("Cancels", moments=cancelling)
CountsMasked = broken(
    "CountsMasked", moments=lambda self, z, valid: Plain.moments(self, z, jnp.ones_like(valid))
)
ReadsMasked = broken("ReadsMasked", CountsMasked, zero_masked=lambda self, z, valid: z)
# right in the forward pass; the slopes of masked NaN are 0 * NaN
ForgetsBlank = broken("ForgetsBlank", zero_masked=lambda self, z, valid: z)
NoValidValue = broken("NoValidValue", moments=nan_of_nothing, moves=moved_without_values)
KeepsMasked = broken(
    "KeepsMasked", finish=lambda self, y, valid, dtype: jnp.where(valid, y, 1).astype(dtype)
)
MovedAtInit = broken("MovedAtInit", moves=lambda self, train, valid: valid.any() if train else None)
MovedInEvaluation = broken(
    "MovedInEvaluation",
    moves=lambda self, train, valid: None if self.is_initializing() else valid.any(),
)
NeverMoved = broken("NeverMoved", moves=lambda self, train, valid: None)
WrongMomentum = broken("WrongMomentum", rate=lambda self: self.momentum)
WrongAxes = broken("WrongAxes", axes=lambda self, z: tuple(range(1, z.ndim - 1)))
NoSquareRoot = broken(
    "NoSquareRoot", evaluate=lambda self, z, mean, var: (z - mean) / (var + self.epsilon)
)
BatchInEvaluation = broken("BatchInEvaluation", evaluate=batch_in_evaluation)
KeepsWide = broken("KeepsWide", finish=lambda self, y, valid, dtype: jnp.where(valid, y, 0))
HalfStatistics = broken("HalfStatistics", to_float32=lambda self, x: x)
AlwaysFloat32 = broken("AlwaysFloat32", to_float32=lambda self, x: x.astype(jnp.float32))
NeverRefuses = broken("NeverRefuses", refuse=lambda self, x: None)
NamesNothing = broken("NamesNothing", refuse=refuse_without_names)
ReverseOnly = broken("ReverseOnly", to_float32=lambda self, x: _same(Plain.to_float32(self, x)))


class NoMask(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return x


class WithoutMask(nn.Module):
    """RMS norm as it is found in papers' code: right, but not made for masks."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, train: bool = False):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        square = jnp.square(y).mean(-1, keepdims=True)
        return (scale * y * lax.rsqrt(square + self.epsilon)).astype(x.dtype)


class OtherState(Plain):
    @nn.compact
    def __call__(self, x, *, train: bool = False, mask=None):
        self.variable("memory", "seen", jnp.zeros, ())
        return super().__call__(x, train=train, mask=mask)


class Good(Scheme):
    """Instance norm on the shared statistics, without parameters."""

    epsilon: float = 1e-5

    def respond(self, x, train, mask):
        axes = tuple(range(1, x.ndim - 1))
        refuse_degenerate("Good", x.shape, axes)
        return normalize(x, axes, epsilon=self.epsilon, mask=mask)[0]


class Unguarded(Scheme):
    """Right, but with a slope that is not finite at inputs that networks give."""

    epsilon: float = 1e-5

    def divide(self, x):
        raise NotImplementedError

    def respond(self, x, train, mask):
        return finish(self, self.divide(zero_masked(to_float32(x), mask)))


class ScaleNorm(Unguarded):
    def divide(self, x):
        size = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True))
        return x / jnp.maximum(size, self.epsilon)


class RootOfVariance(Unguarded):
    """Over each channel of an example, epsilon outside of the root."""

    def divide(self, x):
        return x / (x.std((1, 2), keepdims=True) + self.epsilon)


class RootOfBatch(Unguarded):
    """Over each channel of a batch, likewise."""

    def divide(self, x):
        return x / (x.std((0, 1, 2), keepdims=True) + self.epsilon)


class SignedRoot(Unguarded):
    def divide(self, x):
        return jnp.sign(x) * jnp.sqrt(jnp.abs(x))


class LearnedPower(Unguarded):
    """Its parameter alone has such a slope: x^p log(x) at 0."""

    def divide(self, x):
        power = self.param("power", nn.initializers.ones, (1,) * x.ndim)
        return jnp.sign(x) * jnp.exp(power * lax.stop_gradient(jnp.log(jnp.abs(x))))


class OnePass(Unguarded):
    """The squares of one large value are infinite, so their difference is no number."""

    def divide(self, x):
        mean, square = (v.mean((1, 2, 3), keepdims=True) for v in (x, jnp.square(x)))
        return (x - mean) * lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon)


def shared_start(self, channels):
    zeros = jnp.zeros(channels)
    for leaf in ("mean", "mean_lo", "var"):
        self.variable("batch_stats", leaf, lambda: zeros)


class SharedStart(Good):
    def respond(self, x, train, mask):
        shared_start(self, x.shape[-1])
        return super().respond(x, train, mask)


class CompiledAtEachCall(Good):
    def respond(self, x, train, mask):
        y = super().respond(x, train, mask)
        return lax.cond(jnp.isfinite(y).all(), lambda y: y, lambda y: -y, y)


class WidensState(Good):
    """Its counter has the type of x."""

    def respond(self, x, train, mask):
        count = self.variable("norm_state", "count", jnp.zeros, (), jnp.float32)
        if train and not self.is_initializing():
            count.value = count.value + jnp.ones((), x.dtype)
        return super().respond(x, train, mask)


class NoAxisName(BatchNorm):
    @property
    def shared_along(self):
        return None


class MovedByOneValue(RunningNorm):
    def from_batch(self, x, axes, running, parameters, **options):
        y, m = normalize(x, axes, epsilon=self.epsilon, **options)
        return y, m._replace(n=m.n + 1)


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


def instance(module: type[nn.Module]) -> Norm:
    """Return the row of an instance norm without parameters."""
    own = {"over": ("H", "W"), "options": ("epsilon",), "parameters": ()}
    return row(module, running_statistics=False, **own)


GOOD = instance(Good)
NORMS = {"good_norm": GOOD, "wrong_divisor": row(WrongDivisor)}
"""What scripts/check_norm.py reads when it is given this file."""
