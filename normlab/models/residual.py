"""What a configuration may ask of residual networks, readable without importing jax."""

from __future__ import annotations

from typing import Any

from normlab.layers.table import find_kernel
from normlab.models.row import Shape
from normlab.norms.row import Norm
from normlab.settings import Config

RESNET50 = (3, 4, 6, 3)
"""Blocks of each stage (arXiv:1512.03385, table 1)."""


def resnet_blocks(widths: tuple[int, ...], depth: int) -> int:
    """Return the blocks n of each stage, depth = 2 * stages * n + 2; 0: one block for each width.

    Widths must not fall, because a shortcut can only add channels.

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


def resnet_fields(config: Config) -> dict[str, Any]:
    return {
        "widths": config["model.widths"],
        "blocks": resnet_blocks(config["model.widths"], config["model.depth"]),
        "order": config["model.block"],
        "residual": config["model.residual"],
    }


def resnet_shapes(config: Config, image: Shape) -> list[Shape]:
    widths, is_pre = config["model.widths"], config["model.block"] == "pre"
    blocks = resnet_blocks(widths, config["model.depth"])
    height, width, _ = image
    shape = (height, width, widths[0])
    shapes = [] if is_pre else [shape]
    for stage, channels in enumerate(widths):
        for i in range(blocks):
            before = shape
            if stage > 0 and i == 0:
                height, width = -(-height // 2), -(-width // 2)
            shape = (height, width, channels)
            shapes += [before if is_pre else shape, shape]
    return [*shapes, shape] if is_pre else shapes


def check_resnet(config: Config, norm: Norm) -> None:
    """Raise ValueError where the blocks of a resnet and the schemes do not go together."""
    if norm.act and config["model.block"] == "post":
        raise ValueError(
            f"model.block = 'post': norm {config['norm.name']!r} replaces the activation right "
            "after it too, and a block's second norm has none; use model.block=pre"
        )
    kernel = config["norm.kernel"]
    if config["model.residual"] == "fixup" and find_kernel(kernel).module:
        raise ValueError(
            f"norm.kernel = {kernel!r}: model.residual = 'fixup' starts kernels at 0, which cannot "
            "be normalized; use norm.kernel=none or model.residual=skipinit"
        )


def resnet50_fields(config: Config) -> dict[str, Any]:
    widths = config["model.widths"]
    if len(widths) > len(RESNET50):
        raise ValueError(
            f"model.widths = {widths}: a resnet50 has {len(RESNET50)} stages; give at most "
            f"{len(RESNET50)} widths"
        )
    return {"widths": widths, "blocks": RESNET50[: len(widths)]}


def resnet50_shapes(config: Config, image: Shape) -> list[Shape]:
    """Of each block, the shapes of its three norms, and of that of its shortcut if there is one."""
    fields = resnet50_fields(config)
    height, width = (-(-side // 2) for side in image[:2])
    shapes = [(height, width, fields["widths"][0])]
    height, width = -(-height // 2), -(-width // 2)
    for stage, (channels, blocks) in enumerate(zip(*fields.values(), strict=True)):
        for i in range(blocks):
            shapes.append((height, width, channels))
            if stage > 0 and i == 0:
                height, width = -(-height // 2), -(-width // 2)
            wide = (height, width, 4 * channels)
            shapes += [(height, width, channels), wide, *[wide] * (i == 0)]
    return shapes


def check_resnet50(config: Config, norm: Norm) -> None:
    """Raise ValueError for a scheme that replaces the activation, which a sum comes before."""
    if norm.act:
        raise ValueError(
            f"norm.name = {config['norm.name']!r} replaces the activation right after it, and a "
            "block's last norm has none; use another norm or model.name=resnet with block=pre"
        )
