"""`MODELS`: what a configuration may ask of each network, readable without importing jax."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    title: str
    is_convolutional: bool
    ends_in_global_mean: bool
    """Whether nothing stands between the last layer and a global mean."""
    options: tuple[str, ...]
    """Settings `model.*` that the network takes; the others are reset to their defaults."""


MODELS: dict[str, Model] = {
    "mlp": Model(
        title="dense - norm - activation, repeated",
        is_convolutional=False,
        ends_in_global_mean=False,
        options=("widths", "depth", "act", "placement", "shortcut"),
    ),
    "cnn": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool between stages, global mean",
        is_convolutional=True,
        ends_in_global_mean=True,
        options=("widths", "depth", "act", "placement", "stride"),
    ),
    "vgg": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool after every stage, global mean, "
        "one dense layer",
        is_convolutional=True,
        ends_in_global_mean=False,
        options=("widths", "depth", "act", "placement"),
    ),
    "resnet": Model(
        title="blocks of two 3x3 convs beside a shortcut, the first of a stage halves the image",
        is_convolutional=True,
        ends_in_global_mean=False,
        options=("widths", "depth", "act", "block", "residual"),
    ),
}

VGG: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth -> convolutions of each stage (arXiv:1409.1556, table 1). Depth counts the paper's three
dense layers, where here one follows the global mean."""


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


def vgg_stages(widths: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Return the convolutions of each stage; 0: one. Raises ValueError for what is no VGG.

    >>> vgg_stages((8, 16), 0), vgg_stages((64, 128, 256, 512, 512), 11)
    ((1, 1), (1, 1, 2, 2, 2))
    """
    if depth and depth not in VGG:
        depths = ", ".join(map(str, VGG))
        raise ValueError(
            f"model.depth = {depth} is not that of a vgg; use one of {depths}, or 0 for one "
            "convolution a stage"
        )
    stages = VGG[depth] if depth else (1,) * len(widths)
    if len(widths) != len(stages):
        raise ValueError(
            f"model.widths = {widths}: a vgg of depth {depth} has {len(stages)} stages; give "
            f"{len(stages)} widths, or model.depth = 0 for one convolution a stage"
        )
    return stages


def conv_layers(
    name: str, widths: tuple[int, ...], depth: int
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return for each convolution of a plain network its width and whether a pool follows.

    >>> conv_layers("cnn", (8, 16), 3), conv_layers("vgg", (8, 16), 0)
    (((8, 8, 16), (False, True, False)), ((8, 16), (True, True)))
    """
    if name != "vgg":
        return tuple(layer_widths(widths, depth)), tuple(pool_after(widths, depth))
    stages = vgg_stages(widths, depth)
    layers = [(w, i == n) for w, n in zip(widths, stages, strict=True) for i in range(1, n + 1)]
    return tuple(w for w, _ in layers), tuple(is_last for _, is_last in layers)


def resnet_blocks(widths: tuple[int, ...], depth: int) -> int:
    """Return the blocks n of each stage, depth = 2 * stages * n + 2; 0: one block for each width.

    Raises ValueError for another depth, and for widths that fall: a shortcut can only add channels.

    >>> resnet_blocks((16, 32, 64), 20), resnet_blocks((8, 16), 0)
    (3, 1)
    """
    if list(widths) != sorted(widths):
        raise ValueError(
            f"model.widths = {widths}: the shortcuts of a resnet can only add channels; use widths "
            "that do not fall"
        )
    step = 2 * len(widths)
    blocks = (depth - 2) // step
    if depth and (blocks < 1 or (depth - 2) % step):
        legal = [n * step + 2 for n in (blocks, blocks + 1) if n > 0] or [step + 2]
        raise ValueError(
            f"model.depth = {depth} is not {step} n + 2, the depth of a resnet of {len(widths)} "
            f"stages; use {' or '.join(map(str, legal))}"
        )
    return blocks if depth else 1
