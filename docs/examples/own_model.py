"""Your own Flax Linen model with a norm of normlab: training, running statistics, evaluation.

python docs/examples/own_model.py [any name that `python scripts/list.py norms` shows]
"""

import sys
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from normlab import norms

STATE = ["batch_stats", "norm_state"]  # what layers change in training; either may be missing


class Net(nn.Module):
    layers: norms.Layers

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, width in enumerate((16, 32)):
            x = nn.Conv(width, (3, 3), strides=2, name=f"conv_{i}")(x)
            x = self.layers.norm(name=f"norm_{i}")(x, train=train)
            x = self.layers.act(name=f"act_{i}")(x)  # some schemes bring their own activation
        return nn.Dense(4, name="head")(x.mean((1, 2)))


def draw_images(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images [count, 8, 8, 1], four patterns of stripes in noise, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    stripes = np.sin(np.arange(8) * (1 + y[:, None]))[:, :, None, None]
    return (stripes + rng.standard_normal((count, 8, 8, 1))).astype(np.float32), y


def main(name: str) -> float:
    net = Net(norms.build(name))
    (train_x, train_y), (test_x, test_y) = draw_images(0, 3200), draw_images(1, 500)
    variables: Any = jax.jit(partial(net.init, train=True))(jax.random.key(0), train_x[:32])
    params = variables["params"]
    state = {collection: variables[collection] for collection in STATE if collection in variables}
    optimizer = optax.adam(1e-2)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, state, opt_state, x, y):
        def loss_of(params):
            logits, moved = net.apply({"params": params, **state}, x, train=True, mutable=STATE)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), moved

        grads, moved = jax.grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), moved, opt_state

    for i in range(0, len(train_x), 32):
        batch = train_x[i : i + 32], train_y[i : i + 32]
        params, state, opt_state = step(params, state, opt_state, *batch)
    evaluate: Any = jax.jit(partial(net.apply, train=False))  # uses the state, moves nothing
    logits = evaluate({"params": params, **state}, test_x)
    accuracy = float((np.argmax(logits, -1) == test_y).mean())
    print(f"{name}: {accuracy:.1%} of 500 test images right")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "batch")
