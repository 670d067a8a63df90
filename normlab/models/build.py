"""From a configuration to a network."""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from normlab.models.activations import ACTIVATIONS, kernel_inits
from normlab.models.table import MODELS
from normlab.norms.builder import build, module_of
from normlab.norms.table import COMMON, find_norm
from normlab.settings import Config


def norm_options(config: Config) -> dict[str, Any]:
    """Return the options that the configured scheme takes, with their values."""
    return {o: config[f"norm.{o}"] for o in find_norm(config["norm.name"]).options + COMMON}


def build_model(config: Config, classes: int, conv_form: str, **overrides: Any) -> nn.Module:
    """Return the network of `config`; `overrides` replace options of its norm."""
    row = MODELS[config["model.name"]]
    name = row.act or config["model.act"]
    act, (kernel_init, head_init) = ACTIVATIONS[name][0], kernel_inits(config["init.kernel"], name)
    options = norm_options(config) | overrides
    return module_of(row.module)(
        layers=build(config["norm.name"], act=act, conv_form=conv_form, **options),
        classes=classes,
        kernel_init=kernel_init,
        head_init=head_init,
        **row.fields(config),
    )
