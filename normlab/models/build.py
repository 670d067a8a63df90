"""From a configuration to a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from normlab.layers.factory import factory
from normlab.models.activations import ACTIVATIONS, kernel_inits
from normlab.models.table import MODELS
from normlab.norms.builder import Layers, build, module_of
from normlab.norms.table import COMMON, find_norm
from normlab.settings import Config


def norm_options(config: Config) -> dict[str, Any]:
    """Return the options that the configured scheme takes, with their values."""
    return {o: config[f"norm.{o}"] for o in find_norm(config["norm.name"]).options + COMMON}


def make_network(config: Config, classes: int, layers: Layers) -> nn.Module:
    """Return the network of `config` with these layers. An external network may do without
    `kernel_init` and `head_init`."""
    row = MODELS[config["model.name"]]
    module = module_of(row.module)
    inits = kernel_inits(config["init.kernel"], activation(config))
    given = dict(zip(("kernel_init", "head_init"), inits, strict=True))
    kept = {n: v for n, v in given.items() if n in getattr(module, "__dataclass_fields__", {})}
    return module(layers=layers, classes=classes, **kept, **row.fields(config))


def activation(config: Config) -> str:
    """Return the name of the activation: the network's own, or what the configuration chooses."""
    return MODELS[config["model.name"]].act or config["model.act"]


def build_model(config: Config, classes: int, conv_form: str, **overrides: Any) -> nn.Module:
    """Return the network of `config`; `overrides` replace options of its norm."""
    act, options = ACTIVATIONS[activation(config)][0], norm_options(config) | overrides
    layers = build(config["norm.name"], act=act, conv_form=conv_form, **options)
    return make_network(config, classes, computing_in(config["model.dtype"], layers))


def computing_in(dtype: str, layers: Layers) -> Layers:
    """Return layers whose products and activations are of this type, but for a float32 head. Norms
    return the type that they are given, from float32 statistics."""
    if dtype == "float32":
        return layers
    low, full = jnp.dtype(dtype), jnp.dtype("float32")
    conv, dense = (factory(layer, dtype=low) for layer in (layers.conv, layers.dense))
    return replace(layers, conv=conv, dense=dense, head=factory(layers.head, dtype=full))
