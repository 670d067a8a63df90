"""From a configuration to a network."""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from normlab.models.activations import ACTIVATIONS, kernel_inits
from normlab.models.cnn import CNN
from normlab.models.mlp import MLP
from normlab.models.resnet import ResNet
from normlab.models.table import conv_layers, layer_widths, resnet_blocks
from normlab.norms.builder import build
from normlab.norms.table import COMMON, find_norm
from normlab.settings import Config


def norm_options(config: Config) -> dict[str, Any]:
    """Return the options that the configured scheme takes, with their values."""
    return {o: config[f"norm.{o}"] for o in find_norm(config["norm.name"]).options + COMMON}


def build_model(config: Config, classes: int, conv_form: str, **overrides: Any) -> nn.Module:
    """Return the network of `config`; `overrides` replace options of its norm."""
    act = ACTIVATIONS[config["model.act"]][0]
    kernel_init, head_init = kernel_inits(config["init.kernel"], config["model.act"])
    layers = build(
        config["norm.name"], act=act, conv_form=conv_form, **{**norm_options(config), **overrides}
    )
    name, widths, depth = (config[f"model.{o}"] for o in ("name", "widths", "depth"))
    common: dict[str, Any] = dict(layers=layers, classes=classes)
    common |= dict(kernel_init=kernel_init, head_init=head_init)
    if name == "resnet":
        order, residual = config["model.block"], config["model.residual"]
        blocks = resnet_blocks(widths, depth)
        return ResNet(widths=widths, blocks=blocks, order=order, residual=residual, **common)
    common["placement"] = config["model.placement"]
    if name == "mlp":
        return MLP(
            widths=tuple(layer_widths(widths, depth)), shortcut=config["model.shortcut"], **common
        )
    widths, pools = conv_layers(name, widths, depth)
    return CNN(widths=widths, pools=pools, stride=config["model.stride"], **common)
