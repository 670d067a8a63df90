"""PyTorch's networks for text: a small GPT and an LSTM, with weights of normlab's."""

# pyright: reportMissingImports=false
# scripts/test.sh --peers installs the library; the plain command checks types without it.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.loops.network import EPSILON
from benchmarks.loops.torch_loop import fill
from benchmarks.loops.torch_sequence_loop import put

NORMS = ("norm_attention", "norm_dense")
DENSE = ("dense_qkv", "dense_out", "dense_1", "dense_2")
"""Names of the layers of our block."""


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1)
        ]
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class GPT(nn.Module):
    """Blocks with layer norm before the branch and ReLU, learned positions, an untied head."""

    def __init__(self, tokens: int, length: int, width: int, blocks: int, heads: int):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm_attention": nn.LayerNorm(width, EPSILON),
                    "attention": Attention(width, heads),
                    "norm_dense": nn.LayerNorm(width, EPSILON),
                    "dense_1": nn.Linear(width, 4 * width),
                    "dense_2": nn.Linear(4 * width, width),
                }
            )
            for _ in range(blocks)
        )
        self.norm_last, self.head = nn.LayerNorm(width, EPSILON), nn.Linear(width, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x) + self.positions
        for block in self.blocks:
            parts: Any = block
            h = h + parts["attention"](parts["norm_attention"](h))
            h = h + parts["dense_2"](F.relu(parts["dense_1"](parts["norm_dense"](h))))
        return self.head(self.norm_last(h))


class LSTM(nn.Module):
    """PyTorch's fused LSTM between an embedding and a head; one of its two biases stays 0."""

    def __init__(self, tokens: int, size: int):
        super().__init__()
        self.embedding, self.head = nn.Embedding(tokens, size), nn.Linear(size, tokens)
        self.lstm: Any = nn.LSTM(size, size, batch_first=True)
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


def copy(target: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        target.copy_(torch.from_numpy(value.copy()).reshape(target.shape))


def gpt_of(params: dict[str, Any], heads: int) -> GPT:
    """Return the network with the weights of a `Decoder`, layer norm, placement pre."""
    tokens, width = params["embedding"]["embedding"].shape
    names = sorted(name for name in params if name.startswith("block_"))
    net = GPT(tokens, len(params["positions"]), width, len(names), heads)
    copy(net.embedding.weight, params["embedding"]["embedding"])
    copy(net.positions, params["positions"])
    for name, block in zip(names, net.blocks, strict=True):
        leaves, layers = params[name], dict(block.named_children())
        attention: Any = layers["attention"]
        layers |= {"dense_qkv": attention.qkv, "dense_out": attention.out}
        fill(layers, {n: leaves[n] for n in DENSE} | {n: leaves[n]["norm"] for n in NORMS})
    last = {"norm_last": params["norm_last"]["norm"], "head": params["head"]}
    fill({"norm_last": net.norm_last, "head": net.head}, last)
    return net


def lstm_of(params: dict[str, Any]) -> LSTM:
    """Return the network with the weights of an `RNN` of one layer of LSTM without norm."""
    tokens, size = params["embedding"]["embedding"].shape
    net, layer = LSTM(tokens, size), params["layer_1"]
    copy(net.embedding.weight, params["embedding"]["embedding"])
    put(net.lstm.weight_ih_l0, layer["dense_input"]["kernel"], "lstm")
    put(net.lstm.weight_hh_l0, layer["steps"]["dense_hidden"]["kernel"], "lstm")
    put(net.lstm.bias_ih_l0, layer["bias"], "lstm")
    fill({"head": net.head}, {"head": params["head"]})
    return net


class TextLoop:
    """An eager training loop with Adam over windows of tokens."""

    def __init__(self, net: nn.Module, tokens: np.ndarray, targets: np.ndarray):
        torch.set_num_threads(1)  # more of them wait for each other in matrices this small
        self.net = net
        self.tokens, self.targets = (
            torch.from_numpy(a.astype(np.int64)) for a in (tokens, targets)
        )
        weights = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(weights, betas=(0.9, 0.999), eps=1e-8)

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        at = torch.from_numpy(rows.astype(np.int64))
        return F.cross_entropy(self.net(self.tokens[at]).flatten(0, 1), self.targets[at].flatten())

    def step(self, rows: np.ndarray, rate: float) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(rows)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def mean_loss(self, rows: np.ndarray, batch: int = 100) -> float:
        """Return the mean over all tokens of the windows at `rows`."""
        with torch.no_grad():
            sums = [
                float(self.loss(rows[i : i + batch])) * len(rows[i : i + batch])
                for i in range(0, len(rows), batch)
            ]
        return sum(sums) / len(rows)
