"""`build`: from a row of the table to the callables that a network is made of."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from normlab.layers.convolutions import FORMS
from normlab.layers.factory import factory
from normlab.layers.linear import Conv, Dense, kernel_scheme
from normlab.norms.noise import Unmasked, disturbed
from normlab.norms.presets import preset_options
from normlab.norms.table import find_norm
from normlab.norms.updates import Branches


@dataclass(frozen=True)
class Layers:
    """What a network asks for: "a conv", "a norm", never "which norm".

    conv(features, kernel_init=..., name=...)(x), dense(...)(x), norm(name=...)(x, train=...),
    act(name=...)(x); head is the dense layer that ends a network, which no scheme touches.
    """

    conv: Callable[..., Any]
    dense: Callable[..., Any]
    head: Callable[..., Any]
    norm: Callable[..., Any]
    act: Callable[..., Any]


def plain_act(act: Any, name: str) -> Callable[[jax.Array], jax.Array]:
    """Return a function, or that of jax.nn with this name, in the place of a module."""
    del name
    return getattr(jax.nn, act) if isinstance(act, str) else act


def replaced_act(act: str, options: dict[str, Any]) -> Callable[..., Any]:
    """Return the module that a row names for activations, with the norm's axis of channels."""
    axis = {"axis": options["axis"]} if "axis" in options else {}
    return factory(module_of(act), **axis)


def module_of(module: Any) -> Callable[..., Any]:
    """Return the Linen class that a row names as "package.file:Class", imported now."""
    return pkgutil.resolve_name(module) if isinstance(module, str) else module


def build(
    name: str,
    *,
    act: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    conv_form: str = "patches",
    kernel: str = "none",
    kernel_start: str = "data",
    noise: float = 0.0,
    branches: tuple[str, ...] = (),
    preset: str = "",
    **options: Any,
) -> Layers:
    """Return the layers of the scheme `name`, with `options` such as epsilon, momentum or groups.

    `kernel` names a scheme for the kernels of conv and dense; `kernel_start` is the `start` of
    WeightNorm. `noise` > 0 disturbs the output of the norm (see Noise). `branches` names several
    sets of parameters and statistics (see Branches). `preset` ("flax", "torch", "keras") sets the
    options with which the norm is that library's default layer; `options` override it.
    Raises ValueError for an unknown name, and for an option that the scheme does not take.

    >>> layers = build("group", groups=2, epsilon=1e-5)
    >>> layers.norm(name="norm_1").groups
    2
    """
    row = find_norm(name)
    module = module_of(row.module)
    fields = getattr(module, "__dataclass_fields__", {})
    legal = row.options + row.arguments + tuple(a for a in row.shared if a in fields)
    for option in options:
        if option not in legal:
            takes = ", ".join(legal) or "no options"
            raise ValueError(f"norm {name!r} takes no option {option!r} (it takes {takes})")
    if conv_form not in FORMS:
        raise ValueError(f"unknown conv_form {conv_form!r} (forms: {', '.join(FORMS)})")
    preset_arguments = preset_options(preset, name) if preset else {}
    arguments = {**preset_arguments, **row.fixed, **options}
    if "over" in fields:
        arguments["over"] = row.over
    norm = factory(module, **arguments)
    norm = norm if row.takes_masks else factory(Unmasked, norm=norm)
    if branches:
        norm = factory(Branches, norm=norm, names=tuple(branches))
    reparam = kernel_scheme(kernel, act, kernel_start)
    # A function of jax.nn is kept by its name, because it cannot be pickled itself.
    named = act.__name__ if getattr(jax.nn, getattr(act, "__name__", ""), None) is act else act
    return Layers(
        conv=factory(Conv, form=conv_form, reparam=reparam),
        dense=factory(Dense, reparam=reparam),
        head=Dense,
        norm=factory(disturbed, norm=norm, strength=noise) if noise else norm,
        act=replaced_act(row.act, options) if row.act else factory(plain_act, act=named),
    )


def adopt(batch_stats: Any) -> Any:
    """Return Flax's `batch_stats` with a leaf `mean_lo` = 0 for every `mean`."""
    if not isinstance(batch_stats, Mapping):
        return batch_stats
    out = {name: adopt(leaf) for name, leaf in batch_stats.items()}
    if "mean" in out:
        out.setdefault("mean_lo", jnp.zeros_like(out["mean"]))
    return out


def release(batch_stats: Any) -> Any:
    """Return `batch_stats` as Flax knows it: every leaf `mean_lo` is rounded into its `mean`."""
    if not isinstance(batch_stats, Mapping):
        return batch_stats
    out = {name: release(leaf) for name, leaf in batch_stats.items()}
    if "mean_lo" in out:
        out["mean"] = out["mean"] + out.pop("mean_lo")
    return out
