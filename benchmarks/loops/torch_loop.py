"""PyTorch's loop: eager or torch.compile, channels first or last in memory."""

# pyright: reportMissingImports=false
# scripts/test.sh --peers installs the library; the plain command checks types without it.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.loops.network import CLASSES, EPSILON, GROUPS, MOMENTUM, RATE, Job, Network
from benchmarks.loops.stepwise import Run, Stepwise

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
CUDA = torch.cuda.is_available()


class OverChannels(nn.Module):
    """A layer over the last axis, applied to the channels of [N, C, H, W]."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm_of(scheme: str, is_image: bool) -> Callable[[int], nn.Module]:
    """Return PyTorch's layer of a scheme; what has none (none, affine) does nothing.

    Group norm with one group is the layer norm over H, W and C.
    """
    momentum = 1 - MOMENTUM
    batch = nn.BatchNorm2d if is_image else nn.BatchNorm1d
    over_channels = OverChannels if is_image else lambda layer: layer

    def layer_norm(c: int) -> nn.Module:
        return nn.GroupNorm(1, c, EPSILON) if is_image else nn.LayerNorm(c, EPSILON)

    layers: dict[str, Callable[[int], nn.Module]] = {
        "batch": lambda c: batch(c, EPSILON, momentum),
        "layer": layer_norm,
        "layer_channels": lambda c: over_channels(nn.LayerNorm(c, EPSILON)),
        "group": lambda c: nn.GroupNorm(GROUPS, c, EPSILON),
        "instance": lambda c: nn.InstanceNorm2d(c, EPSILON, affine=True),
        "rms": lambda c: over_channels(nn.RMSNorm(c, EPSILON)),
    }
    return layers.get(scheme, lambda c: nn.Identity())


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def conv(inner: int, features: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(inner, features, 3, stride, padding=1)


class Block(nn.Module):
    def __init__(self, network: Network, inner: int, width: int, stride: int):
        super().__init__()
        norm, self.act = norm_of(network.norm, True), ACTIVATIONS[network.act]()
        self.stride, self.more = stride, width - inner
        self.conv_1, self.norm_1 = conv(inner, width, stride), norm(width)
        self.conv_2, self.norm_2 = conv(width, width), norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.more:
            strided = x[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(strided, (0, 0, 0, 0, 0, self.more))
        y = self.act(self.norm_1(self.conv_1(x)))
        return self.act(self.norm_2(self.conv_2(y)) + shortcut)


def build(network: Network) -> nn.Module:
    net, act = nn.Sequential(), ACTIVATIONS[network.act]
    norm = norm_of(network.norm, network.is_convolutional)
    inner = network.shape[-1] if network.is_convolutional else int(np.prod(network.shape))
    for kind, name, features, stride in network.parts:
        if kind == "block":
            net.add_module(name, Block(network, inner, features, stride))
        elif kind == "pool":
            net.add_module(f"pool_{name}", nn.MaxPool2d(2))
            continue
        else:
            is_dense = kind == "dense"
            layer = nn.Linear(inner, features) if is_dense else conv(inner, features)
            net.add_module(f"{kind}_{name}", layer)
            net.add_module(f"norm_{name}", norm(features))
            net.add_module(f"act_{name}", act())
        inner = features
    if network.is_convolutional:
        net.add_module("mean", Mean())
    net.add_module("head", nn.Linear(inner, CLASSES))
    return net


ROLES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def fill(net: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Copy our weights: kernels [k, k, C, F] become [F, C, k, k], dense ones [F, C]."""
    for name, leaf in weights.items():
        layer, _, role = name.rpartition("/")
        value = np.moveaxis(leaf, (-1, -2), (0, 1)) if leaf.ndim > 1 else leaf
        parameter: Any = getattr(net.get_submodule(layer.replace("/", ".")), ROLES[role])
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value.copy()))


class Loop(Stepwise):
    """`form` holds any of the words compile, last (channels last in memory) and one (thread)."""

    def __init__(self, job: Job, form: str = ""):
        super().__init__(job)
        if "one" in form.split():
            torch.set_num_threads(1)
        self.device = torch.device("cuda" if CUDA else "cpu")
        is_last = "last" in form.split() and job.network.is_convolutional
        self.layout = torch.channels_last if is_last else torch.contiguous_format
        x = torch.from_numpy(job.inputs)
        x = x.permute(0, 3, 1, 2) if job.network.is_convolutional else x
        self.images = x.to(self.device).contiguous(memory_format=self.layout)
        self.labels = torch.from_numpy(job.labels.astype(np.int64)).to(self.device)
        self.net = build(job.network).to(self.device)
        self.net = self.net.to(memory_format=self.layout)  # pyright: ignore
        self.forward: Any = self.net
        if "compile" in form.split():
            self.forward = torch.compile(self.net, mode="reduce-overhead" if CUDA else "default")
        self.load()

    def _begin(self, rate: float) -> None:
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=rate, momentum=MOMENTUM)
        self.net.train()

    def load(self) -> None:
        fill(self.net, self.job.weights)
        self._begin(RATE)

    def start(self, run: Run) -> None:
        torch.manual_seed(run.seed)
        for layer in self.net.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # pyright: ignore
        self._begin(run.rate)

    def _gather(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(rows).to(self.device)
        return self.images[index].contiguous(memory_format=self.layout), self.labels[index]

    def step(self, rows: np.ndarray) -> torch.Tensor:
        x, y = self._gather(rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.forward(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def wait(self) -> None:
        if CUDA:
            torch.cuda.synchronize()

    def count_correct(self, rows: np.ndarray) -> torch.Tensor:
        x, y = self._gather(rows)
        self.net.eval()
        with torch.no_grad():
            count = (self.net(x).argmax(-1) == y).sum()
        self.net.train()
        return count
