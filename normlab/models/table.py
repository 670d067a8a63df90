"""`MODELS`: what a configuration may ask of each network, readable without importing jax.

A network is its file and its row here, with the functions that the row names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from normlab.layers.table import find_kernel
from normlab.models.residual import (
    check_resnet,
    check_resnet50,
    resnet50_fields,
    resnet50_shapes,
    resnet_fields,
    resnet_shapes,
)
from normlab.models.row import Model, Shape
from normlab.norms.row import Norm
from normlab.norms.table import find_norm
from normlab.settings import Config

Plan = Callable[[tuple[int, ...], int], tuple[list[int], list[bool]]]
"""(widths, depth) -> the width of each layer, and whether a pool follows it."""
VGG: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth -> convolutions of each stage (arXiv:1409.1556, table 1). Depth counts the paper's three
dense layers, where here one follows the global mean."""

PRODUCTS = {"rnn": 1, "gru": 3, "lstm": 4}
"""Cell -> vectors of the size of its state in each of its two products."""


def spread_layers(widths: tuple[int, ...], depth: int) -> tuple[list[int], list[bool]]:
    """Return the width of each hidden layer and whether a pool follows it.

    `depth` layers are spread evenly over `widths`. A pool ends every stage but the last.

    >>> spread_layers((16, 32), 0), spread_layers((16, 32), 3)
    (([16, 32], [True, False]), ([16, 16, 32], [False, True, False]))
    """
    layers = depth or len(widths)
    stages = [i * len(widths) // layers for i in range(layers)]
    ends = [stage != after for stage, after in pairwise([*stages, stages[-1]])]
    return [widths[stage] for stage in stages], ends


def vgg_layers(widths: tuple[int, ...], depth: int) -> tuple[list[int], list[bool]]:
    """Return the width of each convolution and whether a pool follows; depth 0: one a stage.

    >>> vgg_layers((8, 16), 0)
    ([8, 16], [True, True])
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
    layers = [(w, i == n) for w, n in zip(widths, stages, strict=True) for i in range(1, n + 1)]
    return [w for w, _ in layers], [is_last for _, is_last in layers]


def mlp_fields(config: Config) -> dict[str, Any]:
    widths, _ = spread_layers(config["model.widths"], config["model.depth"])
    return {
        "widths": tuple(widths),
        "placement": config["model.placement"],
        "shortcut": config["model.shortcut"],
    }


def mlp_shapes(config: Config, image: Shape) -> list[Shape]:
    del image
    return [(1, 1, width) for width in mlp_fields(config)["widths"]]


def cnn_fields(config: Config, plan: Plan) -> dict[str, Any]:
    widths, pools = plan(config["model.widths"], config["model.depth"])
    return {
        "widths": tuple(widths),
        "pools": tuple(pools),
        "placement": config["model.placement"],
        "stride": config["model.stride"],
    }


def cnn_shapes(config: Config, image: Shape, plan: Plan) -> list[Shape]:
    widths, pools = plan(config["model.widths"], config["model.depth"])
    height, width = (-(-side // config["model.stride"]) for side in image[:2])
    shapes = []
    for i, (channels, pool) in enumerate(zip(widths, pools, strict=True), 1):
        shapes.append((height, width, channels))
        if pool:
            height, width = height // 2, width // 2
        if min(height, width) < 1:
            place = f"layer {i + 1}" if i < len(widths) else "the global mean"
            raise ValueError(
                f"model.widths = {config['model.widths']}: nothing is left of the image before "
                f"{place}; use fewer stages or a smaller stride"
            )
    return shapes


def rnn_fields(config: Config) -> dict[str, Any]:
    widths, _ = spread_layers(config["model.widths"], config["model.depth"])
    norm = find_norm(config["norm.name"])
    return {
        "widths": tuple(widths),
        "cell": config["model.cell"],
        "normed": config["model.normed"],
        "time": config["norm.time"],
        # A scheme without statistics has no use for a mask of all steps, which costs time.
        "is_masked": config["norm.masked"] and bool(norm.over),
        "least": config["norm.least"],
    }


def rnn_shapes(config: Config, image: Shape) -> list[Shape]:
    """Of each layer, the shapes of its products with the input and with the state."""
    del image
    parts = PRODUCTS[config["model.cell"]]
    each = 2 if config["model.normed"] == "both" else 1
    return [(1, 1, parts * width) for width in rnn_fields(config)["widths"] for _ in range(each)]


def encoder_fields(config: Config) -> dict[str, Any]:
    widths, heads = config["model.widths"], config["model.heads"]
    if len(set(widths)) > 1 or widths[0] % heads:
        raise ValueError(
            f"model.widths = {widths} with model.heads = {heads}: the tokens of an encoder have "
            "one width, which the heads divide; use one width that is a multiple of the heads"
        )
    return {
        "width": widths[0],
        "blocks": config["model.depth"] or len(widths),
        "heads": heads,
        "placement": config["model.placement"],
        "time": config["norm.time"],
        "is_masked": config["norm.masked"],
        "residual": config["model.residual"],
        "qk_norm": config["model.qk_norm"],
    }


def decoder_fields(config: Config) -> dict[str, Any]:
    # A norm of each example alone gives the same at all steps at once, and faster.
    is_alone = find_norm(config["norm.name"]).is_per_sample
    time = "sequence" if is_alone else config["norm.time"]
    return encoder_fields(config) | {"tied": config["model.tied"], "time": time}


def encoder_shapes(config: Config, image: Shape) -> list[Shape]:
    del image
    fields = encoder_fields(config)
    width, each = fields["width"], 4 if fields["placement"] == "peri" else 2
    heads = [(1, 1, width // fields["heads"])] * (2 * fields["qk_norm"])
    last = [(1, 1, width)] * (fields["placement"] != "post")
    return (heads + [(1, 1, width)] * each) * fields["blocks"] + last


def check_time(config: Config, norm: Norm) -> None:
    """Raise ValueError where the steps of a network with time and schemes do not go together."""
    name, kernel = config["norm.name"], config["norm.kernel"]
    if norm.act:
        raise ValueError(
            f"norm.name = {name!r} replaces the activation after it, and no activation follows the "
            f"norms of {config['model.name']!r}; use another norm"
        )
    if find_kernel(kernel).module:
        raise ValueError(
            f"norm.kernel = {kernel!r} is not made for the kernels of {config['model.name']!r}; "
            "use norm.kernel=none"
        )
    if (residual := config["model.residual"]) not in ("identity", "skipinit"):
        raise ValueError(
            f"model.residual = {residual!r} is not made for the blocks of "
            f"{config['model.name']!r}; use identity or skipinit"
        )


def check_rnn(config: Config, norm: Norm) -> None:
    """Raise ValueError as `check_time` does, and where norm.least cannot do what it is for."""
    check_time(config, norm)
    least, batch = config["norm.least"], config["data.batch"]
    for name, needed in (("norm.time", "step"), ("norm.masked", True), ("norm.stats_batch", 0)):
        if least and config[name] != needed:
            raise ValueError(
                f"norm.least = {least} is about the valid sequences of a step in the whole batch, "
                f"{name} = {config[name]!r} has other statistics; use {name}={needed} or "
                "norm.least=0"
            )
    if least > batch:
        raise ValueError(
            f"norm.least = {least} is more than data.batch = {batch}; use at most that"
        )


MODELS: dict[str, Model] = {
    "mlp": Model(
        title="dense - norm - activation, repeated",
        module="normlab.models.mlp:MLP",
        fields=mlp_fields,
        shapes=mlp_shapes,
        is_convolutional=False,
        options=("widths", "depth", "act", "placement", "shortcut"),
        kinds=("images", "features"),
    ),
    "cnn": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool between stages, global mean",
        module="normlab.models.cnn:CNN",
        fields=partial(cnn_fields, plan=spread_layers),
        shapes=partial(cnn_shapes, plan=spread_layers),
        is_convolutional=True,
        options=("widths", "depth", "act", "placement", "stride"),
        ends_in_global_mean=True,
    ),
    "vgg": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool after every stage, global mean, "
        "one dense layer",
        module="normlab.models.cnn:CNN",
        fields=partial(cnn_fields, plan=vgg_layers),
        shapes=partial(cnn_shapes, plan=vgg_layers),
        is_convolutional=True,
        options=("widths", "depth", "act", "placement"),
    ),
    "resnet": Model(
        title="blocks of two 3x3 convs with a shortcut, the first of a stage halves the image",
        module="normlab.models.resnet:ResNet",
        fields=resnet_fields,
        shapes=resnet_shapes,
        is_convolutional=True,
        options=("widths", "depth", "act", "block", "residual"),
        check=check_resnet,
    ),
    "resnet50": Model(
        title="bottleneck blocks (3, 4, 6, 3) after a 7x7 conv and a pool, each of stride 2",
        module="normlab.models.resnet50:ResNet50",
        fields=resnet50_fields,
        shapes=resnet50_shapes,
        options=("widths", "act"),
        check=check_resnet50,
    ),
    "rnn": Model(
        title="recurrent cells over the rows of an image, a head on the last state; over text, on "
        "every state",
        module="normlab.models.rnn:RNN",
        fields=rnn_fields,
        shapes=rnn_shapes,
        is_convolutional=False,
        options=("widths", "depth", "cell", "normed"),
        has_time=True,
        kinds=("images", "sequences", "text"),
        act="tanh",
        check=check_rnn,
    ),
    "encoder": Model(
        title="transformer blocks over rows or patches of an image, a mean over the steps, a head",
        module="normlab.models.transformer:Encoder",
        fields=encoder_fields,
        shapes=encoder_shapes,
        is_convolutional=False,
        options=("widths", "depth", "act", "placement", "heads", "residual", "qk_norm"),
        has_time=True,
        kinds=("images", "sequences"),
        check=check_time,
    ),
    "decoder": Model(
        title="transformer blocks over text that see no later token, a head on every token",
        module="normlab.models.transformer:Decoder",
        fields=decoder_fields,
        shapes=encoder_shapes,
        is_convolutional=False,
        options=("widths", "depth", "act", "placement", "heads", "residual", "qk_norm", "tied"),
        has_time=True,
        kinds=("text",),
        check=check_time,
    ),
}
