"""Noise after a norm: the control that moves every activation's distribution at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from normlab.statistics.moments import Mask, zero_masked

SHIFT, SCALE, SHIFT_SPREAD, SCALE_SPREAD = 0.5, 1.25, 0.1, 0.1
"""How far the distribution of a unit may move at one step, and how much examples differ in it."""


class Noise(nn.Module):
    """y = s x + m in training, new s and m for every value, whose distribution is new at each step.

    Per unit and step mu ~ U(-0.5, 0.5), sigma ~ U(1, 1.25); per value m ~ U(mu - 0.1, mu + 0.1),
    s ~ N(sigma, 0.1). `strength` k multiplies m and s - 1; 1 is the paper's. A unit is a position
    of an example, [H, W, C].
    Shapes: x [N, ..., C] -> the same. State: none; needs the PRNG stream `noise` in training, does
    nothing in evaluation and at initialising. Masked positions must be blank before and after.
    Source: arXiv:1805.11604, appendix A.2. Deviation: none known; the paper's code was not read.

    >>> x = jax.numpy.ones((2, 3))
    >>> y = Noise(1.0).apply({}, x, train=True, rngs={"noise": jax.random.key(0)})
    >>> bool(abs(y - x).max() > 0.01), bool((Noise(1.0).apply({}, x, train=False) == x).all())
    (True, True)
    """

    strength: float

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if not train or self.is_initializing():
            return x
        keys = jax.random.split(self.make_rng("noise"), 4)
        unit = x.shape[1:]
        mu = jax.random.uniform(keys[0], unit, minval=-SHIFT, maxval=SHIFT)
        sigma = jax.random.uniform(keys[1], unit, minval=1.0, maxval=SCALE)
        m = mu + SHIFT_SPREAD * jax.random.uniform(keys[2], x.shape, minval=-1.0)
        s = sigma + SCALE_SPREAD * jax.random.normal(keys[3], x.shape)
        noisy = x + self.strength * ((s - 1) * x + m)
        return noisy.astype(x.dtype)


class Unmasked(nn.Module):
    """The layer of `norm`, which takes no mask, called with one: its variables are its own."""

    norm: Callable[..., Any]

    def setup(self) -> None:
        self.layer = self.norm()
        nn.share_scope(self, self.layer)

    def __call__(self, x: jax.Array, train: bool = False, mask: Mask = None) -> jax.Array:
        return self.layer(x, train=train)


def disturbed(norm: Callable[..., Any], strength: float, name: str) -> Callable[..., Any]:
    """Return the layer norm(name=name), which puts out its values disturbed by `Noise`."""

    def layer(x: jax.Array, train: bool = False, mask: Mask = None, **outer: Any) -> jax.Array:
        y = norm(name=name)(x, train=train, mask=mask, **outer)
        noisy = Noise(strength, name=f"{name}_noise")(y, train=train)
        return zero_masked(noisy, mask)

    return layer
