"""`from_haiku`: parameters and state of norms from Haiku to Flax; Haiku is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from normlab.norms.convert.variables import Leaves, choose, join_variables, leaves_of_norm

_NORM = {
    "scale": "scale",
    "offset": "bias",
    "mean_ema average": "mean",
    "var_ema average": "var",
    "mean_ema counter": "count",
}
_AVERAGES = ("/~/mean_ema", "/~/var_ema")


def from_haiku(
    params: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    *,
    modules: Iterable[str] | None = None,
    paths: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return Flax variables holding the norms of a Haiku model, and nothing else of it.

    scale, offset -> params `scale`, `bias`; mean_ema, var_ema -> batch_stats `mean`, `mean_lo`,
    `var` from their `average`, and norm_state `count` from their counter. With
    `average="debiased"` our batch norm continues where Haiku's was. Shapes: every leaf [C]
    ([1, ..., C] in Haiku), float32 arrays of NumPy.

    Haiku's epsilon, decay rate and groups are in the code of the model, not in its parameters. Give
    them to `norms.build`, and `use_scale=False` or `use_bias=False` where a leaf is absent.
    A module is a norm where its parameters are scale, offset or both, or where it has averages.
    A norm's name is its path, "net/~/norm" as "net.norm". `modules`: names or patterns of the
    norms to take. `paths`: name -> dotted path in Flax.
    Raises ValueError by name for further parameters of a norm and for a spectral norm. Errors of
    `modules` and `paths` are those of `from_torch`.

    >>> params = {"net/~/norm": {"scale": np.ones(2), "offset": np.zeros(2)}}
    >>> from_haiku(params)["params"]["net"]["norm"]["bias"].tolist()
    [0.0, 0.0]
    """
    norms: dict[str, dict[str, Any]] = {
        path: dict(leaves) for path, leaves in params.items() if {"scale", "offset"} & set(leaves)
    }
    for path, leaves in (state or {}).items():
        if set(leaves) == {"u0", "sigma"}:
            norms[path] = dict(leaves)
        if path.endswith(_AVERAGES):
            owner, _, name = path.rpartition("/~/")
            found = {f"{name} {leaf}": leaves[leaf] for leaf in ("average", "counter")}
            norms.setdefault(owner, {}).update(found)
    names: dict[str, str] = {}
    for path in norms:
        name = ".".join(part for part in path.split("/") if part != "~")
        if name in names:
            raise ValueError(f"{path} and {names[name]} would both be {name}; rename one")
        names[name] = path
    chosen = choose(names, modules)
    return join_variables(
        {name: _convert(name, norms[path]) for name, path in chosen.items()}, paths
    )


def _convert(name: str, leaves: dict[str, Any]) -> Leaves:
    leaves.pop("var_ema counter", None)
    strange = set(leaves) - set(_NORM)
    if strange:
        what = "a spectral norm" if "sigma" in strange else f"a norm with {min(strange)}"
        raise ValueError(f"{name}: {what} has no equivalent here; leave it out: modules=[...]")
    return leaves_of_norm(name, {leaf: _vector(value) for leaf, value in leaves.items()}, _NORM)


def _vector(value: Any) -> Any:
    """Return [1, ..., C] or [1, C, 1, ...] as [C]."""
    value = np.asarray(value)
    return value.reshape(-1) if value.ndim and value.size == max(value.shape) else value
