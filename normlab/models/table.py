"""`MODELS`: what a configuration may ask of each network, readable without importing jax."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    title: str
    is_convolutional: bool
    ends_in_global_mean: bool
    options: tuple[str, ...]
    """Settings `model.*` that the network takes; the others are reset to their defaults."""


MODELS: dict[str, Model] = {
    "mlp": Model(
        title="dense - norm - activation, repeated",
        is_convolutional=False,
        ends_in_global_mean=False,
        options=("widths", "depth", "act", "placement"),
    ),
    "cnn": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool between stages, global mean",
        is_convolutional=True,
        ends_in_global_mean=True,
        options=("widths", "depth", "act", "placement", "stride"),
    ),
}


def layer_widths(widths: tuple[int, ...], depth: int) -> list[int]:
    """Return the width of each hidden layer: `depth` layers spread evenly over `widths`.

    >>> layer_widths((16, 32), 0), layer_widths((16, 32), 5), layer_widths((64,), 3)
    ([16, 32], [16, 16, 16, 32, 32], [64, 64, 64])
    """
    layers = depth or len(widths)
    return [widths[i * len(widths) // layers] for i in range(layers)]


def pool_after(widths: tuple[int, ...], depth: int) -> list[bool]:
    """Return for each layer whether a stage ends with it: a pool follows, except after the last.

    >>> pool_after((16, 32, 64), 0)
    [True, True, False]
    """
    layers = depth or len(widths)
    stages = [i * len(widths) // layers for i in range(layers)]
    return [i + 1 < layers and stages[i] != stages[i + 1] for i in range(layers)]
