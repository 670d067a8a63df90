"""Your own Flax NNX model with a norm of normlab: training, running statistics, evaluation.

python docs/examples/own_nnx_model.py [any name that `python scripts/list.py norms` shows]
"""

import sys

import jax
import numpy as np
import optax
from flax import nnx

from normlab import norms


class Net(nnx.Module):
    def __init__(self, layers: norms.nnx.Layers, *, rngs: nnx.Rngs) -> None:
        self.conv_0 = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.norm_0 = layers.norm(16, rngs=rngs)
        self.act_0 = layers.act(16, rngs=rngs)  # some schemes bring their own activation
        self.conv_1 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.norm_1 = layers.norm(32, rngs=rngs)
        self.act_1 = layers.act(32, rngs=rngs)
        self.head = nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.act_0(self.norm_0(self.conv_0(x)))
        x = self.act_1(self.norm_1(self.conv_1(x)))
        return self.head(x.mean((1, 2)))


def draw_images(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images [count, 8, 8, 1], four patterns of stripes in noise, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    stripes = np.sin(np.arange(8) * (1 + y[:, None]))[:, :, None, None]
    return (stripes + rng.standard_normal((count, 8, 8, 1))).astype(np.float32), y


@nnx.jit
def step(net: Net, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
    def loss_of(net: Net) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

    optimizer.update(net, nnx.grad(loss_of)(net))  # the gradient is that of nnx.Param alone


@nnx.jit
def predict(net: Net, x: jax.Array) -> jax.Array:
    return net(x).argmax(-1)


def main(name: str) -> float:
    net = Net(norms.nnx.build(name), rngs=nnx.Rngs(0))
    (train_x, train_y), (test_x, test_y) = draw_images(0, 3200), draw_images(1, 500)
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    net.train()
    for i in range(0, len(train_x), 32):
        step(net, optimizer, train_x[i : i + 32], train_y[i : i + 32])
    net.eval()  # uses the running statistics and moves nothing
    accuracy = float((predict(net, test_x) == test_y).mean())
    print(f"{name}: {accuracy:.1%} of 500 test images right")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "batch")
