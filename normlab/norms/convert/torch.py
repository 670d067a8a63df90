"""`from_torch` and `to_torch`: parameters and state of norms between PyTorch and Flax.

    variables = norms.from_torch(model, paths={"layer1.0.bn1": "block_0.norm_1"})
    state = {k: torch.as_tensor(v) for k, v in norms.to_torch(variables).items()}

Neither function imports torch. PyTorch's momentum is 1 - ours, and its running variance is the
unbiased one: `norms.options_of(model)`, or `norms.build(name, preset="torch")`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from normlab.norms.convert.kernels import leaves_of_kernel
from normlab.norms.convert.variables import (
    COLLECTIONS,
    Found,
    Leaves,
    by_module,
    choose,
    is_a,
    join,
    join_variables,
    layer_norm,
    leaves_of_norm,
    refuse_shapes,
    renamed,
    with_leaves,
)
from normlab.norms.presets import PRESETS

_NORM = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
    "num_batches_tracked": "count",
}
_COUNT = "num_batches_tracked"
_STATS = {"running_mean", "running_var"}
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARAMETRIZED = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}
"""Leaves of torch.nn.utils.parametrizations -> those of the functions that it replaced."""
_KERNELS = {
    "weight_norm": {"weight_g", "weight_v"},
    "spectral": {"weight_orig", "weight_u", "weight_v"},
}
_KNOWN = {*_NORM, "gamma", "beta", *_KERNELS["weight_norm"], *_KERNELS["spectral"]}


def from_torch(
    source: Any,
    *,
    modules: Iterable[str] | None = None,
    paths: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return Flax variables holding the norms of a PyTorch model, and nothing else of it.

    `source`: a state dict, a checkpoint that holds one (`state_dict`, `model_state_dict`, `model`),
    or a module. The prefixes of DataParallel (`module.`) and torch.compile (`_orig_mod.`) are
    dropped. The values may be tensors or arrays; those returned are NumPy arrays.

    weight, bias -> params `scale`, `bias`; running_mean, running_var -> batch_stats `mean`,
    `mean_lo` (what float32 cannot hold of a wider mean, else 0), `var`; num_batches_tracked ->
    norm_state `count`. Shapes: every leaf [C], float32; `count` [] int32.
    A layer with a weight or spectral norm -> params `kernel`, `bias`, `reparam.gain` or norm_state
    `reparam.u`, as `layers.conv` and `layers.dense` of `norms.build(name, kernel=...)` have them.

    In a module the norms are known by their classes. In a state dict a norm has running statistics,
    or a weight and a bias of one shape. `modules`: names or patterns ("layer?.*.bn*") instead of
    these rules. `paths`: module -> dotted path in Flax; the others keep their names.

    Raises ValueError for a shape that is not [C], for a name that matches nothing and for a path
    used twice. Leaves of a norm or a kernel scheme that have no place here are refused by name.
    Without `modules`, so are norms of classes that are not PyTorch's. So is a weight [C] alone in a
    state dict: it may be an RMS norm or a PReLU.

    >>> variables = from_torch({"bn.weight": [2.0, 3.0], "bn.bias": [0.0, 1.0]})
    >>> variables["params"]["bn"]["scale"].tolist()
    [2.0, 3.0]
    """
    return join_variables({n: leaves for n, (_, leaves) in find(source, modules).items()}, paths)


def to_torch(
    variables: Mapping[str, Any], *, paths: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Return the norms among Flax variables under PyTorch's names: the inverse of `from_torch`.

    A module is a norm where its parameters are `scale` and perhaps `bias`, or where it has only
    `mean` and `var`. Norms with other parameters, which PyTorch lacks, are left out, and so are
    kernels. `paths` is the mapping that `from_torch` takes, read from right to left. All leaves are
    float32; running_mean is mean + mean_lo; num_batches_tracked, int64, is there where `count` is.
    Raises ValueError for a leaf that is not [C] (members of a population go one by one), and as
    `from_torch` for `paths`.

    >>> arrays = to_torch({"params": {"bn": {"scale": np.ones(2), "bias": np.zeros(2)}}})
    >>> sorted(arrays)
    ['bn.bias', 'bn.weight']
    """
    params, stats, state = (by_module(variables.get(c, {})) for c in COLLECTIONS)
    legal = {"scale", "bias"}
    norms = [path for path, leaves in params.items() if {"scale"} <= set(leaves) <= legal]
    bare = (path for path, leaves in stats.items() if {"mean", "var"} <= set(leaves))
    norms += [path for path in bare if path not in params]
    back = {path: name for name, path in (paths or {}).items()}
    out = {}
    for path, name in renamed(norms, back).items():
        leaves = {**params.get(path, {}), **stats.get(path, {})}
        found = _to_torch(path, leaves)
        if "count" in state.get(path, {}):
            found[_COUNT] = np.array(state[path]["count"], np.int64)
        out.update({join(name, leaf): value for leaf, value in found.items()})
    return out


def _to_torch(path: str, leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    vectors = {k: np.asarray(v) for k, v in leaves.items()}
    refuse_shapes(path, vectors)
    if "mean_lo" in vectors:
        vectors["mean"] = vectors["mean"] + vectors.pop("mean_lo")
    names = _NORM.items()
    return {old: np.array(vectors[new], np.float32) for old, new in names if new in vectors}


def _array(value: Any) -> np.ndarray:
    """Return a tensor (of any device and type, bfloat16 too) or an array as NumPy's."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
    return np.asarray(value)


def _read(source: Any) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return module -> its leaves, and module -> the layer itself where `source` is a module."""
    while not hasattr(source, "named_modules"):
        inside = [key for key in _WRAPPERS if _holds_leaves(source.get(key))]
        if not inside:
            break
        if len(inside) > 1:
            raise ValueError(f"the checkpoint has {' and '.join(map(repr, inside))}; pass one")
        source = source[inside[0]]
    layers = dict(source.named_modules()) if hasattr(source, "named_modules") else {}
    state = {_bare(k): v for k, v in (source.state_dict() if layers else source).items()}
    keys, prefix = state.keys() - {"n_averaged"}, ""
    while keys and all(key.startswith(f"{prefix}module.") for key in keys):
        prefix += "module."
    found: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        if _holds_leaves(value):
            raise ValueError(f"{key!r} is no tensor; pass the state dict of the model alone")
        path, dot, leaf = key.removeprefix(prefix).rpartition("parametrizations.")
        if not dot:
            path, _, leaf = leaf.rpartition(".")
        leaf = _PARAMETRIZED.get(dot + leaf, dot + leaf)
        value = _array(value) if leaf in _KNOWN else value
        found.setdefault(path.removesuffix("."), {})[leaf] = value
    return found, {f"{_bare(n)}.".removeprefix(prefix)[:-1]: m for n, m in layers.items()}


def _holds_leaves(value: Any) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "named_modules")


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def find(source: Any, modules: Iterable[str] | None = None) -> dict[str, Found]:
    """Return the options (none from a state dict) and the variables of every norm and kernel."""
    state, layers = _read(source)
    known = {name: options for name, layer in layers.items() if (options := _options(layer))}
    found = choose({**state, **known}, modules)
    if modules is None:
        found = [n for n in found if n in known or _is_taken(n, state[n], layers.get(n))]
    out = {}
    for name in found:
        options, leaves = known.get(name, {}), state.get(name, {})
        if kernel := _kernel(name, leaves):
            out[name] = (
                {"name": "none", "kernel": kernel},
                _to_kernel(name, leaves, layers.get(name)),
            )
        else:
            if "use_running" in options and not _STATS & set(leaves):  # ours has them, unused
                zeros = np.zeros(layers[name].num_features)
                leaves = {**leaves, "running_mean": zeros, "running_var": zeros + 1}
            out[name] = _to_norm(name, leaves, options)
    return out


def _options(layer: Any) -> dict[str, Any]:
    """Return the options of `norms.build` for a norm of PyTorch, {} for another layer."""
    if is_a(layer, "torch", "_BatchNorm", "_InstanceNorm"):
        is_instance, epsilon = is_a(layer, "torch", "_InstanceNorm"), {"epsilon": layer.eps}
        if not layer.track_running_stats:
            unused = {"name": "batch", "use_running": False, "update_running": False}
            return epsilon | ({"name": "instance"} if is_instance else unused)
        batch = {"name": "instance_running" if is_instance else "batch", "running_var": "unbiased"}
        if layer.momentum is None and not is_instance:
            return batch | epsilon | {"average": "cumulative"}
        return batch | epsilon | {"momentum": 1 - (layer.momentum or 0.0)}  # None: never moves
    if is_a(layer, "torch", "LayerNorm"):
        return layer_norm(layer.normalized_shape) | {"epsilon": layer.eps}
    if is_a(layer, "torch", "GroupNorm"):
        return {"name": "group", "epsilon": layer.eps, "groups": layer.num_groups}
    if is_a(layer, "torch", "RMSNorm"):
        smallest = PRESETS["torch"]["rms"]["epsilon"]
        return {"name": "rms", "epsilon": smallest if layer.eps is None else layer.eps}
    if is_a(layer, "torch", "LocalResponseNorm"):
        options = ("size", "alpha", "beta", "k")
        return {"name": "local_response", **{o: getattr(layer, o) for o in options}}
    return {}


def _is_taken(name: str, leaves: dict[str, Any], layer: Any) -> bool:
    """Whether a module is a norm by its leaves, not by its class, or has a kernel scheme."""
    if _kernel(name, leaves):
        return True
    weight, bias = leaves.get("weight"), leaves.get("bias")
    is_like_one = bool(_STATS & set(leaves)) or {"gamma", "beta"} <= set(leaves)
    if weight is not None and not is_like_one:
        is_like_one = weight.ndim == 1 if bias is None else weight.shape == bias.shape
    if not is_like_one or is_a(layer, "torch", "PReLU"):
        return False
    if layer is not None:
        raise ValueError(
            f"{name or 'the module'}: {type(layer).__name__} has the leaves of a norm but is none "
            "of torch.nn; name the norms to be taken (modules=[...]) or pass the state dict"
        )
    if weight is not None and bias is None and not _STATS & set(leaves):
        raise ValueError(
            f"{name or 'the module'}: a weight of shape {weight.shape} without a bias may be an "
            "RMS norm or a PReLU; name the norms: modules=[...]"
        )
    return True


def _kernel(name: str, leaves: Iterable[str]) -> str:
    """Return the kernel scheme of a module, "" if it has none; raises ValueError for another."""
    leaves = set(leaves)
    for scheme, names in _KERNELS.items():
        if leaves - {"bias"} == names:
            return scheme
    own = {leaf for leaf in leaves if leaf.startswith("parametrizations.")}
    own |= leaves & {"weight_g", "weight_v"}
    own |= {leaf for leaf in leaves if leaf[-2:] == "_g" and f"{leaf[:-2]}_v" in leaves}
    own |= {leaf for leaf in leaves if leaf[-5:] == "_orig" and f"{leaf[:-5]}_mask" not in leaves}
    if own:
        raise ValueError(
            f"{name or 'the module'}: {min(own)} is no part of a weight or spectral norm of one "
            "weight; remove the reparametrization first, or name what to take: modules=[...]"
        )
    return ""


def _to_kernel(name: str, leaves: dict[str, Any], layer: Any) -> Leaves:
    is_own = is_a(layer, "torch", "Linear", "_ConvNd") and not is_a(
        layer, "torch", "_ConvTransposeNd"
    )
    if layer is not None and not is_own:
        raise ValueError(
            f"{name or 'the module'}: {type(layer).__name__} is no linear layer or convolution; "
            "remove the reparametrization first, or name what to take: modules=[...]"
        )
    bias = leaves.get("bias")
    if "weight_g" in leaves:
        return leaves_of_kernel(name, leaves["weight_v"], bias, gain=leaves["weight_g"])
    u, v = leaves["weight_u"], leaves["weight_v"]
    return leaves_of_kernel(name, leaves["weight_orig"], bias, u=u, v=v)


def _to_norm(name: str, leaves: dict[str, Any], options: dict[str, Any]) -> Found:
    """Return a norm; raises ValueError for a leaf that has no place in ours, or no counterpart."""
    extra = [leaf for leaf in leaves if leaf not in _NORM and leaf != "_extra_state"]
    if extra:
        raise ValueError(
            f"{name or 'the module'}: no place in a norm of ours for {', '.join(extra)}; rename "
            "what PyTorch calls otherwise, or leave the norm out: modules=[...]"
        )
    if len(_STATS & set(leaves)) == 1:
        raise ValueError(f"{name or 'the module'}: running_mean and running_var go together")
    given = {leaf: value for leaf, value in leaves.items() if leaf in _NORM}
    if not options:
        return {}, leaves_of_norm(name, given, _NORM)
    return with_leaves(name, options, given, _NORM)
