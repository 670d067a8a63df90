"""Keras 3 on the JAX backend: `train_on_batch`, or `fit` over as many batches."""

# pyright: reportMissingImports=false
# scripts/test.sh --peers installs the library; the plain command checks types without it.

from __future__ import annotations

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

from benchmarks.loops.network import CLASSES, EPSILON, MOMENTUM, RATE, Job, Network


def norm(name: str):
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)


class Shortcut(layers.Layer):
    """A strided view with zeros for the new channels: no parameters."""

    def __init__(self, stride: int, more: int):
        super().__init__()
        self.stride, self.more = stride, more

    def call(self, x):
        x = x[:, :: self.stride, :: self.stride]
        return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, self.more]])


def convolve(x, name: str, prefix: str, features: int, stride: int = 1):
    """Return convolution and norm. With a stride "same" pads at the end only; PyTorch and normlab
    pad on both sides."""
    x = layers.ZeroPadding2D(1)(x) if stride > 1 else x
    padding = "valid" if stride > 1 else "same"
    x = layers.Conv2D(features, 3, stride, padding, name=f"{prefix}conv_{name}")(x)
    return norm(f"{prefix}norm_{name}")(x)


def build(network: Network) -> keras.Model:
    def act(x):
        return layers.Activation(network.act)(x)

    image = keras.Input(network.shape)
    x: Any = image
    x = x if network.is_convolutional else layers.Flatten()(x)
    for kind, name, features, stride in network.parts:
        if kind == "dense":
            x = act(norm(f"norm_{name}")(layers.Dense(features, name=f"dense_{name}")(x)))
        elif kind == "conv":
            x = act(convolve(x, name, "", features))
        elif kind == "pool":
            x = layers.MaxPooling2D(2)(x)
        else:
            more = features - x.shape[-1]
            shortcut = Shortcut(stride, more)(x) if more else x
            y = act(convolve(x, "1", f"{name}_", features, stride))
            x = act(layers.Add()([convolve(y, "2", f"{name}_", features), shortcut]))
    x = layers.GlobalAveragePooling2D()(x) if network.is_convolutional else x
    return keras.Model(image, layers.Dense(CLASSES, name="head")(x))


NORM_ROLES = {"scale": "gamma", "bias": "beta"}


class Loop:
    """`form` is "fit" or "train_on_batch"."""

    def __init__(self, job: Job, form: str = "fit"):
        self.job, self.form = job, form
        self.images = (job.images / np.float32(255)).reshape(-1, *job.network.shape)
        self.model = build(job.network)
        self.load()

    def load(self) -> None:
        for name, leaf in self.job.weights.items():
            layer, _, role = name.rpartition("/")
            role = NORM_ROLES[role] if "norm" in layer else role
            getattr(self.model.get_layer(layer.replace("/", "_")), role).assign(leaf)
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
