"""Every scheme of the table as a Flax NNX module: the Linen layer with its variables as attributes.

    from normlab import norms
    norm = norms.nnx.BatchNorm(16, rngs=rngs)              # the classes have the names of norms.*
    norm = norms.nnx.build("group", groups=8).norm(16, rngs=rngs)
    y = norm(x)

A module runs the Linen layer, so both give the same bits. docs/nnx.md is a guide.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError
from flax.traverse_util import flatten_dict, unflatten_dict

from normlab.layers.factory import Factory, factory
from normlab.norms import builder
from normlab.norms.table import NORMS
from normlab.statistics.moments import Mask


def type_of(collection: str) -> type[nnx.Variable[Any]]:
    """Return the type of the NNX variables of a Linen collection, as Flax's bridge has it."""
    return nnx.variablelib.variable_type_from_name(collection, allow_register=True)


NormState = type_of("norm_state")
"""State that is neither a parameter nor a running statistic: counters of updates."""
NormState.__module__, NormState.__name__ = __name__, "NormState"
NormState.__qualname__ = "NormState"  # so that pickle finds it here


Features = int | tuple[int, ...]


class Layer(nnx.Module):
    """Base of the NNX modules: a Linen layer `linen` whose variables are attributes.

    Parameters are nnx.Param, running statistics nnx.BatchStat, counters NormState. `options` are
    the fields of the Linen class. `num_features` is the number of channels C, or the shape of an
    example, as layer norm needs it with `per_element`. `ndim` is the number of axes of an input: 2
    for vectors [N, C], 4 for images. It matters to switchable and batch-instance norm, which have
    other parameters for vectors.
    """

    scheme: ClassVar[type[nn.Module]]

    def __init__(
        self, num_features: Features, *, rngs: nnx.Rngs, ndim: int = 4, **options: Any
    ) -> None:
        self.num_features, self.ndim = num_features, ndim
        self.linen = self.scheme(**options, parent=None)
        shape: list[int] = [2] * ndim
        if isinstance(num_features, tuple):
            shape = [2, *num_features]
        else:
            shape[options.get("axis", -1) % ndim] = num_features
        x = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
        variables = flatten_dict(self.linen.lazy_init(rngs.params(), x))
        self.paths = tuple(sorted(variables))
        made = {path[1:]: type_of(path[0])(jnp.array(value)) for path, value in variables.items()}
        for name, value in unflatten_dict(made).items():
            setattr(self, name, nnx.data(value))

    def run(self, x: jax.Array, **arguments: Any) -> jax.Array:
        """Return the output of the Linen layer; the attributes take what it has moved."""
        variables = {path: self.variable(path) for path in self.paths}
        before = {path: variable.get_value() for path, variable in variables.items()}
        state = sorted({collection for collection, *_ in self.paths} - {"params"})
        try:
            y, moved = self.linen.apply(unflatten_dict(before), x, mutable=state, **arguments)
        except (ScopeParamShapeError, ScopeParamNotFoundError) as error:
            raise ValueError(
                f"{type(self).__name__}: an input of shape {jnp.shape(x)} needs other parameters "
                f"than num_features={self.num_features}, ndim={self.ndim} made; pass those of the "
                "inputs at construction"
            ) from error
        for path, value in flatten_dict(moved).items():
            if value is not before[path]:  # evaluation writes nothing
                variables[path][...] = jax.lax.stop_gradient(value)  # as references need it
        return y

    def variable(self, path: tuple[str, ...]) -> nnx.Variable[Any]:
        """Return the variable of a path (collection, name, ...)."""
        return functools.reduce(lambda held, key: held[key], path[2:], getattr(self, path[1]))


class Norm(Layer):
    """Base of the norms: y = norm(x), in training mode until `model.eval()`.

    `model.train()`, `model.eval()` and `nnx.view(model, use_running_average=...)` set the attribute
    `use_running_average`. A call may override it by that name, or by its opposite, `train`.
    Training moves the running statistics in place, evaluation writes nothing. Further arguments of
    a call go to the Linen layer.
    Raises ValueError where the Linen layer does, for `train` equal to `use_running_average`, and
    for inputs that need other parameters.
    """

    def __init__(
        self,
        num_features: Features,
        *,
        rngs: nnx.Rngs,
        use_running_average: bool = False,
        ndim: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(num_features, rngs=rngs, ndim=ndim, **options)
        self.use_running_average = use_running_average

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool | None = None,
        use_running_average: bool | None = None,
        mask: Mask = None,
        **arguments: Any,
    ) -> jax.Array:
        name = type(self).__name__
        if train is None:
            given = use_running_average
            train = not (self.use_running_average if given is None else given)
        elif train is use_running_average:
            raise ValueError(f"{name}: train and use_running_average are both {train}; pass one")
        return self.run(x, train=train, mask=mask, **arguments)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Set the mode of a view that `nnx.view` makes."""
        if use_running_average is not None:
            self.use_running_average = use_running_average


class Activation(Layer):
    """Base of activations that have parameters: y = act(x)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.run(x)


@dataclass(frozen=True)
class Layers:
    """What a network asks for: norm(num_features, rngs=rngs) and act(num_features, rngs=rngs)."""

    norm: Factory
    act: Factory


def plain_act(
    num_features: Features, *, rngs: nnx.Rngs, act: Any
) -> Callable[[jax.Array], jax.Array]:
    """Return the function `act`, or that of jax.nn with this name, in the place of a module."""
    return builder.plain_act(act, "")


def build(
    name: str,
    *,
    act: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    preset: str = "",
    **options: Any,
) -> Layers:
    """Return the norm of the scheme `name` and the activation after it, as `norms.build` does.

    `act` is used unless the scheme has its own activation.
    Raises ValueError where `norms.build` does, and for `kernel`, `kernel_start`, `noise`,
    `branches` and `conv_form`, which concern layers that exist in Linen only.

    >>> layers = build("group", groups=2)
    >>> layers.norm(4, rngs=nnx.Rngs(0)).scale.shape
    (4,)
    """
    for option in ("kernel", "kernel_start", "noise", "branches", "conv_form"):
        if option in options:
            raise ValueError(
                f"norms.nnx.build takes no option {option!r}; only the Linen layers of norms.build "
                "have it"
            )
    built: Any = builder.build(name, act=act, preset=preset, **options)
    norm = factory(class_of(built.norm.make), **dict(built.norm.arguments))
    make = plain_act if built.act.make is builder.plain_act else class_of(built.act.make)
    return Layers(norm, factory(make, **dict(built.act.arguments)))


@functools.cache
def class_of(scheme: type[nn.Module]) -> Callable[..., Any]:
    """Return the NNX class on a Linen class."""
    is_norm = "train" in inspect.signature(scheme.__call__).parameters
    name, doc = scheme.__name__, inspect.getdoc(scheme)
    fields = {
        "scheme": scheme,
        "__module__": __name__,
        "__doc__": f"NNX module of {name}.\n\n{doc}",
    }
    return type(name, (Norm if is_norm else Activation,), fields)


def __getattr__(name: str) -> Any:
    for row in NORMS.values():
        for place in (row.module, row.act):
            if name in (str(place).rpartition(":")[2], getattr(place, "__name__", "")):
                return class_of(builder.module_of(place))  # type: ignore[arg-type]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def to_linen(model: nnx.Module) -> dict[str, Any]:
    """Return the variables of an NNX model as Linen has them, {"params": {...}, ...}.

    Streams of random numbers are left out.
    """
    name_of = functools.partial(nnx.variablelib.variable_name_from_type, allow_register=True)
    flat = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    leaves: Any = {(name_of(type(leaf)), *path): leaf.get_value() for path, leaf in flat}
    return unflatten_dict(leaves)


def from_linen(model: nnx.Module, variables: Mapping[str, Any]) -> None:
    """Set the variables of an NNX model to those of a Linen model whose layers have the same names.

    Raises ValueError, and sets nothing, where one has a variable that the other lacks, or with
    another shape.
    """
    given: Any = flatten_dict(dict(variables))
    own: Any = flatten_dict(to_linen(model))
    for path in sorted(given.keys() | own.keys()):
        shapes = [jnp.shape(v[path]) if path in v else None for v in (given, own)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{'/'.join(map(str, path))} has shape {shapes[0]} in the Linen variables and "
                f"{shapes[1]} in the NNX model; None: it is missing there"
            )
    nnx.update(model, nnx.State(unflatten_dict({path[1:]: v for path, v in given.items()})))
