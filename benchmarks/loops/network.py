"""What all contenders train: plain data that every library can read, without jax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from normlab.settings import Config, defaults

CLASSES = 10
EPSILON, MOMENTUM, RATE = 1e-5, 0.9, 0.05
"""Of the norms (MOMENTUM: of their running statistics too) and of SGD."""
GROUPS = 4
EXAMPLES = 2048
BATCHES = 200
"""Batches that are drawn beforehand; a longer loop repeats them."""


class Op(NamedTuple):
    """An operation of a network, which every library carries out in its own words.

    dense, conv (3 x 3), norm: the layer of this name. act: the activation. pool: the maximum of
    2 x 2. mean: over space. keep: puts the value aside, strided and with zeros for new channels;
    add: adds it, the shortcut of a ResNet without parameters (arXiv:1512.03385, option A).
    """

    kind: str
    name: str = ""
    features: int = 0
    stride: int = 1


def normalized(
    kind: str, name: str | int, features: int, stride: int = 1, of: str = ""
) -> list[Op]:
    """Return the operations of a layer, its norm and its activation."""
    layer = Op(kind, f"{of}{kind}_{name}", features, stride)
    return [layer, Op("norm", f"{of}norm_{name}", features), Op("act")]


def block(name: str, features: int, stride: int) -> list[Op]:
    """Return the operations of the basic block of a ResNet."""
    first = normalized("conv", 1, features, stride, of=name)
    conv, norm, act = normalized("conv", 2, features, of=name)
    return [Op("keep", "", features, stride), *first, conv, norm, Op("add"), act]


@dataclass(frozen=True)
class Network:
    name: str
    title: str
    model: str
    """mlp, cnn or resnet."""
    shape: tuple[int, int, int]
    """Of one image, (H, W, C)."""
    batch: int
    widths: tuple[int, ...]
    act: str = "relu"
    norm: str = "batch"
    blocks: int = 3
    """resnet: basic blocks of each stage."""

    @property
    def settings(self) -> Config:
        """Return what makes normlab train this network."""
        depth = {"model.depth": 2 + 2 * self.blocks * len(self.widths)}
        return {
            "data.batch": self.batch,
            "model.name": self.model,
            "model.widths": self.widths,
            "model.act": self.act,
            "norm.name": self.norm,
            "norm.epsilon": EPSILON,
            "norm.momentum": MOMENTUM,
            "norm.groups": GROUPS,
            "optim.name": "momentum",
            "optim.momentum": MOMENTUM,
            "optim.lr": RATE,
        } | (depth if self.model == "resnet" else {})

    @property
    def is_convolutional(self) -> bool:
        return self.model != "mlp"

    @property
    def ops(self) -> list[Op]:
        """Return the operations in order, the head last."""
        numbered = list(enumerate(self.widths, 1))
        head = Op("dense", "head", CLASSES)
        if self.model == "mlp":
            return [op for i, width in numbered for op in normalized("dense", i, width)] + [head]
        if self.model == "cnn":
            ops = [op for i, w in numbered for op in (*normalized("conv", i, w), Op("pool"))][:-1]
        else:
            ops = normalized("conv", "stem", self.widths[0])
            for stage, width in numbered:
                for i in range(1, self.blocks + 1):
                    stride = 2 if stage > 1 and i == 1 else 1
                    ops += block(f"stage_{stage}_block_{i}_", width, stride)
        return [*ops, Op("mean"), head]

    @property
    def step_flops(self) -> int:
        """Return the operations of a step's matrix products; imports jax."""
        from normlab.training.flops import step_flops

        return step_flops(defaults() | self.settings, self.shape, CLASSES)


CNN = Network("cnn28", "CNN 16-32-64 on 28x28x1, batch 64", "cnn", (28, 28, 1), 64, (16, 32, 64))
NETWORKS = (
    Network(
        "mlp",
        "MLP 784-100-100-100-10, sigmoid, batch 60",
        "mlp",
        (28, 28, 1),
        60,
        (100, 100, 100),
        act="sigmoid",
    ),
    replace(CNN, name="cnn8", title="CNN 16-32-64 on 8x8x1, batch 64", shape=(8, 8, 1)),
    CNN,
    Network(
        "resnet20", "ResNet-20 on 32x32x3, batch 128", "resnet", (32, 32, 3), 128, (16, 32, 64)
    ),
)


class Job(NamedTuple):
    """The input of a contender: images uint8 [N, H*W*C], labels [N], rows of the batches [T, B].

    It starts from `weights`, layer -> {"kernel": array as normlab has it, ...}.
    """

    network: Network
    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    weights: dict[str, dict[str, np.ndarray]]

    @property
    def inputs(self) -> np.ndarray:
        """Return the images in 0..1 as the network gets them, float32 [N, H, W, C] or [N, D]."""
        shape = self.network.shape if self.network.is_convolutional else (-1,)
        return (self.images / np.float32(255)).reshape(len(self.images), *shape)


def random_images(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, H*W*C] and labels int32 [N], the same at every call."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (EXAMPLES, math.prod(network.shape)), np.uint8)
    return images, random.integers(0, CLASSES, EXAMPLES, np.int32)
