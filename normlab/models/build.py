"""From a configuration to a network."""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from normlab.models.activations import ACTIVATIONS
from normlab.models.cnn import CNN
from normlab.models.mlp import MLP
from normlab.models.table import layer_widths, pool_after
from normlab.norms.layers import build
from normlab.norms.table import COMMON, find_norm
from normlab.settings import Config


def norm_options(config: Config) -> dict[str, Any]:
    """Return the options that the configured scheme takes, with their values."""
    return {o: config[f"norm.{o}"] for o in find_norm(config["norm.name"]).options + COMMON}


def build_model(config: Config, classes: int, conv_form: str, **overrides: Any) -> nn.Module:
    """Return the network of `config`; `overrides` replace options of its norm."""
    act, kernel_init = ACTIVATIONS[config["model.act"]]
    layers = build(
        config["norm.name"], act=act, conv_form=conv_form, **{**norm_options(config), **overrides}
    )
    widths = layer_widths(config["model.widths"], config["model.depth"])
    common: dict[str, Any] = dict(
        layers=layers,
        widths=tuple(widths),
        classes=classes,
        kernel_init=kernel_init,
        placement=config["model.placement"],
    )
    if config["model.name"] == "mlp":
        return MLP(**common)
    pools = tuple(pool_after(config["model.widths"], config["model.depth"]))
    return CNN(**common, pools=pools, stride=config["model.stride"])
