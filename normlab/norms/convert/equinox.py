"""`from_equinox`: parameters and state of norms from Equinox to Flax; it is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from normlab.norms.convert.kernels import leaves_of_kernel
from normlab.norms.convert.variables import (
    Found,
    choose,
    is_a,
    join_variables,
    layer_norm,
    with_leaves,
)

_NORM = {"weight": "scale", "bias": "bias", "mean": "mean", "var": "var", "count": "count"}
_CLASSES = ("BatchNorm", "LayerNorm", "GroupNorm", "RMSNorm", "WeightNorm", "SpectralNorm")


def from_equinox(
    model: Any,
    state: Any = None,
    *,
    modules: Iterable[str] | None = None,
    paths: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return Flax variables holding the norms of an Equinox model, and nothing else of it.

    `model` is a pytree of layers, `state` its `equinox.nn.State`, needed for batch and spectral
    norm. weight, bias -> params `scale`, `bias`; the statistics that Equinox evaluates with ->
    batch_stats `mean`, `mean_lo`, `var`; the counter of mode "batch" -> norm_state `count`.
    Shapes: every leaf [C], float32 arrays of NumPy.
    WeightNorm and SpectralNorm of Linear and Conv layers -> `kernel`, `bias` and their scheme's
    leaves, as `from_torch`.

    A norm's name is its path in the pytree, such as "layers.0". `modules`: names or patterns of the
    norms to take. `paths`: name -> dotted path in Flax. `norms.options_of(model)` gives epsilon,
    momentum and groups, and says which layers go without scale or bias.
    Raises ValueError by name for a missing state, and for a batch norm of mode "ema" that has seen
    no batch. Also refused are a layer norm over two axes, an RMS norm over more than one, and a
    kernel scheme of another layer. Errors of `modules` and `paths` are those of `from_torch`.
    """
    found = find(model, modules, state, with_state=True)
    return join_variables({name: leaves for name, (_, leaves) in found.items()}, paths)


def find(
    model: Any, modules: Iterable[str] | None = None, state: Any = None, with_state: bool = False
) -> dict[str, Found]:
    """Return name -> (options of `norms.build`, variables) of every norm, without state first."""

    def is_norm(node: Any) -> bool:
        return is_a(node, "equinox", *_CLASSES)

    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_norm)
    norms = {_name(path): node for path, node in nodes if is_norm(node)}
    return {
        name: _convert(name or "the model", node, state, with_state)
        for name, node in choose(norms, modules).items()
    }


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _convert(name: str, layer: Any, state: Any, with_state: bool) -> Found:
    if with_state and state is None and is_a(layer, "equinox", "BatchNorm", "SpectralNorm"):
        raise ValueError(f"{name}: {type(layer).__name__} has state; pass it too: (model, state)")
    if is_a(layer, "equinox", "WeightNorm", "SpectralNorm"):
        return _to_kernel(name, layer, state)
    options = _options(name, layer)
    given = {"weight": layer.weight, "bias": layer.bias}
    if options["name"] == "batch" and with_state:
        given |= _running(name, layer, state)
    return with_leaves(name, options, given, _NORM)


def _options(name: str, layer: Any) -> dict[str, Any]:
    """Return the options of `norms.build` for a norm of Equinox."""
    epsilon = {"epsilon": layer.eps}
    if is_a(layer, "equinox", "BatchNorm"):
        frozen = {"use_running": True, "update_running": False}
        average = frozen if layer.mode == "ema" else {"average": "debiased"}
        return {"name": "batch", "momentum": layer.momentum} | epsilon | average
    if is_a(layer, "equinox", "GroupNorm"):
        return {"name": "group", "groups": layer.groups} | epsilon
    if is_a(layer, "equinox", "LayerNorm"):
        return layer_norm(layer.shape) | epsilon
    if len(layer.shape) > 1:
        raise ValueError(f"{name}: an RMS norm over {layer.shape}, ours is over the channels alone")
    return {"name": "rms"} | epsilon


def _running(name: str, layer: Any, state: Any) -> dict[str, Any]:
    """Return the statistics with which Equinox evaluates, and their counter."""
    if layer.mode == "ema":
        if state.get(layer.ema_first_time_index):
            raise ValueError(f"{name}: this batch norm has no statistics; train it first")
        return dict(zip(("mean", "var"), state.get(layer.ema_state_index), strict=True))
    count = state.get(layer.batch_counter)
    kept = 1 - layer.momentum ** int(count) if count else 1
    mean, var = (np.asarray(v, np.float64) / kept for v in state.get(layer.batch_state_index))
    return {"mean": mean, "var": var, "count": count}


def _to_kernel(name: str, wrapper: Any, state: Any) -> Found:
    layer, is_spectral = wrapper.layer, is_a(wrapper, "equinox", "SpectralNorm")
    if wrapper.weight_name != "weight" or not is_a(layer, "equinox", "Linear", "Conv"):
        raise ValueError(
            f"{name}: {type(wrapper).__name__} of {type(layer).__name__}.{wrapper.weight_name} has "
            "no equivalent here; leave it out: modules=[...]"
        )
    options = {"name": "none", "kernel": "spectral" if is_spectral else "weight_norm"}
    if not is_spectral:
        return options, leaves_of_kernel(name, layer.weight, layer.bias, gain=wrapper.g)
    if state is None:
        return options, {}
    u, v = (np.asarray(a, np.float64) for a in state.get(wrapper.uv_index))
    return options, leaves_of_kernel(name, layer.weight, layer.bias, u=u, v=v)
