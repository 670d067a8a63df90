"""What the converters share: from named leaves of another library to Flax variables."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from normlab.norms.table import find_norm

T = TypeVar("T")
COLLECTIONS = {
    "params": ("scale", "bias"),
    "batch_stats": ("mean", "mean_lo", "var"),
    "norm_state": ("count",),
}
Leaves = dict[str, dict[str, Any]]
"""Collection -> leaf, dotted, -> array: the variables of one layer."""


Found = tuple[dict[str, Any], Leaves]
"""The options of `norms.build` and the variables of one layer."""


def with_leaves(
    name: str, options: Mapping[str, Any], given: Mapping[str, Any], ours: Mapping[str, str]
) -> Found:
    """Return a norm with its variables; its options say which parameters it has.

    With the option `per_element` the leaves given are [C, ...], those returned [..., C].
    """
    kept = {leaf: value for leaf, value in given.items() if value is not None}
    has, usual = {ours[leaf] for leaf in kept}, find_norm(options["name"]).parameters
    changed = [leaf for leaf in COLLECTIONS["params"] if (leaf in has) != (leaf in usual)]
    options = {**options, **{f"use_{leaf}": leaf in has for leaf in changed}}
    if not options.get("per_element"):
        return options, leaves_of_norm(name, kept, ours)
    moved = {ours[k]: np.array(np.moveaxis(v, 0, -1), np.float32) for k, v in kept.items()}
    return options, {"params": moved}


def layer_norm(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the options of a layer norm over the axes [C] or [C, H, W, ...].

    Two axes may be [C, T] or [T, C]: their parameters are refused for their shape.
    """
    if len(shape) == 1:
        return {"name": "layer_channels"}
    return {"name": "layer"} | ({"per_element": True} if len(shape) > 2 else {})


def leaves_of_norm(name: str, given: Mapping[str, Any], ours: Mapping[str, str]) -> Leaves:
    """Return the variables of one norm; `ours` translates the names of the leaves.

    `mean_lo` is what float32 cannot hold of a wider mean. Leaves are float32, `count` is int32.
    Raises ValueError where a leaf other than the count is not [C], with one C.
    """
    named = {ours[leaf]: np.asarray(value) for leaf, value in given.items()}
    refuse_shapes(name, {leaf: value for leaf, value in given.items() if ours[leaf] != "count"})
    if "mean" in named:
        named["mean_lo"] = named["mean"] - named["mean"].astype(np.float32)
    return {
        collection: {
            leaf: np.array(named[leaf], np.int32 if leaf == "count" else np.float32)
            for leaf in leaves
            if leaf in named
        }
        for collection, leaves in COLLECTIONS.items()
    }


def join_variables(found: Mapping[str, Leaves], paths: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the layers as nested variables; `paths` gives some of them other places."""
    out: Leaves = {collection: {} for collection in COLLECTIONS}
    for name, path in renamed(list(found), paths or {}).items():
        for collection, leaves in found[name].items():
            out[collection].update({join(path, leaf): value for leaf, value in leaves.items()})
    return {collection: unflatten_dict(flat, sep=".") for collection, flat in out.items() if flat}


def choose(found: Mapping[str, T], wanted: Iterable[str] | None) -> dict[str, T]:
    """Return those whose names match one of the patterns, all if there are none; raises ValueError
    for a pattern that matches nothing."""
    patterns = [wanted] if isinstance(wanted, str) else ["*"] if wanted is None else list(wanted)
    for pattern in patterns if wanted is not None else ():
        if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
            raise ValueError(f"no module {pattern!r} (modules: {some(found)})")
    return {
        name: value
        for name, value in found.items()
        if any(fnmatch.fnmatchcase(name, p) for p in patterns)
    }


def refuse_shapes(name: str, vectors: Mapping[str, Any]) -> None:
    """Raise where the leaves of one module are not all [C] with the same C."""
    channels = {np.shape(v) for v in vectors.values()}
    for leaf, value in vectors.items():
        if np.ndim(value) != 1 or len(channels) > 1:
            raise ValueError(
                f"{name or 'the module'}: {leaf} has shape {np.shape(value)}, but every leaf of a "
                f"norm must be [C] with one C (here: {sorted(channels)}); "
                "leave it out (modules=[...]) or bring it to [C] first"
            )


def renamed(names: list[str], paths: Mapping[str, str]) -> dict[str, str]:
    """Return the new name of each, `paths` being those that change."""
    for name in paths:
        if name not in names:
            raise ValueError(f"paths: no norm {name!r} (norms: {some(names)})")
    new = {name: paths.get(name, name) for name in names}
    for path in new.values():
        twins = [other for other in names if new[other] == path]
        if len(twins) > 1:
            raise ValueError(f"paths: {' and '.join(map(repr, twins))} both go to {path!r}")
    return new


def some(names: Iterable[str]) -> str:
    """Return the first names for a message."""
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def join(path: str, leaf: str) -> str:
    """Return the dotted path of a leaf."""
    return f"{path}.{leaf}" if path else leaf


def by_module(tree: Any) -> dict[str, dict[str, Any]]:
    """Dotted path -> its own leaves, of a nested or a flat mapping."""
    modules: dict[str, dict[str, Any]] = {}
    for key, value in flatten_dict(dict(tree), sep=".").items():
        path, _, leaf = key.rpartition(".")
        modules.setdefault(path, {})[leaf] = value
    return modules


def is_a(layer: Any, library: str, *names: str) -> bool:
    """Whether a class of `library` with one of these names is among the bases of the layer."""
    return any(
        cls.__name__ in names and cls.__module__.partition(".")[0] == library
        for cls in type(layer).__mro__
    )
