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

from benchmarks.loops.network import EPSILON, MOMENTUM, RATE, Job, Network
from benchmarks.loops.stepwise import Stepwise

ROLES = {"scale": "gamma", "bias": "beta"}
"""Of a norm's parameters."""


class Shortcut(layers.Layer):
    """A strided view with zeros for the new channels: no parameters."""

    def __init__(self, stride: int, more: int):
        super().__init__()
        self.stride, self.more = stride, more

    def call(self, x):
        x = x[:, :: self.stride, :: self.stride]
        return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, self.more]])


def build(network: Network) -> keras.Model:
    image = keras.Input(network.shape)
    x: Any = image if network.is_convolutional else layers.Flatten()(image)
    kept = x
    for kind, name, features, stride in network.ops:
        if kind == "dense":
            x = layers.Dense(features, name=name)(x)
        elif kind == "conv":
            # With a stride "same" pads at the end only; PyTorch and normlab pad on both sides.
            x = layers.ZeroPadding2D(1)(x) if stride > 1 else x
            padding = "valid" if stride > 1 else "same"
            x = layers.Conv2D(features, 3, stride, padding, name=name)(x)
        elif kind == "norm":
            x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)(x)
        elif kind == "act":
            x = layers.Activation(network.act)(x)
        elif kind == "pool":
            x = layers.MaxPooling2D(2)(x)
        elif kind == "mean":
            x = layers.GlobalAveragePooling2D()(x)
        elif kind == "add":
            x = layers.Add()([x, kept])
        else:
            more = features - x.shape[-1]
            kept = Shortcut(stride, more)(x) if more else x
    return keras.Model(image, x)


class Loop(Stepwise):
    """`form` is "fit" or "train_on_batch"."""

    def __init__(self, job: Job, form: str = "fit"):
        super().__init__(job)
        self.form = form
        self.images = (job.images / np.float32(255)).reshape(-1, *job.network.shape)
        self.model = build(job.network)
        self.load()

    def load(self) -> None:
        for name, leaves in self.job.weights.items():
            layer = self.model.get_layer(name)
            for role, leaf in leaves.items():
                getattr(layer, ROLES[role] if "norm" in name else role).assign(leaf)
        self.model.compile(
            keras.optimizers.SGD(RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def step(self, rows: np.ndarray) -> Any:
        """Take a step and return the mean loss since metrics were reset."""
        return self.model.train_on_batch(self.images[rows], self.job.labels[rows])

    def losses(self, steps: int) -> list[float]:
        self.load()
        found = []
        for rows in self.job.rows[:steps]:
            self.model.reset_metrics()
            found.append(float(self.step(rows)))
        return found

    def run(self, steps: int) -> float:
        """Take that many steps and return the seconds they took; `fit` gets its arrays gathered."""
        if self.form == "train_on_batch":
            return super().run(steps)
        every = np.concatenate([self.job.rows[i % len(self.job.rows)] for i in range(steps)])
        x, y = self.images[every], self.job.labels[every]
        began = time.perf_counter()
        self.model.fit(x, y, self.job.network.batch, verbose=0, shuffle=False)  # pyright: ignore
        return time.perf_counter() - began
