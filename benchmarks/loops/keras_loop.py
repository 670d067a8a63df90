"""Keras 3 on the JAX backend: `train_on_batch`, or `fit` over as many batches."""

# pyright: reportMissingImports=false
# scripts/test.sh --peers installs the library; the plain command checks types without it.

from __future__ import annotations

import os
import time

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

from benchmarks.loops.network import CLASSES, EPSILON, MOMENTUM, RATE, Job, Network


def norm(name: str):
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)


def mlp(network: Network, x):
    x = layers.Flatten()(x)
    for i, width in enumerate(network.widths, 1):
        x = layers.Dense(width, name=f"dense_{i}")(x)
        x = layers.Activation(network.act)(norm(f"norm_{i}")(x))
    return x


def cnn(network: Network, x):
    for i, width in enumerate(network.widths, 1):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv_{i}")(x)
        x = layers.Activation(network.act)(norm(f"norm_{i}")(x))
        x = layers.MaxPooling2D(2)(x) if i < len(network.widths) else x
    return layers.GlobalAveragePooling2D()(x)


class Shortcut(layers.Layer):
    """A strided view with zeros for the new channels: no parameters."""

    def __init__(self, stride: int, more: int):
        super().__init__()
        self.stride, self.more = stride, more

    def call(self, x):
        x = x[:, :: self.stride, :: self.stride]
        return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, self.more]])


def resnet(network: Network, x):
    """arXiv:1512.03385, section 4.2: basic blocks, shortcuts without parameters (option A)."""

    def convolve(x, place: str, i: int | str, width: int, stride: int = 1):
        # With a stride "same" pads at the end only; PyTorch and normlab pad on both sides.
        x = layers.ZeroPadding2D(1)(x) if stride > 1 else x
        padding = "valid" if stride > 1 else "same"
        x = layers.Conv2D(width, 3, stride, padding, name=f"{place}conv_{i}")(x)
        return norm(f"{place}norm_{i}")(x)

    act, inner = layers.Activation, network.widths[0]
    x = act(network.act)(convolve(x, "", "stem", inner))
    for stage, width in enumerate(network.widths, 1):
        for i in range(1, network.blocks + 1):
            stride, place = 2 if stage > 1 and i == 1 else 1, f"stage_{stage}_block_{i}_"
            y = act(network.act)(convolve(x, place, 1, width, stride))
            shortcut = Shortcut(stride, width - inner)(x) if width > inner else x
            x = act(network.act)(layers.Add()([convolve(y, place, 2, width), shortcut]))
            inner = width
    return layers.GlobalAveragePooling2D()(x)


MODELS = {"mlp": mlp, "cnn": cnn, "resnet": resnet}
ROLES = {"kernel": "kernel", "bias": "bias"}
NORM_ROLES = {"scale": "gamma", "bias": "beta"}


class Loop:
    """`form` is "fit" or "train_on_batch"."""

    def __init__(self, job: Job, form: str = "fit"):
        self.job, self.form = job, form
        self.images = (job.images / np.float32(255)).reshape(-1, *job.network.shape)
        image = keras.Input(job.network.shape)
        logits = layers.Dense(CLASSES, name="head")(MODELS[job.network.model](job.network, image))
        self.model = keras.Model(image, logits)
        self.load()

    def load(self) -> None:
        for name, leaf in self.job.weights.items():
            layer, _, role = name.rpartition("/")
            roles = NORM_ROLES if "norm" in layer else ROLES
            getattr(self.model.get_layer(layer.replace("/", "_")), roles[role]).assign(leaf)
        self.model.compile(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def _step(self, rows: np.ndarray) -> float:
        self.model.reset_metrics()  # what is returned is a mean since then
        return float(self.model.train_on_batch(self.images[rows], self.job.labels[rows]))

    def losses(self, steps: int) -> list[float]:
        self.load()
        return [self._step(rows) for rows in self.job.rows[:steps]]

    def run(self, steps: int) -> float:
        """Take that many steps and return the seconds they took; `fit` gets its arrays gathered."""
        chosen = [self.job.rows[i % len(self.job.rows)] for i in range(steps)]
        if self.form == "train_on_batch":
            began = time.perf_counter()
            for rows in chosen:
                self.model.train_on_batch(self.images[rows], self.job.labels[rows])
            return time.perf_counter() - began
        every = np.concatenate(chosen)
        x, y = self.images[every], self.job.labels[every]
        began = time.perf_counter()
        self.model.fit(x, y, self.job.network.batch, verbose=0, shuffle=False)  # pyright: ignore
        return time.perf_counter() - began
