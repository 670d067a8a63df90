"""PyTorch's loop: eager or torch.compile, channels first or last in memory."""

# pyright: reportMissingImports=false
# scripts/test.sh --peers installs the library; the plain command checks types without it.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.loops.network import EPSILON, GROUPS, MOMENTUM, RATE, Job, Network
from benchmarks.loops.stepwise import Run, Stepwise

ACTIVATIONS = {"relu": F.relu, "sigmoid": torch.sigmoid}
CUDA = torch.cuda.is_available()


class OverChannels(nn.Module):
    """A layer over the last axis, applied to the channels of [N, C, H, W]."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm_of(scheme: str, channels: int, is_image: bool) -> nn.Module:
    """Return PyTorch's layer of a scheme; what has none (none, affine) does nothing.

    Group norm with one group is the layer norm over H, W and C.
    """
    batch = nn.BatchNorm2d if is_image else nn.BatchNorm1d
    over_channels = OverChannels if is_image else lambda layer: layer
    layers = {
        "batch": lambda: batch(channels, EPSILON, 1 - MOMENTUM),
        "layer": lambda: nn.GroupNorm(1, channels, EPSILON),
        "layer_channels": lambda: over_channels(nn.LayerNorm(channels, EPSILON)),
        "group": lambda: nn.GroupNorm(GROUPS, channels, EPSILON),
        "instance": lambda: nn.InstanceNorm2d(channels, EPSILON, affine=True),
        "rms": lambda: over_channels(nn.RMSNorm(channels, EPSILON)),
    }
    if scheme == "layer" and not is_image:
        scheme = "layer_channels"
    return layers.get(scheme, nn.Identity)()


class Net(nn.Module):
    def __init__(self, network: Network):
        super().__init__()
        self.ops, self.act = network.ops, ACTIVATIONS[network.act]
        is_image = network.is_convolutional
        inner = network.shape[-1] if is_image else int(np.prod(network.shape))
        self.layers = nn.ModuleDict()
        for kind, name, features, stride in self.ops:
            if kind == "norm":
                self.layers[name] = norm_of(network.norm, features, is_image)
            elif kind == "dense":
                self.layers[name] = nn.Linear(inner, features)
            elif kind == "conv":
                self.layers[name] = nn.Conv2d(inner, features, 3, stride, padding=1)
            inner = features if name else inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x
        for kind, name, features, stride in self.ops:
            if name:
                x = self.layers[name](x)
            elif kind == "act":
                x = self.act(x)
            elif kind == "pool":
                x = F.max_pool2d(x, 2)
            elif kind == "mean":
                x = x.mean((2, 3))
            elif kind == "add":
                x = x + kept
            else:
                more, kept = features - x.shape[1], x
                if more:
                    kept = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, more))
        return x


ROLES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def fill(layers: Any, weights: dict[str, dict[str, np.ndarray]]) -> None:
    """Copy our weights to the layers of the same names: kernels [k, k, C, F] become [F, C, k, k],
    dense ones [F, C]."""
    for name, leaves in weights.items():
        for role, leaf in leaves.items():
            value = np.moveaxis(leaf, (-1, -2), (0, 1)) if leaf.ndim > 1 else leaf
            with torch.no_grad():
                getattr(layers[name], ROLES[role]).copy_(torch.from_numpy(value.copy()))


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
        self.net = Net(job.network).to(self.device)
        self.net = self.net.to(memory_format=self.layout)  # pyright: ignore
        self.forward: Any = self.net
        if "compile" in form.split():
            self.forward = torch.compile(self.net, mode="reduce-overhead" if CUDA else "default")
        self.load()

    def _begin(self, rate: float) -> None:
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=rate, momentum=MOMENTUM)
        self.net.train()

    def load(self) -> None:
        fill(self.net.layers, self.job.weights)
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
