"""What an external network does with its layers, found by a trace with abstract values.

A network may be any Linen module. A comparison is fair only if its norms come from `layers` and see
the padding mask. Their state must be where the training loop looks for it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from normlab.layers.linear import Conv, Dense
from normlab.models.activations import ACTIVATIONS
from normlab.models.build import activation, make_network
from normlab.models.row import Shape
from normlab.models.table import MODELS
from normlab.norms.builder import Layers
from normlab.settings import Config

EXAMPLES, CLASSES = 4, 7
COLLECTIONS = ("params", "batch_stats", "norm_state")
OF_TIME = ("norm.name", "norm.time", "norm.masked", "norm.least")
"""Settings that networks with time look at."""


class Trace(NamedTuple):
    shapes: tuple[Shape, ...]
    """(H, W, C) of what each norm receives, in the order of calls."""
    has_act: bool
    """Whether it calls `layers.act`."""
    has_head: bool
    has_own_kernels: bool
    """Whether a kernel is not that of a `layers.conv`, `layers.dense` or `layers.head`."""


Call = tuple[tuple[str, ...], tuple[int, ...], bool]
"""Of a norm: its path, the shape of x, whether there was a mask."""


class Witness(nn.Module):
    """In the place of a norm: y = x."""

    @nn.compact
    def __call__(self, x: jax.Array, train: Any = None, mask: jax.Array | None = None) -> jax.Array:
        return x


class Seen:
    """What was called."""

    def __init__(self, has_time: bool):
        self.has_time = has_time
        self.norms: dict[bool, list[Call]] = {True: [], False: []}
        """Of training and evaluation."""
        self.is_training = True
        self.products = set[tuple[str, ...]]()
        self.has_act = False

    def listen(self, call, args, kwargs, context) -> Any:
        module = context.module
        if context.method_name == "__call__" and not module.is_initializing():
            if module.__class__ is Witness:
                mask = kwargs.get("mask", args[2] if len(args) > 2 else None)
                self.norms[self.is_training].append((module.path, args[0].shape, mask is not None))
            elif module.__class__ in (Conv, Dense):
                self.products.add(module.path)
        return call(*args, **kwargs)

    def calls(self, is_training: bool) -> list[Call]:
        """Return the calls; with time each norm once, since a loop over steps is traced twice."""
        found = self.norms[is_training]
        return list({call[0]: call for call in found}.values()) if self.has_time else found

    def layers(self, config: Config) -> Layers:
        """Layers of no scheme, whose calls are counted."""

        def act(name: str | None = None) -> Any:
            self.has_act = True
            return ACTIVATIONS[activation(config)][0]

        return Layers(conv=Conv, dense=Dense, head=Dense, norm=Witness, act=act)


def traced(name: str, config: Config, image: Shape) -> Trace:
    """Return what the network `name` does on examples of the shape `image`; raises ValueError."""
    decisive = ("model.", "init.kernel") + (OF_TIME if MODELS[name].has_time else ())
    options = tuple((n, v) for n, v in config.items() if n.startswith(decisive))
    return _traced(name, getattr(MODELS[name], "sha256", ""), options, image)


@cache
def _traced(name: str, sha256: str, options: tuple[tuple[str, Any], ...], image: Shape) -> Trace:
    del sha256  # another file, another network
    row, config = MODELS[name], dict(options)
    seen = Seen(row.has_time)
    shape = image if row.is_convolutional else (math.prod(image),)
    shape = (image[0], math.prod(image[1:])) if row.has_time else shape
    where = f"model {name!r} of {getattr(row, 'file', '')!r}"
    key, mask = jax.random.key(0), jnp.ones(EXAMPLES, bool)

    def run(x: jax.Array) -> tuple[Any, ...]:
        net = make_network(config, CLASSES, seen.layers(config))
        variables = net.init(key, x, train=True)
        with nn.intercept_methods(seen.listen):
            mutable, rngs = COLLECTIONS[1:], {"noise": key}
            logits, _ = net.apply(variables, x, train=True, mutable=mutable, rngs=rngs)
            seen.is_training = False
            again: Any = net.apply(variables, x, train=False, mask=mask)
        return logits, again, variables

    try:
        x = jax.ShapeDtypeStruct((EXAMPLES, *shape), jnp.float32)
        *logits, variables = jax.eval_shape(run, x)
    except Exception as error:  # an external file: anything can be wrong
        told = f"{error.__class__.__name__}: {error}".splitlines()[0]
        raise ValueError(f"{where} cannot be run on examples {shape} ({told})") from error
    is_masked = row.has_time and row.fields(config)["is_masked"]
    if wrong := _problem(seen, [tuple(leaf.shape) for leaf in logits], variables, is_masked):
        raise ValueError(f"{where} {wrong}")
    if row.has_time and (wrong := _problem_of_time(seen)):
        raise ValueError(f"{where} {wrong}")
    kernels = {path[:-1] for path in flatten_dict(variables["params"]) if path[-1] == "kernel"}
    return Trace(
        shapes=tuple(_space(shape) for _, shape, _ in seen.calls(True)),
        has_act=seen.has_act,
        has_head="head" in variables["params"],
        has_own_kernels=not kernels <= seen.products,
    )


def _problem(seen: Seen, logits: list[tuple[int, ...]], variables: Any, is_masked: bool) -> str:
    """Return what is wrong with a network that can be run, "" for nothing. `is_masked`: norms get a
    mask in training too."""
    for shape in logits:
        if shape != (EXAMPLES, CLASSES):
            return f"returns {shape} for {EXAMPLES} examples and {CLASSES} classes; return logits"
    training, evaluation = seen.calls(True), seen.calls(False)
    if not training:
        return "calls no layers.norm, so all norms would be the same; call it"
    if [path for path, *_ in training] != [path for path, *_ in evaluation]:
        return "has other norms in evaluation than in training; call the same ones"
    for path, _, has_mask in evaluation + (training if is_masked else []):
        name = "/".join(path)
        if not any(part.startswith("norm_") for part in path):
            return f"has a norm named {name!r}; diagnostics look for norm_...: give it such a name"
        if not has_mask:
            return (
                f"does not hand mask to {name!r}, so that padding would count: call it with "
                "mask=mask of the shape [N, 1, ...]"
            )
    for collection in variables:
        if collection not in COLLECTIONS:
            return f"keeps state in {collection!r}, which is lost; use batch_stats or norm_state"
    return ""


def _problem_of_time(seen: Seen) -> str:
    """Return what is wrong with the norms of a network with time, "" for nothing."""
    for path, shape, _ in seen.calls(True):
        if len(shape) != 2:
            return (
                f"calls {'/'.join(path)!r} with {shape}, whose steps the norm would take for "
                "height or width; use normlab.models.time.TimeNorm"
            )
    return ""


def _space(shape: tuple[int, ...]) -> Shape:
    """(H, W, C) of x [N, ..., C]."""
    *space, channels = shape[1:]
    return math.prod(space[:-1]), space[-1] if space else 1, channels
