"""PyTorch over sequences: nn.GRU and nn.LSTM, padded or packed, and your own cell."""

# pyright: reportMissingImports=false
# scripts/test.sh --peers installs the library; the plain command checks types without it.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.loops import torch_loop
from benchmarks.loops.network import CLASSES, EPSILON, MOMENTUM, Job
from benchmarks.loops.sequence import (
    BIAS,
    GATES,
    HIDDEN,
    INPUT,
    NORMS,
    SequenceNetwork,
    Weights,
    features_and_lengths,
)
from benchmarks.loops.stepwise import Stepwise

LAYERS = {"gru": nn.GRU, "lstm": nn.LSTM}
ORDERS = {"gru": "rzn", "lstm": "ifgo"}
"""Cell -> its gates, in the order in which PyTorch's kernels have them."""


def put(to: torch.Tensor, value: np.ndarray, cell: str) -> None:
    """Copy a kernel [D, k H] or a bias [k H] of a cell, with its gates in PyTorch's order."""
    parts = dict(zip(GATES[cell], np.split(value, len(GATES[cell]), -1), strict=True))
    with torch.no_grad():
        to.copy_(torch.from_numpy(np.concatenate([parts[g] for g in ORDERS[cell]], -1).T))


class Library(nn.Module):
    """PyTorch's own layer; (x [T, N, D], lengths [N]) -> the last valid states [N, H]."""

    def __init__(self, network: SequenceNetwork, is_packed: bool):
        super().__init__()
        self.is_packed, self.cell = is_packed, network.cell
        self.layer = LAYERS[self.cell](network.shape[1] - 1, network.widths[0])
        self.layer.bias_hh_l0.requires_grad_(False)  # normlab has one bias; this one stays 0

    def load(self, weights: Weights) -> None:
        put(self.layer.weight_ih_l0, weights[INPUT]["kernel"], self.cell)
        put(self.layer.weight_hh_l0, weights[HIDDEN]["kernel"], self.cell)
        put(self.layer.bias_ih_l0, weights[BIAS]["bias"], self.cell)
        nn.init.zeros_(self.layer.bias_hh_l0)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if not self.is_packed:
            return self.layer(x)[0][lengths - 1, torch.arange(len(lengths))]
        state = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))[1]
        return (state[0] if isinstance(state, tuple) else state)[0]


class Norm(nn.Module):
    """Batch norm with statistics of each step, which share scale and bias."""

    def __init__(self, steps: int, size: int, is_masked: bool):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.means, self.variances = torch.zeros(steps, size), torch.ones(steps, size)
        self.is_masked = is_masked

    def forward(self, x: torch.Tensor, t: int, valid: torch.Tensor) -> torch.Tensor:
        mean, variance = self.means[t], self.variances[t]
        if not self.is_masked:
            given = (mean, variance, self.weight, self.bias, True, 1 - MOMENTUM, EPSILON)
            return F.batch_norm(x, *given)
        weight = valid.to(x.dtype)
        count = weight.sum().clamp(min=1)
        now = (x * weight).sum(0) / count
        centered = x - now
        spread = (centered.square() * weight).sum(0) / count
        with torch.no_grad():
            mean.lerp_(now, 1 - MOMENTUM)
            variance.lerp_(spread, 1 - MOMENTUM)
        return centered * (spread + EPSILON).rsqrt() * self.weight + self.bias


class Own(nn.Module):
    """The cell that a user would write: one product for the inputs of all steps, then a loop.

    Unbound, the backward pass of a step has no gradient of all steps.
    """

    def __init__(self, network: SequenceNetwork, is_unbound: bool):
        super().__init__()
        (steps, features, _), (size,) = network.shape, network.widths
        width = len(GATES[network.cell]) * size
        self.cell, self.size, self.is_unbound = network.cell, size, is_unbound
        self.input = nn.Linear(features - 1, width, bias=False)
        self.hidden = nn.Linear(size, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        is_normed = network.norm == "batch"
        norms = (Norm(steps, width, network.is_masked) for _ in range(2 * is_normed))
        self.norms = nn.ModuleList(norms)

    def load(self, weights: Weights) -> None:
        layers = dict(zip(NORMS, self.norms, strict=False))
        layers |= {INPUT: self.input, HIDDEN: self.hidden, BIAS: self}
        torch_loop.fill(layers, {name: weights[name] for name in layers})

    def _steps(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        return x.unbind() if self.is_unbound else [x[t] for t in range(len(x))]

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], self.size)
        valid = self._steps((torch.arange(len(x))[:, None] < lengths)[..., None])
        a, gates = self.input(x), 2 * self.size if self.cell == "gru" else 3 * self.size
        if self.norms:
            steps = enumerate(zip(self._steps(a), valid, strict=True))
            a = torch.stack([self.norms[0](at, t, live) for t, (at, live) in steps])
        for t, (at, live) in enumerate(zip(self._steps(a + self.bias), valid, strict=True)):
            b = self.hidden(h)
            if self.norms:
                b = self.norms[1](b, t, live)
            if self.cell == "gru":
                r, z = torch.sigmoid(at[:, :gates] + b[:, :gates]).chunk(2, 1)
                n = torch.tanh(at[:, gates:] + r * b[:, gates:])
                new = n + z * (h - n)
            else:
                both = at + b
                i, f, o = torch.sigmoid(both[:, :gates]).chunk(3, 1)
                now = f * c + i * torch.tanh(both[:, gates:])
                new, c = o * torch.tanh(now), torch.where(live, now, c)
            h = torch.where(live, new, h)
        return h


class Net(nn.Module):
    def __init__(self, network: SequenceNetwork, form: str):
        super().__init__()
        words = form.split()
        own, is_packed = "cell" in words, "packed" in words
        self.layer = Own(network, "unbound" in words) if own else Library(network, is_packed)
        self.head = nn.Linear(network.widths[0], CLASSES)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.head(self.layer(*batch))


class Loop(torch_loop.Loop):
    """`form`: padded, packed, cell or unbound cell. Always one thread."""

    def __init__(self, job: Job, form: str):
        Stepwise.__init__(self, job)
        torch.set_num_threads(1)
        x, lengths = features_and_lengths(job)
        self.x = torch.from_numpy(x).transpose(0, 1).contiguous()
        self.lengths, self.labels = map(torch.from_numpy, (lengths, job.labels.astype(np.int64)))
        network: Any = job.network
        self.net = self.forward = Net(network, form)
        self.load()

    def load(self) -> None:
        self.net.layer.load(self.job.weights)
        torch_loop.fill({"head": self.net.head}, {"head": self.job.weights["head"]})
        self._begin(torch_loop.RATE)

    def _gather(self, rows: np.ndarray) -> Any:
        index = torch.from_numpy(rows)
        return (self.x[:, index], self.lengths[index]), self.labels[index]
