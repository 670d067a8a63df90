"""Schemes that act on kernels: (kernel, respond, train) -> (kernel in its place, initial bias).

`kernel` [..., C] is the layer's own parameter, float32; its fan-in are all axes but the last.
`respond(kernel)` is the layer's output for a kernel, without bias; only an initialization that
looks at data needs it. `train` says whether state moves; None: where `norm_state` is mutable. The
second result is where the layer's `bias` [C] starts, None for zeros. The layer casts the kernel to
the type of its input.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from normlab.statistics.moments import inverse_std, moments, per_channel, refuse_traced, std
from normlab.statistics.normalize import normalize

FEW_VALUES = 32
"""Their standard deviation is off by 1 / sqrt(64) = 12 %; that of 2 values by a factor above 3 in
one case of three."""
Respond = Callable[[jax.Array], jax.Array]
Reparametrized = tuple[jax.Array, jax.Array | None]


@functools.cache
def act_gain(act: Callable[[jax.Array], jax.Array]) -> float:
    """Return the factor that gives act(z), z ~ N(0, 1), variance 1: 1 / sqrt(Var act(z)).

    Gauss-Legendre integration in float64, with 16 nodes between any two integers of [-12, 12]. The
    error is 1e-12 for functions that are smooth except for kinks at integers.
    Raises ValueError where the variance is 0 or not finite.

    >>> round(act_gain(jax.nn.relu), 12)
    1.71285855045
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    z = (np.arange(-12, 12)[:, None] + (nodes + 1) / 2).ravel()
    density = np.tile(weights / 2, 24) * np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        y = np.asarray(act(jnp.asarray(z)), np.float64)
    variance = float(density @ np.square(y - density @ y))
    if not 0 < variance < math.inf:
        raise ValueError(
            f"activation {getattr(act, '__name__', act)!r} has variance {variance} under N(0, 1), "
            "which no gain makes 1; use another activation or another norm.kernel"
        )
    return 1 / math.sqrt(variance)


def starting_at(value: jax.Array | None) -> Callable[..., Any]:
    """Return the initializer of a parameter that starts at `value`; None: at zeros."""
    return nn.initializers.zeros if value is None else lambda *_: value


def fan_in_axes(kernel: jax.Array) -> tuple[int, ...]:
    """Return all axes of a kernel but the last: what makes one output unit."""
    return tuple(range(kernel.ndim - 1))


def fan_in(kernel: jax.Array) -> int:
    """Return how many weights make one output unit."""
    return math.prod(kernel.shape[:-1])


def standardized(module: nn.Module, kernel: jax.Array, epsilon: float) -> jax.Array:
    """Return the kernel with mean 0 and variance 1 over the fan-in of each output unit."""
    if fan_in(kernel) < 2:
        raise ValueError(
            f"{'/'.join(module.path)}: a kernel of shape {kernel.shape} has one value for each "
            "output unit, at least 2 are needed to standardize them; use a wider layer before it "
            "or another norm.kernel"
        )
    return normalize(kernel, fan_in_axes(kernel), epsilon=epsilon)[0]


class WeightNorm(nn.Module):
    """w = gain * v / |v| for each output unit, v the kernel: its length and direction apart.

    `start` "data": gain and the layer's bias start from the first batch, with t = v.x / |v|, as
    gain = 1 / std[t] and bias = -mean[t] / std[t]. The layer's first outputs then have mean 0 and
    variance 1. A unit whose t is constant starts as the plain layer does, with gain = |v| and bias
    0. Constant is a std[t] below 1e-4 of the largest |mean[t]| of a unit, or below the resolution
    of t's type. One example, NaN and infinity count as constant too. Few values give a warning.
    Padding counts as data: initialize with a batch without it.
    `start` "norm": all units start as the plain layer does, as in PyTorch.

    Shapes: kernel [..., C] -> the same; parameter `gain` [C]. State: none.
    Shared parameters: `bias` does not start where it does in the other arms, but at the value that
    completes the paper's initialization. `kernel` has the bits it has everywhere, and only its
    direction counts. Weight decay acts on `kernel`, which alters the speed of its rotation only.
    epsilon: added to the mean square of v; a kernel of zeros gives zeros.
    Source: arXiv:1602.07868, sections 2 and 3. Deviations: the dense layer that ends a network
    stays as it is; the paper reparametrizes all layers. v is drawn as in the other arms, not from
    N(0, 0.05^2), which changes nothing but the size of its first gradients.

    >>> v = jax.numpy.array([[3.0], [4.0]])
    >>> w, _ = WeightNorm().apply({"params": {"gain": jax.numpy.array([10.0])}}, v, None)
    >>> w.round(5).tolist()
    [[6.0], [8.0]]
    """

    epsilon: float = 1e-30
    start: str = "data"

    @nn.compact
    def __call__(
        self, kernel: jax.Array, respond: Respond, train: bool | None = None
    ) -> Reparametrized:
        del train
        if self.start not in ("data", "norm"):
            raise ValueError(f"start {self.start!r} of weight norm is not one of data, norm")
        root = math.sqrt(fan_in(kernel))
        y, m = normalize(kernel, fan_in_axes(kernel), epsilon=self.epsilon, centered=False)
        direction = y / root
        first_gain = first_bias = None
        if not self.has_variable("params", "gain"):
            first_gain = root * std(m, self.epsilon).reshape(-1)
            if self.start == "data":
                t = respond(direction)
                warn_of_few(t, "/".join(self.path))
                if count_examples(t) != 1 and t.size != 0:
                    first_gain, first_bias = from_first_batch(t, first_gain)
            first_gain = first_gain.astype(jnp.float32)
        gain = self.param("gain", starting_at(first_gain), kernel.shape[-1:], jnp.float32)
        return per_channel(gain, kernel.ndim) * direction, first_bias


def count_examples(t: jax.Array) -> int:
    """Return N of t [N, ..., C], 1 of t [C]."""
    return t.shape[0] if t.ndim > 1 else 1


def warn_of_few(t: jax.Array, name: str) -> None:
    """Warn where t [N, ..., C] is too small a sample of what training will bring."""
    examples, values = count_examples(t), math.prod(t.shape[:-1])
    if isinstance(values, int) and (examples < 2 or values < FEW_VALUES):
        warnings.warn(
            f"{name}: weight norm starts from {examples} examples with {values} values for each "
            f"unit, which may not be typical; initialize with {FEW_VALUES} examples or more, or "
            "start with gain = |v| by start='norm' (norms.build: kernel_start='norm')",
            stacklevel=2,
        )


def from_first_batch(t: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return gain and bias [C] that give gain * t + bias [N, ..., C] mean 0 and variance 1.
    They are `length` and 0 where t is constant."""
    m = moments(t, tuple(range(t.ndim - 1)))
    # Relative to the largest mean: where the mean of one unit cancels, its noise does not.
    resolution = max(1e-4, float(jnp.finfo(t.dtype).eps))
    size = resolution * jnp.max(jnp.abs(m.shift + m.delta) / m.shrink)
    # Negated, so that NaN and infinity count as constant too.
    is_constant = ~(std(m, 0.0) > size)
    inverse = inverse_std(m, 0.0)
    gain = jnp.where(is_constant.reshape(-1), length, (inverse * m.shrink).reshape(-1))
    bias = jnp.where(is_constant, 0, -(m.shift + m.delta) * inverse).reshape(-1)
    return gain, bias


class Standardize(nn.Module):
    """w = (v - mean) / sqrt(var + epsilon) over the fan-in of each output unit, v the kernel.

    Shapes: kernel [..., C] -> the same. State: none. No parameters. The outputs grow as
    sqrt(fan-in): a norm must follow.
    epsilon: added to the variance; the square of what the authors add to the standard deviation.
    Raises ValueError for a fan-in of one value.
    Source: arXiv:1903.10520, section 3. Deviation: the authors' code divides by the unbiased
    standard deviation + 1e-5, the paper by the biased one, as here.

    >>> Standardize().apply({}, jax.numpy.array([[1.0], [3.0]]), None)[0].tolist()
    [[-1.0], [1.0]]
    """

    epsilon: float = 1e-10

    @nn.compact
    def __call__(
        self, kernel: jax.Array, respond: Respond, train: bool | None = None
    ) -> Reparametrized:
        del respond, train
        return standardized(self, kernel, self.epsilon), None


class ScaledStandardize(nn.Module):
    """w = gain * act_gain * (v - mean) / sqrt(fan-in * (var + epsilon)), v the kernel.

    Where the input is act(z) with z ~ N(0, 1) the outputs have mean 0 and variance gain^2.
    Shapes: kernel [..., C] -> the same; parameter `gain` [C], ones. State: none.
    act_gain: 1 / sqrt(Var act(z)) of the network's activation, see the function of that name. It
    is in every layer, also in the first, whose input is data.
    epsilon: added to the variance, as in Standardize.
    Raises ValueError for a fan-in of one value.
    Source: arXiv:2101.08692, section 4.1, with the gain of arXiv:2102.06171, section 2.
    Deviation: the authors' code takes max(fan-in * var, 1e-4) where here epsilon is added.

    >>> v, ones = jax.numpy.array([[1.0], [3.0], [1.0], [3.0]]), jax.numpy.ones(1)
    >>> ScaledStandardize(act_gain=3.0).apply({"params": {"gain": ones}}, v, None)[0].tolist()
    [[-1.5], [1.5], [-1.5], [1.5]]
    """

    act_gain: float
    epsilon: float = 1e-10

    @nn.compact
    def __call__(
        self, kernel: jax.Array, respond: Respond, train: bool | None = None
    ) -> Reparametrized:
        del respond, train
        gain = self.param("gain", nn.initializers.ones, kernel.shape[-1:], jnp.float32)
        scale = gain * (self.act_gain / math.sqrt(fan_in(kernel)))
        return standardized(self, kernel, self.epsilon) * per_channel(scale, kernel.ndim), None


class Spectral(nn.Module):
    """w = v / sigma, v the kernel as a matrix [fan-in, C], sigma = |v u| its largest singular
    value.

    u [C], a unit vector, follows the right singular vector by u <- v'v u / |v'v u|. Each training
    pass makes one iteration; no gradient flows through u. sigma is at most the true value. The
    largest singular value of w is therefore at least 1, and 1 as u converges.
    Shapes: kernel [..., C] -> the same. No parameters.
    State: collection `norm_state`, leaf `u`. It is drawn at random and iterated 15 times at the
    start. It moves with train=True, and with train=None where `norm_state` is mutable; never at
    initializing. A kernel of zeros gives zeros.
    Raises ValueError for train=True where `norm_state` is not mutable.
    Source: arXiv:1802.05957, section 2.1 and algorithm 1. Deviations: sigma is |v u| with the new
    u, half an iteration further than the paper's estimate. Evaluation has the same formula. The
    dense layer that ends a network stays as it is.

    >>> v = jax.numpy.diag(jax.numpy.array([4.0, 2.0]))
    >>> state = {"norm_state": {"u": jax.numpy.array([1.0, 0.0])}}
    >>> Spectral().apply(state, v, None)[0].round(5).tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """

    @nn.compact
    def __call__(
        self, kernel: jax.Array, respond: Respond, train: bool | None = None
    ) -> Reparametrized:
        del respond
        matrix = kernel.reshape(-1, kernel.shape[-1])
        largest = lax.stop_gradient(jnp.max(jnp.abs(matrix)))
        matrix = matrix / jnp.where(largest > 0, largest, 1)  # so that no square overflows
        fixed = lax.stop_gradient(matrix)

        def start() -> jax.Array:
            # Of Gaussian kernels sigma is then 0.98 to 1 of the true value (medians). Without
            # iterations it is 0.44 to 0.78: layers would start twice as steep as intended.
            u = jax.random.normal(self.make_rng("params"), matrix.shape[-1:], matrix.dtype)
            return iterate_often(fixed, u / length_of(u))

        u = self.variable("norm_state", "u", start)
        if self.moves(train):
            u.value = iterate(fixed, u.value).astype(u.value.dtype)
        w = matrix / length_of(matrix @ u.value)
        return w.reshape(kernel.shape), None

    def moves(self, train: bool | None) -> bool:
        """Return whether u moves in this call."""
        name, is_mutable = "/".join(self.path), self.is_mutable_collection("norm_state")
        refuse_traced(train, name)
        if train and not is_mutable:
            raise ValueError(
                f"{name}: training moves the vector of the spectral norm, which is not mutable "
                "here; pass mutable=['batch_stats', 'norm_state']"
            )
        return (is_mutable if train is None else train) and not self.is_initializing()


def length_of(x: jax.Array) -> jax.Array:
    """Return |x| of a vector, 1e-15 where it is 0."""
    return jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-30)


def iterate(matrix: jax.Array, u: jax.Array) -> jax.Array:
    """Return u after one power iteration of matrix' matrix; u itself where the matrix is 0."""
    v = matrix @ u
    new = (v / length_of(v)) @ matrix
    return jnp.where(jnp.any(new != 0), new / length_of(new), u)


# jit, inlined where the caller is compiled: else each layer made outside jit compiles the loop.
@functools.partial(jax.jit, inline=True)
def iterate_often(matrix: jax.Array, u: jax.Array) -> jax.Array:
    """Return u after 15 power iterations."""
    return lax.fori_loop(0, 15, lambda _, u: iterate(matrix, u), u)
