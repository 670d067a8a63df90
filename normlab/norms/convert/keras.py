"""`from_keras`: parameters and state of norms from Keras to Flax; Keras is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from normlab.norms.convert.variables import (
    Found,
    choose,
    is_a,
    join_variables,
    with_leaves,
)

_NORM = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
_RMS = {"scale": "scale"}
_CLASSES = (
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "UnitNormalization",
    "SpectralNormalization",
)


def from_keras(
    model: Any, *, modules: Iterable[str] | None = None, paths: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return Flax variables holding the norms of a Keras model or layer, and nothing else of it.

    gamma, beta -> params `scale`, `bias`; moving_mean, moving_variance -> batch_stats `mean`,
    `mean_lo`, `var`; scale of RMSNormalization -> `scale`. Shapes: every leaf [C], float32 arrays
    of NumPy. The model must be built.

    A norm has its path in the model as its name, "block/norm" as "block.norm"; that of the model
    itself is left out. `modules`: names or patterns of the norms to take. `paths`: name -> dotted
    path in Flax. `norms.options_of(model)` gives epsilon, momentum and groups,
    and says which layers go without scale or bias.
    Raises ValueError by name for a layer or RMS norm over other axes than the last, `rms_scaling`,
    `renorm`, UnitNormalization and SpectralNormalization. The last keeps the normalized kernel in
    place of the original: take its kernel as it is. Errors of `modules` and `paths` are those of
    `from_torch`.
    """
    return join_variables({n: leaves for n, (_, leaves) in find(model, modules).items()}, paths)


def find(model: Any, modules: Iterable[str] | None = None) -> dict[str, Found]:
    """Return name -> (options of `norms.build`, variables) of every norm."""
    layers: dict[str, Any] = {}
    for layer in model._flatten_layers():
        if not is_a(layer, "keras", *_CLASSES):
            continue
        if not layer.built:
            raise ValueError(f"{layer.name}: this norm has no variables yet; build the model first")
        path = (layer.path or layer.name).removeprefix(f"{model.path}/")
        name = "" if layer is model else path.replace("/", ".")
        if name in layers:
            raise ValueError(f"{name}: two norms of this name; give them names of their own")
        layers[name] = layer
    return {name: _convert(name, layer) for name, layer in choose(layers, modules).items()}


def _convert(name: str, layer: Any) -> Found:
    options = _options(name or layer.name, layer)
    names = _RMS if options["name"] == "rms" else _NORM
    given = {leaf: getattr(layer, leaf, None) for leaf in names}
    return with_leaves(name, options, given, names)


def _options(name: str, layer: Any) -> dict[str, Any]:
    """Return the options of `norms.build` for a norm of Keras; raises where there are none."""
    strange = [o for o in ("renorm", "rms_scaling") if getattr(layer, o, False)]
    if is_a(layer, "keras", "UnitNormalization", "SpectralNormalization") or strange:
        what = f"{strange[0]}=True" if strange else type(layer).__name__
        raise ValueError(f"{name}: {what} has no equivalent here; leave it out: modules=[...]")
    if is_a(layer, "keras", "BatchNormalization"):
        return {"name": "batch", "epsilon": layer.epsilon, "momentum": layer.momentum}
    if is_a(layer, "keras", "GroupNormalization"):
        return {"name": "group", "epsilon": layer.epsilon, "groups": layer.groups}
    if layer.axis != [-1]:
        raise ValueError(
            f"{name}: its statistics are over axis {layer.axis}, ours are over the last, axis=-1; "
            "leave it out: modules=[...]"
        )
    is_rms = is_a(layer, "keras", "RMSNormalization")
    return {"name": "rms" if is_rms else "layer_channels", "epsilon": layer.epsilon}
