"""`build`: from a row of the table to the callables that a network is made of."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normlab.norms.kernels import FORMS, Conv, Dense
from normlab.norms.table import Norm, find_norm


@dataclass(frozen=True)
class Layers:
    """What a network asks for: "a conv", "a norm", never "which norm".

    conv(features, kernel_init=..., name=...)(x), dense(...)(x), norm(name=...)(x, train=...),
    act(name=...)(x).
    """

    conv: Callable[..., Any]
    dense: Callable[..., Any]
    norm: Callable[..., Any]
    act: Callable[..., Any]


def named_act(act: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """Return a factory act(name=...) for a plain function, which has no use for a name."""

    def make(*, name: str) -> Callable[[jax.Array], jax.Array]:
        del name
        return act

    return make


def module_of(row: Norm) -> Callable[..., Any]:
    """Return the Linen class of a row, imported now."""
    if not isinstance(row.module, str):
        return row.module
    file, _, name = row.module.partition(":")
    return getattr(importlib.import_module(file), name)


def build(
    name: str,
    *,
    act: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    conv_form: str = "patches",
    **options: Any,
) -> Layers:
    """Return the layers of the scheme `name`, with `options` such as epsilon, momentum or groups.

    Raises ValueError for an unknown name, and for an option that the scheme does not take.

    >>> layers = build("group", groups=2, epsilon=1e-5)
    >>> layers.norm(name="norm_1").groups
    2
    """
    row = find_norm(name)
    for option in options:
        if option not in row.options:
            takes = ", ".join(row.options) or "no options"
            raise ValueError(f"norm {name!r} takes no option {option!r} (it takes {takes})")
    if conv_form not in FORMS:
        raise ValueError(f"unknown conv_form {conv_form!r} (forms: {', '.join(FORMS)})")
    module = module_of(row)
    arguments = {**row.fixed, **options}
    if "over" in getattr(module, "__dataclass_fields__", {}):
        arguments["over"] = row.over
    return Layers(
        conv=partial(Conv, form=conv_form),
        dense=Dense,
        norm=partial(module, **arguments),
        act=named_act(act),
    )


def adopt(batch_stats: Any) -> Any:
    """Return Flax's `batch_stats` with the leaf `mean_lo` = 0 added beside every `mean`."""
    if not isinstance(batch_stats, Mapping):
        return batch_stats
    out = {name: adopt(leaf) for name, leaf in batch_stats.items()}
    if "mean" in out and "mean_lo" not in out:
        out["mean_lo"] = jnp.zeros_like(out["mean"])
    return out


def release(batch_stats: Any) -> Any:
    """Return `batch_stats` as Flax knows it: every leaf `mean_lo` rounded into its `mean`."""
    if not isinstance(batch_stats, Mapping):
        return batch_stats
    out = {name: release(leaf) for name, leaf in batch_stats.items()}
    if "mean_lo" in out:
        out["mean"] = out["mean"] + out.pop("mean_lo")
    return out
