"""From settings to optax: the direction of a step, and the shape of its rate over time.

The chain is built inside the traced function, because momentum and weight decay are traced. The
rate is the traced `optim.lr` times a shape with peak 1 that is computed beforehand.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Return whether a parameter's path ends in `kernel`: the only role that decays."""
    return path[-1].key == "kernel"


def mask_kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def scale_by_adam_keras(
    b1: Any, b2: float = 0.999, epsilon: float = 1e-7
) -> optax.GradientTransformation:
    """Return Adam as Keras computes it: u = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon).

    The form before section 2.1 of arXiv:1412.6980. optax adds its epsilon to sqrt(v / (1 - b2^t)):
    Keras's counts for 1 / sqrt(1 - b2^t) as much, 32 times at the first step.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = state.count + 1
        m = jax.tree.map(lambda m, g: m + (g - m) * (1 - b1), state.mu, updates)
        v = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - b2), state.nu, updates)
        t = count.astype(jnp.result_type(jnp.float32, *jax.tree.leaves(m)))
        scale = jnp.sqrt(1 - b2**t) / (1 - b1**t)
        u = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + epsilon), m, v)
        return u, optax.ScaleByAdamState(count, m, v)

    return optax.GradientTransformation(init, update)


def direction(name: str, momentum: Any, weight_decay: Any) -> optax.GradientTransformation:
    """Return the transformation g -> u of the update p <- p - rate * u.

    sgd: u = g. momentum: u = trace of g (heavy ball). adam, adamw: Adam's with b1 = momentum,
    b2 = 0.999, epsilon 1e-8. adam_keras: with the epsilon of Keras, see scale_by_adam_keras.
    Weight decay acts on kernels only: added to g, for adamw to u.
    """
    decay = optax.add_decayed_weights(weight_decay, mask=mask_kernels)
    if name == "sgd":
        return decay
    if name == "momentum":
        return optax.chain(decay, optax.trace(momentum))
    if name == "adam_keras":
        return optax.chain(decay, scale_by_adam_keras(momentum))
    adam = optax.scale_by_adam(b1=momentum, b2=0.999, eps=1e-8)
    return optax.chain(adam, decay) if name == "adamw" else optax.chain(decay, adam)


def rate_shape(schedule: str, warmup: int, steps: int) -> np.ndarray:
    """Return the rate of every step relative to its peak, float32 [steps].

    The first `warmup` steps rise linearly to 1 (step t has (t + 1) / warmup). What follows is
    constant, half a cosine down to 0, or a staircase x 0.1 at 1/2 and 3/4 of all steps. step_three
    falls at 3, 6 and 9 tenths, as over the 100 epochs of arXiv:1803.08494, section 4.1.
    """
    rest = max(steps - warmup, 1)

    def stairs(*ends: int) -> optax.Schedule:
        return optax.piecewise_constant_schedule(1.0, {end - warmup: 0.1 for end in ends})

    main = {
        "constant": lambda: optax.constant_schedule(1.0),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, rest),
        "step": lambda: stairs(steps // 2, steps * 3 // 4),
        "step_three": lambda: stairs(*(steps * tenths // 10 for tenths in (3, 6, 9))),
    }[schedule]()
    rise = np.arange(1, min(warmup, steps) + 1) / max(warmup, 1)
    after = np.asarray(jax.vmap(main)(np.arange(steps - len(rise))))
    return np.concatenate([rise, after]).astype(np.float32)
