"""Networks over sequences of different lengths that all contenders train: plain data, no jax."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.loops.network import EXAMPLES, Job, Network
from normlab.data.sequences import lengths_of
from normlab.settings import Config

GATES = {"gru": "rzn", "lstm": "ifog"}
"""Cell -> its gates, in the order in which our kernels have them."""

INPUT, HIDDEN, BIAS = "layer_1_dense_input", "layer_1_steps_dense_hidden", "layer_1"
NORMS = ("layer_1_norm_input_steps_norm", "layer_1_steps_norm_hidden")
"""Names of our layers, the norms of both products last."""
Weights = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class SequenceNetwork(Network):
    """A recurrent layer and a head on its last valid state; `shape` is (T, features + 1, 1)."""

    cell: str = "gru"
    is_masked: bool = True
    """Whether statistics leave padding out."""

    @property
    def settings(self) -> Config:
        own = {"model.cell": self.cell, "norm.masked": self.is_masked}
        return super().settings | own


GRU = SequenceNetwork("gru32", "GRU 32, T 16, batch 16", "rnn", (16, 9, 1), 16, (32,), norm="none")
LSTM = replace(
    GRU,
    name="lstm100",
    title="LSTM 100, T 28, batch 64",
    shape=(28, 29, 1),
    batch=64,
    widths=(100,),
    cell="lstm",
)
NETWORKS = tuple(
    replace(of, name=of.name + name, title=of.title + title, norm=norm, is_masked=is_masked)
    for of in (GRU, LSTM)
    for name, title, norm, is_masked in (
        ("", ", no norm", "none", True),
        ("-batch", ", batch norm of each step", "batch", True),
        ("-batch-padded", ", batch norm of each step, padding counted", "batch", False),
    )
)


def as_sequences(network: SequenceNetwork, images: np.ndarray) -> np.ndarray:
    """Return examples uint8 [N, T * (D + 1)] blank behind their ends. Their last feature is 255
    before, as normlab has sequences."""
    steps = network.shape[0]
    lengths = lengths_of(len(images), steps // 2, steps)
    valid = np.arange(steps) < lengths[:, None]
    x = images.reshape(len(images), steps, -1) * valid[..., None]
    x[..., -1] = 255 * valid
    return x.reshape(len(images), -1)


def features_and_lengths(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Return the features in 0..1, float32 [N, T, D], and the lengths, int64 [N]."""
    x = job.images.reshape(EXAMPLES, *job.network.shape[:2])
    return (x[..., :-1] / np.float32(255)), np.count_nonzero(x[..., -1], 1)
