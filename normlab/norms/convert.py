"""`from_torch` and `to_torch`: parameters and state of norms between PyTorch and Flax.

    variables = norms.from_torch(model.state_dict(), paths={"layer1.0.bn1": "block_0.norm_1"})
    state = {k: torch.as_tensor(v) for k, v in norms.to_torch(variables).items()}

Neither function imports torch. PyTorch's momentum is 1 - ours, and its running variance is the
unbiased one: `norms.build(name, preset="torch")`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

_PARAMS = {"weight": "scale", "bias": "bias"}
_STATS = {"running_mean": "mean", "running_var": "var"}
_OURS = set(_PARAMS.values())
_COUNT = "num_batches_tracked"
_COLLECTIONS = ("params", "batch_stats", "norm_state")
_LEAVES = {*_PARAMS, *_STATS, _COUNT}


def from_torch(
    state_dict: Mapping[str, Any],
    *,
    modules: Iterable[str] | None = None,
    paths: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return Flax variables holding the norms of a PyTorch state dict, and nothing else of it.

    weight, bias -> params `scale`, `bias`; running_mean, running_var -> batch_stats `mean`,
    `mean_lo` (what float32 cannot hold of a wider mean, else 0), `var`; num_batches_tracked ->
    norm_state `count`. Shapes: every leaf [C], float32; `count` [] int32. The values may be
    tensors or arrays; those returned are NumPy arrays.

    A module is a norm where it has running statistics, or a weight and a bias of one shape.
    `modules`: the norms by name or pattern ("layer?.*.bn*") instead of that rule.
    `paths`: module -> dotted path in Flax; the others keep their names, split at the dots.
    Raises ValueError for a shape that is not [C], for a name that matches nothing and for a path
    used twice. A weight [C] alone may be an RMS norm or a PReLU: it is refused too, unless
    `modules` names it.

    >>> variables = from_torch({"bn.weight": [2.0, 3.0], "bn.bias": [0.0, 1.0]})
    >>> variables["params"]["bn"]["scale"].tolist()
    [2.0, 3.0]
    """
    known = {k: _array(v) for k, v in state_dict.items() if k.rpartition(".")[2] in _LEAVES}
    found = _by_module(known)
    names = _chosen(found, modules)
    out: dict[str, dict[str, Any]] = {collection: {} for collection in _COLLECTIONS}
    for name, path in _renamed(names, paths or {}).items():
        for collection, leaves in zip(_COLLECTIONS, _to_flax(name, found[name]), strict=True):
            out[collection].update({_join(path, leaf): value for leaf, value in leaves.items()})
    return {collection: unflatten_dict(flat, sep=".") for collection, flat in out.items() if flat}


def to_torch(
    variables: Mapping[str, Any], *, paths: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Return the norms among Flax variables under PyTorch's names: the inverse of `from_torch`.

    A module is a norm where its parameters are `scale` and perhaps `bias`, or where it has only
    `mean` and `var`. Norms with other parameters, which PyTorch lacks, are left out.
    `paths` is the mapping that `from_torch` takes, read from right to left. All leaves are float32;
    running_mean is mean + mean_lo; num_batches_tracked, int64, is there where `count` is.
    Raises ValueError for a leaf that is not [C] (members of a population go one by one), and as
    `from_torch` for `paths`.

    >>> arrays = to_torch({"params": {"bn": {"scale": np.ones(2), "bias": np.zeros(2)}}})
    >>> sorted(arrays)
    ['bn.bias', 'bn.weight']
    """
    params, stats, state = (_by_module(variables.get(c, {})) for c in _COLLECTIONS)
    norms = [path for path, leaves in params.items() if {"scale"} <= set(leaves) <= _OURS]
    bare = (path for path, leaves in stats.items() if {"mean", "var"} <= set(leaves))
    norms += [path for path in bare if path not in params]
    back = {path: name for name, path in (paths or {}).items()}
    out = {}
    for path, name in _renamed(norms, back).items():
        leaves = {**params.get(path, {}), **stats.get(path, {})}
        found = _to_torch(path, leaves)
        if "count" in state.get(path, {}):
            found[_COUNT] = np.array(state[path]["count"], np.int64)
        out.update({_join(name, leaf): value for leaf, value in found.items()})
    return out


def _to_flax(name: str, leaves: dict[str, np.ndarray]) -> tuple[dict[str, Any], ...]:
    """Return the leaves of one module in each of the three collections."""
    vectors = {k: v for k, v in leaves.items() if k != _COUNT}
    _refuse_shapes(name, vectors)
    stats = {
        new: np.array(vectors[old], np.float32) for old, new in _STATS.items() if old in vectors
    }
    if "mean" in stats:
        stats["mean_lo"] = np.array(vectors["running_mean"] - stats["mean"], np.float32)
    params = {
        new: np.array(vectors[old], np.float32) for old, new in _PARAMS.items() if old in vectors
    }
    count = {"count": np.array(leaves[_COUNT], np.int32)} if _COUNT in leaves else {}
    return params, stats, count


def _to_torch(path: str, leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    vectors = {k: np.asarray(v) for k, v in leaves.items()}
    _refuse_shapes(path, vectors)
    if "mean_lo" in vectors:
        vectors["mean"] = vectors["mean"] + vectors.pop("mean_lo")
    names = (_PARAMS | _STATS).items()
    return {old: np.array(vectors[new], np.float32) for old, new in names if new in vectors}


def _array(value: Any) -> np.ndarray:
    """Return a tensor (of any device and type, bfloat16 too) or an array as NumPy's."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
    return np.asarray(value)


def _chosen(found: dict[str, dict[str, np.ndarray]], wanted: Iterable[str] | None) -> list[str]:
    if wanted is None:
        return [name for name, leaves in found.items() if _is_norm(name, leaves)]
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
            raise ValueError(f"no module {pattern!r} (modules: {_some(found)})")
    return [name for name in found if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _is_norm(name: str, leaves: dict[str, np.ndarray]) -> bool:
    if set(_STATS) <= set(leaves):
        return True
    if "weight" not in leaves:
        return False
    weight = leaves["weight"]
    if "bias" in leaves:
        return weight.shape == leaves["bias"].shape
    if weight.ndim == 1:
        raise ValueError(
            f"{name or 'the module'}: a weight of shape {weight.shape} without a bias may be an "
            "RMS norm or a PReLU; name the norms: modules=[...]"
        )
    return False


def _refuse_shapes(name: str, vectors: Mapping[str, np.ndarray]) -> None:
    """Raise where the leaves of one module are not all [C] with the same C."""
    channels = {v.shape for v in vectors.values()}
    for leaf, value in vectors.items():
        if value.ndim != 1 or len(channels) > 1:
            raise ValueError(
                f"{name or 'the module'}: {leaf} has shape {value.shape}, but every leaf of a norm "
                f"must be [C] with one C (here: {sorted(channels)}); "
                "leave it out (modules=[...]) or bring it to [C] first"
            )


def _renamed(names: list[str], paths: Mapping[str, str]) -> dict[str, str]:
    """Return the new name of each, `paths` being those that change."""
    for name in paths:
        if name not in names:
            raise ValueError(f"paths: no norm {name!r} (norms: {_some(names)})")
    new = {name: paths.get(name, name) for name in names}
    for path in new.values():
        twins = [other for other in names if new[other] == path]
        if len(twins) > 1:
            raise ValueError(f"paths: {' and '.join(map(repr, twins))} both go to {path!r}")
    return new


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


def _by_module(tree: Any) -> dict[str, dict[str, Any]]:
    """Dotted path -> its own leaves, of a nested or a flat mapping."""
    modules: dict[str, dict[str, Any]] = {}
    for key, value in flatten_dict(dict(tree), sep=".").items():
        path, _, leaf = key.rpartition(".")
        modules.setdefault(path, {})[leaf] = value
    return modules
