"""`fold` and `fold_kernels`: the same network with fewer operations, for serving.

variables = norms.fold_kernels(variables, "weight_norm")
variables = norms.fold(variables, {"conv_1": "norm_1"}, epsilon=1e-5)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from normlab.layers.linear import kernel_scheme
from normlab.layers.table import find_kernel
from normlab.norms.convert.variables import by_module, choose, join, some


def fold(
    variables: Mapping[str, Any],
    layers: Mapping[str, str],
    *,
    epsilon: float,
    axis: int = -1,
) -> dict[str, Any]:
    """Return the variables of the network without these norms, for evaluation.

    kernel' = kernel * f and bias' = (bias - mean) * f + beta, f = scale / sqrt(var + epsilon), in
    float64. A scheme without a mean has mean 0, one without a variance has f = scale.
    `layers` gives each layer, by its dotted path, the norm that follows it directly. The network of
    the result is built without these norms (`norms.build("none")`) and with biases.

    Shapes: kernel [..., C] of a Conv, Dense or ConvTranspose; bias [C], added where there is none;
    scale, bias, mean, var [C]. `axis`: that of C in the kernel, -2 for Flax's
    `ConvTranspose(transpose_kernel=True)`. The leaves keep their types and are NumPy arrays.
    State: the norms' leaves are removed from every collection.
    epsilon: the norm's own.
    Raises ValueError for a path without a kernel and for a kernel scheme (see `fold_kernels`).
    Norms without running statistics, with further parameters or with another C are refused too.
    Source: arXiv:1712.05877, section 3.2. Deviation: none.

    >>> one = np.ones(1, np.float32)
    >>> params = {"dense": {"kernel": np.ones((2, 1), np.float32)}, "norm": {"scale": 6 * one}}
    >>> stats = {"norm": {"mean": one, "var": 4 * one}}
    >>> variables = {"params": params, "batch_stats": stats}
    >>> out = fold(variables, {"dense": "norm"}, epsilon=0.0)["params"]["dense"]
    >>> out["kernel"].tolist(), out["bias"].tolist()
    ([[3.0], [3.0]], [-3.0])
    """
    flat = {collection: by_module(tree) for collection, tree in variables.items()}
    params = flat.setdefault("params", {})
    for path, norm in layers.items():
        layer = _layer(path, flat)
        factor, shift = _affine(norm, flat, epsilon)
        kernel = np.asarray(layer["kernel"])
        bias = np.asarray(layer.get("bias", np.zeros(factor.shape, kernel.dtype)))
        channels = {"kernel": kernel.shape[axis], "bias": bias.shape[-1], norm: len(factor)}
        if len(set(channels.values())) > 1:
            raise ValueError(f"{path}: different numbers of channels, {channels}")
        wide = factor.reshape(-1, *(1 for _ in range(-1 - axis)))
        params[path] = {
            **layer,
            "kernel": (kernel * wide).astype(kernel.dtype),
            "bias": (bias * factor + shift).astype(bias.dtype),
        }
    return _nested(flat, drop=set(layers.values()))


def fold_kernels(
    variables: Mapping[str, Any],
    kernel: str,
    *,
    act: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    layers: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Return the variables of the network without its kernel scheme, for evaluation.

    Every kernel under the scheme becomes the kernel that the scheme puts in its place, by the
    scheme's own module. The network of the result is built with `kernel="none"`.

    `kernel`, `act`: as `norms.build` had them. `layers`: names or patterns ("conv_*") of the dotted
    paths; without them the layers that have parameters or state of a scheme. "standardize" has
    neither, so it needs them.
    Shapes: those of the layers. State: the scheme's leaves are removed from every collection.
    Raises ValueError where no layer, or a named one, does not have the leaves of the scheme.

    >>> kernel = np.array([[3.0], [4.0]], np.float32)
    >>> layer = {"kernel": kernel, "reparam": {"gain": np.full(1, 10.0)}}
    >>> out = fold_kernels({"params": {"dense": layer}}, "weight_norm")
    >>> np.round(out["params"]["dense"]["kernel"], 5).tolist()
    [[6.0], [8.0]]
    """
    row, scheme = find_kernel(kernel), kernel_scheme(kernel, act)
    flat = {collection: by_module(tree) for collection, tree in variables.items()}
    own = {*row.parameters, *(("u",) if row.has_state else ())}
    if scheme is None or (not own and layers is None):
        raise ValueError(f"kernel scheme {kernel!r} leaves no trace in the variables; name layers")
    params = flat.setdefault("params", {})
    with_kernel = {path: leaves for path, leaves in params.items() if "kernel" in leaves}
    chosen = choose(with_kernel, layers)
    if layers is None:
        chosen = {path: leaves for path, leaves in chosen.items() if _scheme(path, flat)}
    if not chosen:
        raise ValueError(f"no layer has a kernel scheme (layers: {some(with_kernel)})")
    for path, layer in chosen.items():
        if set(found := _scheme(path, flat)) != own:
            raise ValueError(f"{path}: its leaves are not those of the kernel scheme {kernel!r}")
        given = {"norm_state" if row.has_state else "params": found}
        new, _ = scheme().apply(given, layer["kernel"], None)
        params[path] = {**layer, "kernel": np.asarray(new)}
    return _nested(flat, drop={join(path, "reparam") for path in chosen})


def _scheme(path: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a layer's kernel scheme in all collections."""
    own = (modules.get(join(path, "reparam"), {}) for modules in flat.values())
    return {leaf: value for leaves in own for leaf, value in leaves.items()}


def _layer(path: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a layer; raises ValueError if it has no kernel or a kernel scheme."""
    params = flat["params"]
    if "kernel" not in params.get(path, {}):
        known = some(name for name, leaves in params.items() if "kernel" in leaves)
        raise ValueError(f"{path!r}: no layer with a kernel (layers: {known})")
    if _scheme(path, flat):
        raise ValueError(f"{path}: its kernel has a scheme; call norms.fold_kernels first")
    return params[path]


def _affine(norm: str, flat: Mapping[str, Any], epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return f and g [C], float64, of the norm as f * x + g."""
    params, stats = (flat.get(c, {}).get(norm, {}) for c in ("params", "batch_stats"))
    extra = set(params) - {"scale", "bias"}
    if extra or not stats:
        what = f"has {min(extra)} and is no batch norm" if extra else "has no running statistics"
        raise ValueError(f"{norm!r}: {what} (norms with them: {some(flat.get('batch_stats', {}))})")
    leaf = {name: np.asarray(value, np.float64) for name, value in {**params, **stats}.items()}
    ones = np.ones(next(iter(stats.values())).shape)
    factor = leaf.get("scale", ones) / (np.sqrt(leaf["var"] + epsilon) if "var" in leaf else 1.0)
    mean = leaf.get("mean", 0.0) + leaf.get("mean_lo", 0.0)
    return factor, leaf.get("bias", 0.0) - mean * factor


def _nested(flat: Mapping[str, Any], drop: set[str]) -> dict[str, Any]:
    """Return the collections as nested dicts, without these modules and without empty ones."""
    out = {
        collection: {
            join(path, leaf): np.asarray(value)
            for path, leaves in modules.items()
            if path not in drop
            for leaf, value in leaves.items()
        }
        for collection, modules in flat.items()
    }
    return {
        collection: unflatten_dict(leaves, sep=".") for collection, leaves in out.items() if leaves
    }
