"""The same layers in other libraries, under one signature.

A library is imported when it is asked for. All layers have the same epsilon, scale 1 and bias 0,
keep the input's dtype and get x [N, ..., C]. Where a library has no such layer, there is None.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from normlab.norms.builder import build
from normlab.norms.table import find_norm

OWN = "normlab"
Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(x, cotangent) -> (y, dx), in training mode."""
MOMENTUM = 0.9
STATE = ["batch_stats", "norm_state"]


class Layer(NamedTuple):
    """A layer that is asked of a library."""

    scheme: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    epsilon: float = 1e-5
    groups: int = 1


class Linen(NamedTuple):
    """A Linen layer in training mode: apply(variables, x, mask) -> (y, the state it leaves)."""

    variables: Any
    apply: Callable[..., tuple[jax.Array, Any]]


def nothing() -> None:
    """Make the layer that a library does not have."""


def differentiate(forward: Callable[[jax.Array], jax.Array]) -> Run:
    """Return the compiled pair of output and VJP of `forward`."""

    @jax.jit
    def both(x, cotangent):
        y, backward = jax.vjp(forward, x)
        return y, backward(cotangent.astype(y.dtype))[0]

    def run(x, cotangent):
        y, dx = both(jnp.asarray(x), jnp.asarray(cotangent))
        return np.asarray(y), np.asarray(dx)

    return run


def _linen(module: nn.Module, layer: Layer, mode: dict[str, Any]) -> Linen:
    x = jnp.zeros(layer.shape, layer.dtype)
    variables = dict(jax.jit(lambda x: module.init(jax.random.key(0), x, **mode))(x))

    def apply(variables, x, mask=None):
        masked = mode if mask is None else mode | {"mask": mask}
        return module.apply(variables, x, mutable=STATE, **masked)

    return Linen(variables, apply)


def own_layer(layer: Layer, **options: Any) -> Linen:
    """Return normlab's layer of any scheme; `options` beyond epsilon, groups and momentum."""
    wanted = dict(epsilon=layer.epsilon, groups=layer.groups, momentum=MOMENTUM)
    taken = {k: v for k, v in wanted.items() if k in find_norm(layer.scheme).options}
    module = build(layer.scheme, **taken, **options).norm(name="norm")
    return _linen(module, layer, {"train": True})


def flax_module(layer: Layer, fast: bool = True) -> nn.Module | None:
    """Return Flax's layer in training mode; `fast`: with the variance as E[x^2] - E[x]^2."""
    common: dict[str, Any] = dict(
        epsilon=layer.epsilon, dtype=layer.dtype, use_fast_variance=fast, name="norm"
    )
    whole = tuple(range(1, len(layer.shape)))
    makers = {
        "batch": lambda: nn.BatchNorm(use_running_average=False, momentum=MOMENTUM, **common),
        "layer": lambda: nn.LayerNorm(reduction_axes=whole, **common),
        "layer_channels": lambda: nn.LayerNorm(**common),
        "group": lambda: nn.GroupNorm(num_groups=layer.groups, **common),
        "instance": lambda: nn.InstanceNorm(**common),
        "rms": lambda: nn.RMSNorm(**common),
    }
    return makers.get(layer.scheme, nothing)()


def flax_layer(layer: Layer, fast: bool = True) -> Linen | None:
    module = flax_module(layer, fast)
    return None if module is None else _linen(module, layer, {})


def _run(linen: Linen | None) -> Run | None:
    return linen and differentiate(lambda x: linen.apply(linen.variables, x)[0])


def _equinox(layer: Layer) -> Run | None:
    nn_ = importlib.import_module("equinox.nn")
    shape, channels, eps = layer.shape, layer.shape[-1], layer.epsilon

    def channels_first(of_one):
        return lambda x: jnp.moveaxis(of_one(jnp.moveaxis(x, -1, 1)), 1, -1)

    def per_sample(module, first=False):
        each = jax.vmap(module)
        return differentiate(channels_first(each) if first else each)

    if layer.scheme == "batch":
        module, state = nn_.make_with_state(nn_.BatchNorm)(
            channels, axis_name="batch", eps=eps, mode="batch", dtype=jnp.dtype(layer.dtype)
        )
        each = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return differentiate(channels_first(lambda x: each(x, state)[0]))
    makers = {
        "layer": lambda: per_sample(nn_.LayerNorm(shape[1:], eps=eps)),
        "layer_channels": lambda: per_sample(nn_.LayerNorm(channels, eps=eps)),
        "rms": lambda: per_sample(nn_.RMSNorm(channels, eps=eps)),
        "group": lambda: per_sample(nn_.GroupNorm(layer.groups, channels, eps=eps), first=True),
    }
    if layer.scheme in ("layer_channels", "rms") and len(shape) != 2:
        return None  # its layer takes one example [C]
    return makers.get(layer.scheme, nothing)()


def _haiku(layer: Layer) -> Run | None:
    hk, eps = importlib.import_module("haiku"), layer.epsilon
    whole = tuple(range(1, len(layer.shape)))
    makers = {
        "batch": lambda x: hk.BatchNorm(True, True, MOMENTUM, eps=eps)(x, is_training=True),
        "layer": lambda x: hk.LayerNorm(whole, True, True, eps=eps, param_axis=-1)(x),
        "layer_channels": lambda x: hk.LayerNorm(-1, True, True, eps=eps)(x),
        "group": lambda x: hk.GroupNorm(layer.groups, eps=eps)(x),
        "instance": lambda x: hk.InstanceNorm(True, True, eps=eps)(x),
        "rms": lambda x: hk.RMSNorm(-1, eps=eps)(x),
    }
    if layer.scheme not in makers:
        return None
    net = hk.transform_with_state(makers[layer.scheme])
    params, state = jax.jit(net.init)(jax.random.key(0), jnp.zeros(layer.shape, layer.dtype))
    return differentiate(lambda x: net.apply(params, state, None, x)[0])


def torch_module(layer: Layer) -> Any:
    """Return PyTorch's layer, for x with the channels second where it averages over space."""
    torch, eps = importlib.import_module("torch"), layer.epsilon
    channels, dense = layer.shape[-1], len(layer.shape) == 2
    of_batch = torch.nn.BatchNorm1d if dense else torch.nn.BatchNorm2d
    makers = {
        "batch": lambda: of_batch(channels, eps=eps, momentum=1 - MOMENTUM),
        "layer": lambda: torch.nn.LayerNorm((channels, *layer.shape[1:-1]), eps=eps),
        "layer_channels": lambda: torch.nn.LayerNorm(channels, eps=eps),
        "group": lambda: torch.nn.GroupNorm(layer.groups, channels, eps=eps),
        "instance": lambda: torch.nn.InstanceNorm2d(channels, eps=eps, affine=True),
        "rms": lambda: torch.nn.RMSNorm(channels, eps=eps),
    }
    module = makers.get(layer.scheme, nothing)()
    return module and module.to(getattr(torch, layer.dtype))


def torch_input(layer: Layer, x: np.ndarray) -> Any:
    """Return x as PyTorch's layer takes it: contiguous, channels second unless it is over C."""
    torch = importlib.import_module("torch")
    value = torch.tensor(np.asarray(x).astype(np.float32)).to(getattr(torch, layer.dtype))
    if find_norm(layer.scheme).over != ("C",):
        value = value.movedim(-1, 1).contiguous()
    return value


def torch_output(layer: Layer, value: Any) -> np.ndarray:
    if find_norm(layer.scheme).over != ("C",):
        value = value.movedim(1, -1)
    return value.detach().float().numpy()


def _torch(layer: Layer) -> Run | None:
    module = torch_module(layer)
    if module is None:
        return None

    def run(x, cotangent):
        value = torch_input(layer, x).requires_grad_(True)
        y = module(value)
        y.backward(torch_input(layer, cotangent))
        return torch_output(layer, y), torch_output(layer, value.grad)

    return run


def import_keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it when it is imported
    return importlib.import_module("keras")


def keras_module(layer: Layer) -> Any:
    """Return Keras's layer, built; its policy keeps the parameters in float32."""
    keras = import_keras()
    if keras.backend.backend() != "jax":
        raise ImportError("Keras runs on another backend: set KERAS_BACKEND=jax")
    layers, eps = keras.layers, layer.epsilon
    policy = "float32" if layer.dtype == "float32" else f"mixed_{layer.dtype}"
    makers = {
        "batch": lambda: layers.BatchNormalization(epsilon=eps, momentum=MOMENTUM, dtype=policy),
        "layer": lambda: layers.GroupNormalization(1, epsilon=eps, dtype=policy),
        "layer_channels": lambda: layers.LayerNormalization(epsilon=eps, dtype=policy),
        "group": lambda: layers.GroupNormalization(layer.groups, epsilon=eps, dtype=policy),
        "instance": lambda: layers.GroupNormalization(-1, epsilon=eps, dtype=policy),
        "rms": lambda: layers.RMSNormalization(epsilon=eps, dtype=policy),
    }
    module = makers.get(layer.scheme, nothing)()
    if module is not None:
        module.build(layer.shape)
    return module


def _keras(layer: Layer) -> Run | None:
    module = keras_module(layer)
    if module is None:
        return None
    trained = [v.value for v in module.trainable_variables]
    state = [v.value for v in module.non_trainable_variables]
    mode = {"training": True} if layer.scheme == "batch" else {}
    return differentiate(lambda x: module.stateless_call(trained, state, x, **mode)[0])


TITLES = {
    OWN: "normlab",
    "flax": "Flax",
    "flax-2pass": "Flax, 2 passes",
    "equinox": "Equinox",
    "haiku": "Haiku",
    "torch": "PyTorch",
    "keras": "Keras (jax)",
}
MAKERS: dict[str, Callable[[Layer], Run | None]] = {
    OWN: lambda layer: _run(own_layer(layer)),
    "flax": lambda layer: _run(flax_layer(layer)),
    "flax-2pass": lambda layer: _run(flax_layer(layer, fast=False)),
    "equinox": _equinox,
    "haiku": _haiku,
    "torch": _torch,
    "keras": _keras,
}
"""They raise ValueError where the library refuses a layer."""


@functools.cache
def prepare(library: str, layer: Layer) -> Run | None:
    """Return the compiled layer of a library, made once."""
    return MAKERS[library](layer)
