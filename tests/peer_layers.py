"""Normalization layers of other libraries behind one call, so that one test measures them all.

Inputs are [N, H, W, C] for everyone; each class brings them into its library's form.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Shapes = dict[str, tuple[int, ...]]


class Layer:
    """One layer and its state: layer(x, train) -> y; `train` None leaves the switch out."""

    switch = ""
    """The argument that tells training from evaluation."""

    def __init__(self, make: Callable[[], Any], x: np.ndarray):
        del x
        self.layer = make()

    def __call__(self, x: np.ndarray, train: bool | None = True) -> np.ndarray:
        raise NotImplementedError

    def parameters(self) -> Shapes:
        raise NotImplementedError

    def state(self) -> Shapes:
        raise NotImplementedError

    has_mask = False

    def masked(self, x: jax.Array, mask: np.ndarray) -> jax.Array:
        """Return y in training with a mask [N, H, W, 1]; inside `jax.grad` no state moves."""
        raise NotImplementedError


def takes(function: Any, argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def shapes_of(tree: Any) -> Shapes:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {str(path[-1].key): np.shape(value) for path, value in paths}


@partial(jax.jit, static_argnums=(0, 1))
def linen(layer, flags: tuple, variables, x, mask=None):
    """Return y and the variables it leaves; where `variables` is None, those of `init`."""
    if variables is None:
        return None, layer.init(jax.random.key(0), x, **dict(flags))
    return layer.apply(
        variables, x, mask=mask, mutable=["batch_stats", "norm_state"], **dict(flags)
    )


class Flax(Layer):
    switch = "use_running_average"
    has_mask = True

    def __init__(self, make, x):
        self.layer = make()
        self.has_switch = takes(type(self.layer).__call__, self.switch)
        self.variables = dict(linen(self.layer, self.flags(True), None, x)[1])

    def flags(self, train: bool | None) -> tuple:
        return () if train is None or not self.has_switch else ((self.switch, not train),)

    def __call__(self, x, train: bool | None = True):
        return np.asarray(self.run(x, train))

    def run(self, x, train: bool | None, mask=None) -> Any:
        y, moved = linen(self.layer, self.flags(train), self.variables, x, mask)
        if not isinstance(y, Tracer):
            self.variables |= moved
        return y

    def parameters(self):
        return shapes_of(self.variables.get("params", {}))

    def state(self):
        return shapes_of({k: v for k, v in self.variables.items() if k != "params"})

    def masked(self, x, mask):
        return self.run(x, True, mask)


class Normlab(Flax):
    switch = "train"

    def flags(self, train):
        return () if train is None else ((self.switch, train),)


class Torch(Layer):
    switch = "train() / eval()"

    def __call__(self, x, train=True):
        second = not hasattr(self.layer, "normalized_shape")  # else it sees the last axes
        if train is not None:
            self.layer.train(train)
        if x.dtype == np.float16:
            self.layer.half()
        given = importlib.import_module("torch").tensor(np.moveaxis(x, -1, 1) if second else x)
        y = self.layer(given).detach().numpy()
        return np.moveaxis(y, 1, -1) if second else y

    def parameters(self):
        return {k: tuple(v.shape) for k, v in self.layer.named_parameters()}

    def state(self):
        return {k: tuple(v.shape) for k, v in self.layer.named_buffers()}


class Keras(Layer):
    switch = "training"

    def __init__(self, make, x):
        if x.dtype == np.float16:  # else the layer gets its input in float32
            keras = importlib.import_module("keras")
            before = keras.config.dtype_policy()
            keras.config.set_dtype_policy("mixed_float16")
            self.layer = make()
            keras.config.set_dtype_policy(before)
        else:
            self.layer = make()
        self.layer.build(x.shape)
        self.has_mask = takes(self.layer.call, "mask")

    def __call__(self, x, train=True):
        has_switch = train is not None and takes(self.layer.call, self.switch)
        return np.asarray(self.layer(x, **({self.switch: train} if has_switch else {})))

    def parameters(self):
        return {v.name: tuple(v.shape) for v in self.layer.trainable_variables}

    def state(self):
        return {v.name: tuple(v.shape) for v in self.layer.non_trainable_variables}

    def masked(self, x, mask):
        moving = self.layer.non_trainable_variables
        weights = [v.value for v in self.layer.trainable_variables]
        y, moved = self.layer.stateless_call(
            weights, [v.value for v in moving], x, training=True, mask=mask[..., 0]
        )
        if not isinstance(y, Tracer):
            for variable, value in zip(moving, moved, strict=True):
                variable.assign(value)
        return y


class Haiku(Layer):
    switch = "is_training"

    def __init__(self, make, x):
        def run(x, train):
            layer = make()
            has_switch = train is not None and takes(layer.__call__, self.switch)
            return layer(x, **({self.switch: train} if has_switch else {}))

        self.function = importlib.import_module("haiku").transform_with_state(run)
        self.weights, self.moving = self.function.init(jax.random.key(0), x, True)

    def __call__(self, x, train=True):
        y, self.moving = self.function.apply(self.weights, self.moving, None, x, train)
        return np.asarray(y)

    def parameters(self):
        return shapes_of(self.weights)

    def state(self):
        return {
            f"{name.split('/')[-1]} {leaf}": value.shape
            for name, leaves in self.moving.items()
            for leaf, value in leaves.items()
        }


class Equinox(Layer):
    switch = "inference"

    def __init__(self, make, x):
        self.layer = make()
        self.moving = importlib.import_module("equinox").nn.State(self.layer)

    def __call__(self, x, train=True):
        x = np.moveaxis(x, -1, 1)
        if not hasattr(self.layer, "axis_name"):
            return np.moveaxis(np.asarray(jax.vmap(self.layer)(x)), 1, -1)
        flags = {} if train is None else {self.switch: not train}
        run = jax.vmap(
            lambda x, state: self.layer(x, state, **flags),
            axis_name=self.layer.axis_name,
            in_axes=(0, None),
            out_axes=(0, None),
        )
        y, self.moving = run(jnp.asarray(x), self.moving)
        return np.moveaxis(np.asarray(y), 1, -1)

    def parameters(self):
        found = {name: getattr(self.layer, name) for name in ("weight", "bias")}
        return {name: value.shape for name, value in found.items() if value is not None}

    def state(self):
        index = importlib.import_module("equinox").nn.StateIndex
        found = {k: v for k, v in vars(self.layer).items() if isinstance(v, index)}
        return {
            k if len(parts) == 1 else f"{k} {i}": part.shape
            for k, v in found.items()
            for parts in [jax.tree.leaves(self.moving.get(v))]
            for i, part in enumerate(parts)
        }


LIBRARIES: dict[str, type[Layer]] = {
    "flax": Flax,
    "torch": Torch,
    "keras": Keras,
    "haiku": Haiku,
    "equinox": Equinox,
    "norms": Normlab,
}
"""First word of an expression such as `torch.nn.BatchNorm2d(C)` -> whose layer it makes."""


def names_for(call: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What the expression `call` may speak of: its library and H, W, C."""
    root = call.split(".")[0]
    if root == "flax":
        importlib.import_module("flax.linen")
    module = importlib.import_module("normlab.norms" if root == "norms" else root)
    return {root: module, **dict(zip("HWC", shape[1:], strict=True))}


def make_layer(call: str, x: np.ndarray, **arguments: Any) -> Layer:
    """Return the layer that the expression `call` makes for x [N, H, W, C], with `arguments` in
    place of those it has."""
    tree = ast.parse(call, mode="eval")
    assert isinstance(tree.body, ast.Call), call
    kept = [keyword for keyword in tree.body.keywords if keyword.arg not in arguments]
    added = [ast.keyword(name, ast.Constant(value)) for name, value in arguments.items()]
    tree.body.keywords = kept + added
    code = compile(ast.fix_missing_locations(tree), call, "eval")
    names = names_for(call, x.shape)
    return LIBRARIES[call.split(".")[0]](lambda: eval(code, names), x)
