"""`MODELS`: what a configuration may ask of each network, readable without importing jax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from normlab.models.shapes import (
    Shape,
    check_resnet,
    cnn_shapes,
    mlp_shapes,
    resnet_shapes,
    vgg_shapes,
)
from normlab.norms.row import Norm
from normlab.settings import Config


@dataclass(frozen=True)
class Model:
    """One network. A new one is its file and its row here."""

    title: str
    make: str
    """Where its maker is found, "package.file:function": make(config, common) -> Linen module, with
    the arguments that all networks take in `common`."""
    shapes: Callable[[Config, Shape], list[Shape]]
    """shapes(config, shape of an image) -> what each norm receives. Raises ValueError."""
    is_convolutional: bool
    options: tuple[str, ...]
    """Settings `model.*` that the network takes; the others are reset to their defaults."""
    ends_in_global_mean: bool = False
    """Whether a global mean follows the last layer directly."""
    check: Callable[[Config, Norm], None] | None = None
    """check(config, row of the norm) raises ValueError for settings that do not go together."""


MODELS: dict[str, Model] = {
    "mlp": Model(
        title="dense - norm - activation, repeated",
        make="normlab.models.mlp:make_mlp",
        shapes=mlp_shapes,
        is_convolutional=False,
        options=("widths", "depth", "act", "placement", "shortcut"),
    ),
    "cnn": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool between stages, global mean",
        make="normlab.models.cnn:make_cnn",
        shapes=cnn_shapes,
        is_convolutional=True,
        options=("widths", "depth", "act", "placement", "stride"),
        ends_in_global_mean=True,
    ),
    "vgg": Model(
        title="3x3 conv - norm - activation, a 2x2 max pool after every stage, global mean, "
        "one dense layer",
        make="normlab.models.cnn:make_vgg",
        shapes=vgg_shapes,
        is_convolutional=True,
        options=("widths", "depth", "act", "placement"),
    ),
    "resnet": Model(
        title="blocks of two 3x3 convs with a shortcut, the first of a stage halves the image",
        make="normlab.models.resnet:make_resnet",
        shapes=resnet_shapes,
        is_convolutional=True,
        options=("widths", "depth", "act", "block", "residual"),
        check=check_resnet,
    ),
}
