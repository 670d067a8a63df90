"""Normalization layers of other libraries behind one call, so that one measurement fits them all.

A library is imported when it is asked for. Inputs are [N, ..., C] for everyone. Each class brings
them into its library's form and keeps the input's dtype.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer

from normlab.norms.builder import build
from normlab.norms.table import find_norm
from normlab.testing.cases import DTYPES

OWN = "normlab"
MOMENTUM = 0.9
STATE = ["batch_stats", "norm_state"]
Shapes = dict[str, tuple[int, ...]]


class Peer:
    """One layer and its state: peer(x, train) -> y; `train` None leaves the switch out."""

    switch = ""
    """The argument that switches training on or off."""
    has_mask = False
    moving: Any = None
    """The state, as its library has it."""

    def __init__(self, make: Callable[[], Any], x: np.ndarray):
        """`x`: an input of the shape and dtype that the layer will get."""
        del x
        self.layer = make()

    def forward(self, x: Any, train: bool | None, mask: Any = None) -> tuple[Any, Any]:
        """Return y and the state that the layer leaves; nothing moves."""
        raise NotImplementedError

    def keep(self, state: Any) -> None:
        self.moving = state

    def __call__(self, x: Any, train: bool | None = True, mask: Any = None) -> Any:
        """Return y; `mask` is [N, H, W, 1]. In a transformation of jax no state moves."""
        y, state = self.forward(x, train, mask)
        if not isinstance(y, Tracer):
            self.keep(state)
        return y

    @functools.cached_property
    def gradient(self) -> Callable[..., Any]:
        """(x, cotangent) -> (y, dx) in training, compiled; no state moves."""

        @jax.jit
        def both(x, cotangent):
            y, backward = jax.vjp(lambda x: self.forward(x, True)[0], x)
            return y, backward(cotangent.astype(y.dtype))[0]

        return both

    def flags(self, function: Any, train: bool | None) -> dict[str, Any]:
        """Return the switch as an argument of `function`, if it takes one."""
        has_switch = self.switch in inspect.signature(function).parameters
        return {self.switch: train} if train is not None and has_switch else {}

    def shapes(self) -> tuple[Shapes, Shapes]:
        """Return name -> shape of the parameters, and of the state."""
        raise NotImplementedError


def leaf_shapes(tree: Any) -> Shapes:
    return {str(path[-1].key): v.shape for path, v in jax.tree.leaves_with_path(tree)}


class Normlab(Peer):
    """A Linen layer whose variables are `params` and `moving`."""

    switch = "train"
    has_mask = True

    def __init__(self, make, x):
        self.layer = make()
        init = functools.partial(self.layer.init, **self.flags(self.layer, True))
        self.moving = dict(jax.jit(init)(jax.random.key(0), x))
        self.params = self.moving.pop("params", {})
        self.compiled = jax.jit(self.apply, static_argnums=2)

    def apply(self, variables: Any, x: Any, train: bool | None = True, mask: Any = None) -> Any:
        """Return y and the state that is left of `variables`."""
        flags = self.flags(self.layer, train)
        return self.layer.apply(variables, x, mask=mask, mutable=STATE, **flags)

    def forward(self, x, train, mask=None):
        y, moved = self.compiled({"params": self.params, **self.moving}, x, train, mask)
        return y, {**self.moving, **moved}

    def shapes(self):
        return leaf_shapes(self.params), leaf_shapes(self.moving)


class Flax(Normlab):
    switch = "use_running_average"

    def flags(self, function, train):
        return super().flags(function, None if train is None else not train)


class Torch(Peer):
    switch = "train() / eval()"

    def __init__(self, make, x):
        self.torch = importlib.import_module("torch")
        self.dtype = getattr(self.torch, str(x.dtype))
        self.layer = make().to(self.dtype)
        # a layer over C alone sees the last axis
        self.is_second = len(getattr(self.layer, "normalized_shape", ("C", "H"))) > 1

    def tensor(self, x: Any) -> Any:
        """Return x as the layer takes it: contiguous, channels second unless it is over C."""
        value = self.torch.tensor(np.asarray(x).astype(np.float32)).to(self.dtype)
        return value.movedim(-1, 1).contiguous() if self.is_second else value

    def array(self, value: Any) -> np.ndarray:
        value = value.movedim(1, -1) if self.is_second else value
        return value.detach().float().numpy()

    def __call__(self, x, train=True, mask=None):
        if train is not None:
            self.layer.train(train)
        return self.array(self.layer(self.tensor(x)))

    def gradient(self, x, cotangent):  # pyright: ignore[reportIncompatibleVariableOverride]
        value = self.tensor(x).requires_grad_(True)
        y = self.layer(value)
        y.backward(self.tensor(cotangent))
        return self.array(y), self.array(value.grad)

    def shapes(self):
        named = dict(self.layer.named_parameters()), dict(self.layer.named_buffers())
        parameters, state = ({k: tuple(v.shape) for k, v in group.items()} for group in named)
        return parameters, state


def import_keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it when it is imported
    return importlib.import_module("keras")


class Keras(Peer):
    switch = "training"

    def __init__(self, make, x):
        config = import_keras().config
        if config.backend() != "jax":
            raise ImportError("Keras runs on another backend: set KERAS_BACKEND=jax")
        before = config.dtype_policy()
        if x.dtype != np.float32:  # else the layer gets its input in float32
            config.set_dtype_policy(f"mixed_{x.dtype}")
        self.layer = make()
        config.set_dtype_policy(before)
        self.layer.build(x.shape)
        self.has_mask = "mask" in inspect.signature(self.layer.call).parameters

    def forward(self, x, train, mask=None):
        flags = self.flags(self.layer.call, train)
        if mask is not None:
            flags["mask"] = mask[..., 0]
        values = [[v.value for v in group] for group in self.variables()]
        return self.layer.stateless_call(*values, x, **flags)

    def variables(self) -> tuple[Any, Any]:
        return self.layer.trainable_variables, self.layer.non_trainable_variables

    def keep(self, state):
        for variable, value in zip(self.variables()[1], state, strict=True):
            variable.assign(value)

    def shapes(self):
        parameters, state = ({v.name: tuple(v.shape) for v in group} for group in self.variables())
        return parameters, state


class Haiku(Peer):
    switch = "is_training"

    def __init__(self, make, x):
        def run(x, train):
            layer = make()
            return layer(x, **self.flags(layer.__call__, train))

        self.function = importlib.import_module("haiku").transform_with_state(run)
        self.weights, self.moving = self.function.init(jax.random.key(0), x, True)

    def forward(self, x, train, mask=None):
        return self.function.apply(self.weights, self.moving, None, x, train)

    def shapes(self):
        state = {
            f"{name.split('/')[-1]} {leaf}": value.shape
            for name, leaves in self.moving.items()
            for leaf, value in leaves.items()
        }
        return leaf_shapes(self.weights), state


class Equinox(Peer):
    switch = "inference"

    def __init__(self, make, x):
        super().__init__(make, x)
        self.nn = importlib.import_module("equinox").nn
        self.moving = self.nn.State(self.layer)

    def forward(self, x, train, mask=None):
        x, state = jnp.moveaxis(jnp.asarray(x), -1, 1), self.moving
        if hasattr(self.layer, "axis_name"):
            flags = {} if train is None else {self.switch: not train}
            each, axes = functools.partial(self.layer, **flags), (0, None)
            y, state = jax.vmap(each, axes, axes, axis_name=self.layer.axis_name)(x, state)
        else:
            y = jax.vmap(self.layer)(x)
        return jnp.moveaxis(y, 1, -1), state

    def shapes(self):
        found = {name: getattr(self.layer, name) for name in ("weight", "bias")}
        parameters = {name: value.shape for name, value in found.items() if value is not None}
        state = {}
        for name, index in vars(self.layer).items():
            if isinstance(index, self.nn.StateIndex):
                parts = jax.tree.leaves(self.moving.get(index))
                names = [name] if len(parts) == 1 else [f"{name} {i}" for i in range(len(parts))]
                state |= {k: part.shape for k, part in zip(names, parts, strict=True)}
        return parameters, state


class Layer(NamedTuple):
    """A layer that is asked of a library, with scale 1 and bias 0."""

    scheme: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    epsilon: float = 1e-5
    groups: int = 1


Makers = Mapping[str, Callable[[], Any]]
"""Scheme -> what makes the layer; what a library does not have is not there."""


def own_makers(layer: Layer) -> Makers:
    wanted: dict[str, Any] = dict(epsilon=layer.epsilon, groups=layer.groups, momentum=MOMENTUM)
    taken = {k: v for k, v in wanted.items() if k in find_norm(layer.scheme).options}
    return {layer.scheme: lambda: build(layer.scheme, **taken).norm(name="norm")}


def flax_makers(layer: Layer, fast: bool = True) -> Makers:
    """`fast`: with the variance as E[x^2] - E[x]^2, which is Flax's default."""
    common: dict[str, Any] = dict(
        epsilon=layer.epsilon, dtype=layer.dtype, use_fast_variance=fast, name="norm"
    )
    whole = tuple(range(1, len(layer.shape)))
    return {
        "batch": lambda: nn.BatchNorm(momentum=MOMENTUM, **common),
        "layer": lambda: nn.LayerNorm(reduction_axes=whole, **common),
        "layer_channels": lambda: nn.LayerNorm(**common),
        "group": lambda: nn.GroupNorm(num_groups=layer.groups, **common),
        "instance": lambda: nn.InstanceNorm(**common),
        "rms": lambda: nn.RMSNorm(**common),
    }


def equinox_makers(layer: Layer) -> Makers:
    lib, channels, eps = importlib.import_module("equinox.nn"), layer.shape[-1], layer.epsilon
    facts: dict[str, Any] = dict(eps=eps, mode="batch", dtype=jnp.dtype(layer.dtype))
    makers = {
        "batch": lambda: lib.BatchNorm(channels, "batch", **facts),
        "layer": lambda: lib.LayerNorm((channels, *layer.shape[1:-1]), eps=eps),
        "group": lambda: lib.GroupNorm(layer.groups, channels, eps=eps),
    }
    if len(layer.shape) == 2:  # these take one example [C]
        makers["layer_channels"] = lambda: lib.LayerNorm(channels, eps=eps)
        makers["rms"] = lambda: lib.RMSNorm(channels, eps=eps)
    return makers


def haiku_makers(layer: Layer) -> Makers:
    hk, eps, whole = importlib.import_module("haiku"), layer.epsilon, range(1, len(layer.shape))
    return {
        "batch": lambda: hk.BatchNorm(True, True, MOMENTUM, eps=eps),
        "layer": lambda: hk.LayerNorm(tuple(whole), True, True, eps=eps, param_axis=-1),
        "layer_channels": lambda: hk.LayerNorm(-1, True, True, eps=eps),
        "group": lambda: hk.GroupNorm(layer.groups, eps=eps),
        "instance": lambda: hk.InstanceNorm(True, True, eps=eps),
        "rms": lambda: hk.RMSNorm(-1, eps=eps),
    }


def torch_makers(layer: Layer) -> Makers:
    lib, channels, eps = importlib.import_module("torch").nn, layer.shape[-1], layer.epsilon
    of_batch = lib.BatchNorm1d if len(layer.shape) == 2 else lib.BatchNorm2d
    return {
        "batch": lambda: of_batch(channels, eps=eps, momentum=1 - MOMENTUM),
        "layer": lambda: lib.LayerNorm((channels, *layer.shape[1:-1]), eps=eps),
        "layer_channels": lambda: lib.LayerNorm(channels, eps=eps),
        "group": lambda: lib.GroupNorm(layer.groups, channels, eps=eps),
        "instance": lambda: lib.InstanceNorm2d(channels, eps=eps, affine=True),
        "rms": lambda: lib.RMSNorm(channels, eps=eps),
    }


def keras_makers(layer: Layer) -> Makers:
    lib, eps = import_keras().layers, layer.epsilon
    return {
        "batch": lambda: lib.BatchNormalization(epsilon=eps, momentum=MOMENTUM),
        "layer": lambda: lib.GroupNormalization(1, epsilon=eps),
        "layer_channels": lambda: lib.LayerNormalization(epsilon=eps),
        "group": lambda: lib.GroupNormalization(layer.groups, epsilon=eps),
        "instance": lambda: lib.GroupNormalization(-1, epsilon=eps),
        "rms": lambda: lib.RMSNormalization(epsilon=eps),
    }


LIBRARIES: dict[str, tuple[str, type[Peer], Callable[[Layer], Makers]]] = {
    OWN: ("normlab", Normlab, own_makers),
    "flax": ("Flax", Flax, flax_makers),
    "flax-2pass": ("Flax, 2 passes", Flax, functools.partial(flax_makers, fast=False)),
    "equinox": ("Equinox", Equinox, equinox_makers),
    "haiku": ("Haiku", Haiku, haiku_makers),
    "torch": ("PyTorch", Torch, torch_makers),
    "keras": ("Keras (jax)", Keras, keras_makers),
}
TITLES = {name: title for name, (title, _, _) in LIBRARIES.items()}


def make_peer(library: str, layer: Layer) -> Any:
    """Return a new layer of a library, None where it has none; raises ValueError where the library
    refuses the layer."""
    _, peer, makers = LIBRARIES[library]
    make = makers(layer).get(layer.scheme)
    return make and peer(make, np.zeros(layer.shape, DTYPES[layer.dtype]))
